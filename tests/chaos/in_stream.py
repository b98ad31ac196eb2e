"""Faults after the first content, and answers that are odd but whole: the client gets the truth and pays for what came.

Unstreamed, nothing was delivered yet: the same fault is one before the first content, and another backend answers.
"""

import json
from typing import Any

from gateway.domain.ledger import LedgerEntry, Outcome
from gateway.domain.usage import UsageSource
from tests.backends.openai_backend import JSON, chat_chunk, chat_reply, event
from tests.backends.scripted import End, Script
from tests.chaos.answers import Answer
from tests.chaos.before_content import MARGIN_S, now
from tests.chaos.catalogue import Catalogue
from tests.chaos.rig import Rig, counter, rig
from tests.chaos.ways import (
    DONE,
    FINISH,
    HEALTHY,
    MOST_TOKENS,
    PING,
    STREAMED,
    WHOLE,
    Way,
    content,
    error_event,
    finish,
    piece,
    pieces,
    streamed,
    usage_event,
    whole_stream,
)
from tests.running.configuration import charge

CATALOGUE = Catalogue()
row = CATALOGUE.row

COUNT = 12
"""Pieces of an answer that would have been whole."""
CUTS: dict[str, dict[str, Any]] = {
    f"{end} after {k} of {COUNT}": {"k": k, "end": end} for end in ("fin", "rst") for k in (1, 2, 10, COUNT - 1)
}


def assert_counted(lost: LedgerEntry, way: Way, texts: list[str]) -> None:
    """Assert that the row charges the prompt and the delivered text by our count."""
    assert lost.usage.source is UsageSource.COUNTED
    assert lost.usage.input_tokens > 0
    if way is Way.TOOLS:
        assert lost.usage.output_tokens > 0  # the call's JSON, of which the arguments are a part
    else:
        assert lost.usage.output_tokens == counter().count("".join(texts))
    assert lost.charge_nano_usd == lost.cost_nano_usd
    assert lost.charge_nano_usd == charge(lost.usage.input_tokens, lost.usage.output_tokens)


async def broken_off(house: Rig, way: Way, texts: list[str], *, code: str = "upstream_interrupted") -> LedgerEntry:
    """Ask; assert that these texts came, then the truth, and that nobody else was asked. The row."""
    answer = await house.ask(way)
    answer.assert_broken_off("".join(texts), code=code)
    assert house.second.requests == []
    (lost,) = house.rows_of(answer)
    assert lost.outcome is Outcome.INTERRUPTED
    return lost


async def delivered(house: Rig, way: Way, **more: Any) -> tuple[Answer, LedgerEntry]:
    """Ask; assert that the first backend's answer was taken for whole. The answer and its row."""
    answer = await house.ask(way, **more)
    assert (answer.status, answer.error, answer.done) == (200, None, way is not Way.WHOLE), answer.raw[-300:]
    assert house.second.requests == []
    (whole,) = house.rows_of(answer)
    assert whole.outcome is Outcome.OK
    return answer, whole


@row("F11", "cut by", ways=STREAMED, variants=CUTS)
@row("F17", "cut inside a tool call's arguments by", ways=(Way.TOOLS,), variants=CUTS)
async def cut(way: Way, k: int, end: End) -> None:
    """The pieces, the error event, no end; the prompt and the pieces are paid, the rest is given back."""
    texts = pieces(way, COUNT)[:k]
    async with rig() as house:
        house.first.script(streamed(*content(way, texts), end=end))
        assert_counted(await broken_off(house, way, texts), way, texts)


@row("F11", "cut in the body by", ways=WHOLE, variants={"fin": {"end": "fin"}, "rst": {"end": "rst"}})
async def cut_whole(way: Way, end: End) -> None:
    """Nothing was delivered, so another backend answers; the first may bill the prompt."""
    async with rig() as house:
        house.first.script(Script(headers=[JSON], steps=[(0, b'{"choices":[{"message"')], length=500, end=end))
        lost = house.failed_over(await house.ask(way), way)
        assert lost.usage.source is UsageSource.ESTIMATED
        assert lost.cost_nano_usd > 0


@row("F12", "stall after", ways=STREAMED, variants={str(k): {"k": k} for k in (1, 10)})
async def stalled(way: Way, k: int) -> str:
    """Silence for longer than `idle`; the backend is closed."""
    texts = pieces(way, COUNT)[:k]
    async with rig(timeouts={"idle": 0.4}) as house:
        house.first.script(streamed(*content(way, texts), end="hang"))
        began = now()
        assert_counted(await broken_off(house, way, texts, code="upstream_timeout"), way, texts)
        took = now() - began
        assert 0.4 <= took < 0.4 + MARGIN_S
    return f"{took * 1000:.0f} ms of 400"


@row("F12", "pings without content after 2", ways=STREAMED)
async def pings_only(way: Way) -> str:
    """Pings are signs of life, but no progress."""
    texts = pieces(way, COUNT)[:2]
    async with rig(timeouts={"progress": 0.6}) as house:
        steps = [(0.0, data) for data in content(way, texts)] + [(0.05, PING)] * 100
        house.first.script(Script(headers=streamed().headers, steps=steps, framing="chunked", end="hang"))
        began = now()
        assert_counted(await broken_off(house, way, texts, code="upstream_timeout"), way, texts)
        took = now() - began
        assert 0.6 <= took < 0.6 + MARGIN_S
    return f"{took * 1000:.0f} ms of 600"


GARBAGE = b"data: {garbage\n\n"
NOT_UTF8 = b"data: \xff\xfe\n\n"
HALF = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"lo\n\n'


@row("F13", "one event:", ways=STREAMED, variants={"garbage": {"bad": GARBAGE}, "invalid UTF-8": {"bad": NOT_UTF8}})
async def one_bad_event(way: Way, bad: bytes) -> None:
    """One event that says nothing is skipped."""
    texts = pieces(way, COUNT)
    events = content(way, texts)
    async with rig() as house:
        house.first.script(streamed(*events[:5], bad, *events[5:], finish(way), usage_event(), DONE))
        answer, whole = await delivered(house, way)
        assert answer.content == "".join(texts)
        assert b"garbage" not in answer.raw
        assert whole.charge_nano_usd == charge(9, 2)


BAD_EVENTS = {"two garbage": {"bad": [GARBAGE, NOT_UTF8]}, "half a piece of content": {"bad": [HALF]}}


@row("F13", "events:", ways=STREAMED, variants=BAD_EVENTS)
async def bad_events(way: Way, bad: list[bytes]) -> None:
    """Content is never dropped in silence."""
    texts = pieces(way, COUNT)
    events = content(way, texts)
    async with rig() as house:
        house.first.script(streamed(*events[:5], *bad, *events[5:], finish(way), DONE))
        assert_counted(await broken_off(house, way, texts[:4]), way, texts[:4])


OVERLOADED = error_event("sk-canary-secret busy", "overloaded_error", kind=b"error")


@row("F14", "error event after content", ways=STREAMED)
async def error_after_content(way: Way) -> None:
    """The event is ours, not the backend's."""
    texts = pieces(way, COUNT)[:3]
    async with rig() as house:
        house.first.script(streamed(*content(way, texts), OVERLOADED, finish(way), DONE))
        assert_counted(await broken_off(house, way, texts), way, texts)


WITH_USAGE = error_event("busy", "overloaded_error", usage={"prompt_tokens": 9, "completion_tokens": 5})


@row("F14", "error event that carries usage", ways=STREAMED)
async def error_with_usage(way: Way) -> None:
    """The backend's own count is the better one."""
    texts = pieces(way, COUNT)[:3]
    async with rig() as house:
        house.first.script(streamed(*content(way, texts), WITH_USAGE))
        lost = await broken_off(house, way, texts)
        assert lost.usage.source is UsageSource.PROVIDER
        assert lost.charge_nano_usd == charge(9, 5)


@row(
    "F15", "clean end without finish_reason", ways=STREAMED, variants={"": {"last": []}, "but [DONE]": {"last": [DONE]}}
)
async def no_finish_reason(way: Way, last: list[bytes]) -> None:
    """To the official client it would look like success."""
    texts = pieces(way, 3)
    async with rig() as house:
        house.first.script(streamed(*content(way, texts), *last))
        assert_counted(await broken_off(house, way, texts), way, texts)


@row("F15", "no finish_reason from a server known to send none", ways=STREAMED)
async def needs_no_finish_reason(way: Way) -> None:
    """Then `[DONE]` is its end."""
    texts = pieces(way, 3)
    async with rig(quirks={"requires_finish_reason": False}) as house:
        house.first.script(streamed(*content(way, texts), usage_event(), DONE))
        answer, _ = await delivered(house, way)
        assert (answer.content, answer.finish_reasons) == ("".join(texts), ())


ENDINGS: dict[str, dict[str, Any]] = {
    "then nothing more": {"end": "keep"},
    "then closed": {"end": "fin"},
    "then reset": {"end": "rst"},
    "then silence": {"end": "hang"},
}


@row("F15", "finish_reason without [DONE],", ways=STREAMED, variants=ENDINGS)
async def no_done(way: Way, end: End) -> None:
    """The answer is whole, and we say so."""
    texts = pieces(way, 3)
    async with rig(timeouts={"idle": 0.4}) as house:
        house.first.script(streamed(*content(way, texts), finish(way), usage_event(), end=end))
        answer, whole = await delivered(house, way)
        assert (answer.content, answer.finish_reasons) == ("".join(texts), (FINISH[way],))
        assert whole.charge_nano_usd == charge(9, 2)


@row("F16", "the same chunk twice", ways=STREAMED)
async def repeated(way: Way) -> None:
    """It cannot be told from a real repeat: passed on."""
    texts = pieces(way, 3)
    twice = [texts[0], texts[1], texts[1], texts[2]]
    async with rig() as house:
        house.first.script(whole_stream(way, twice))
        answer, _ = await delivered(house, way)
        assert answer.content == "".join(twice)


@row("F16", "two finish_reasons", ways=STREAMED)
async def finished_twice(way: Way) -> None:
    """The client sees one."""
    texts = pieces(way, 3)
    async with rig() as house:
        house.first.script(streamed(*content(way, texts), finish(way), finish(way), usage_event(), DONE))
        answer, _ = await delivered(house, way)
        assert answer.finish_reasons == (FINISH[way],)


@row("F16", "data after [DONE]", ways=STREAMED)
async def data_after_done(way: Way) -> None:
    """It is no part of the answer."""
    texts = pieces(way, 3)
    late = [piece(way, 1, "canary"), usage_event((900, 900)), GARBAGE]
    async with rig() as house:
        house.first.script(streamed(*content(way, texts), finish(way), usage_event(), DONE, *late))
        answer, whole = await delivered(house, way)
        assert answer.content == "".join(texts)
        assert whole.charge_nano_usd == charge(9, 2)


@row("F16", "tool calls out of order", ways=(Way.TOOLS,))
async def out_of_order(way: Way) -> None:
    """The index says where a piece belongs, not its place."""
    calls = [chat_chunk({"tool_calls": [{"index": index, "function": {"arguments": "{}"}}]}) for index in (1, 0, 1)]
    async with rig() as house:
        house.first.script(streamed(*content(way, []), *calls, finish(way), usage_event(), DONE))
        answer, _ = await delivered(house, way)
        told = [
            json.loads(line[6:]) for line in answer.raw.split(b"\n\n") if b"tool_calls" in line and b"index" in line
        ]
        indices = [call["index"] for one in told for call in one["choices"][0]["delta"].get("tool_calls", ())]
        assert indices == [1, 0, 1]


@row("F18", "a line of 2 MiB after content", ways=STREAMED)
async def long_line(way: Way) -> None:
    """No buffer grows beyond 1 MiB for it."""
    texts = pieces(way, 3)
    async with rig() as house:
        house.first.script(streamed(*content(way, texts), b"data: " + b"x" * (2 << 20), end="hang"))
        assert_counted(await broken_off(house, way, texts), way, texts)


@row("F18", "one byte at a time")
async def byte_by_byte(way: Way) -> None:
    """Slow to read, and whole."""
    script = chat_reply("Hello there") if way is Way.WHOLE else whole_stream(way, HEALTHY[way])
    single = [(0.0, bytes([byte])) for _, data in script.steps for byte in data]
    async with rig() as house:
        house.first.script(Script(headers=script.headers, steps=single, framing="chunked"))
        answer, whole = await delivered(house, way)
        answer.assert_healthy(way)
        assert whole.charge_nano_usd == charge(9, 2)


@row("F18", "2000 pieces in one read", ways=STREAMED)
async def many_at_once(way: Way) -> None:
    """None is lost."""
    texts = pieces(way, 2000)
    async with rig() as house:
        house.first.script(streamed(b"".join([*content(way, texts), finish(way), usage_event(), DONE])))
        answer, _ = await delivered(house, way, max_tokens=8000)
        assert answer.content == "".join(texts)


@row("F18", "an answer without an end", ways=STREAMED)
async def endless(way: Way) -> None:
    """Cut a little past `max_tokens`, told as `length`; the backend is closed, what it would have sent is not paid."""
    async with rig() as house:
        house.first.script(streamed(b"".join(content(way, pieces(way, 2000))), end="hang"))
        answer, whole = await delivered(house, way, max_tokens=100)
        assert b'"finish_reason":"length"' in answer.raw
        assert whole.usage.source is UsageSource.COUNTED
        await house.first.wait_closed(1)


def _reported(prompt: Any, completion: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion}


USAGES: dict[str, dict[str, Any]] = {
    "missing": {"usage": None, "source": UsageSource.COUNTED},
    "zero": {"usage": _reported(0, 0), "source": UsageSource.PROVIDER, "tokens": (0, 0)},
    "negative": {"usage": _reported(-9, -2), "source": UsageSource.COUNTED},
    "words": {"usage": _reported("nine", "two"), "source": UsageSource.COUNTED},
    "beyond all measure": {"usage": _reported(10**12, 2), "source": UsageSource.COUNTED},
    "ten times what was allowed": {"usage": _reported(9, 10 * MOST_TOKENS), "source": UsageSource.SUSPECT},
    "a prompt of a hundred times": {"usage": _reported(9_000, 2), "source": UsageSource.SUSPECT},
    "half of ours": {"usage": _reported(4, 2), "source": UsageSource.PROVIDER, "tokens": (4, 2)},
}


@row("F25", "usage:", variants=USAGES)
async def odd_usage(way: Way, usage: Any, source: UsageSource, tokens: tuple[int, int] | None = None) -> None:
    """The answer is delivered as it is; the charge is the report's, or ours where it cannot be one."""
    more = {} if usage is None else {"usage": usage}
    if way is Way.WHOLE:
        reply = chat_reply("Hello there", usage=None)
        ((delay_s, body),) = reply.steps
        script = Script(headers=reply.headers, steps=[(delay_s, json.dumps(json.loads(body) | more).encode())])
    else:
        report = [] if usage is None else [event({"id": "x", "object": "chat.completion.chunk", "choices": [], **more})]
        script = streamed(*content(way, HEALTHY[way]), finish(way), *report, DONE)
    async with rig() as house:
        house.first.script(script)
        answer, whole = await delivered(house, way)
        answer.assert_healthy(way)
        assert whole.usage.source is source
        if tokens is None:
            assert 0 < whole.usage.output_tokens < 100
            assert 0 < whole.charge_nano_usd < charge(500, 100)
        else:
            assert whole.charge_nano_usd == charge(*tokens)


@row(
    "F25",
    "usage twice",
    ways=STREAMED,
    variants={"growing": {"first": 2, "then": 5}, "shrinking": {"first": 5, "then": 2}},
)
async def usage_twice(way: Way, first: int, then: int) -> None:
    """What was used does not become less."""
    async with rig() as house:
        reports = [usage_event((9, first)), usage_event((9, then))]
        house.first.script(streamed(*content(way, HEALTHY[way]), finish(way), *reports, DONE))
        answer, whole = await delivered(house, way)
        answer.assert_healthy(way)
        assert whole.charge_nano_usd == charge(9, 5)
