"""What becomes of a stream once content was delivered: it is one backend's, and it ends honestly."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from gateway.dialects.openai import COMPLETIONS
from gateway.domain.fault import FaultKind
from gateway.domain.ledger import Outcome
from gateway.domain.usage import UsageSource
from tests.pipeline.driver import Play, World, configured
from tests.pipeline.wire import (
    DONE,
    GARBAGE,
    PING,
    ROLE,
    ask,
    chunk,
    error_event,
    event,
    finish,
    usage_chunk,
)

PROMPT = 9
TOOL = event({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}}]})
WHOLE = [ROLE, chunk("Hello"), chunk(" world"), finish(), usage_chunk(), DONE]


def test_nothing_is_sent_before_content_and_everything_with_it() -> None:
    """Roles and Azure's empty frame wait for the first content; pings are for us alone until then."""
    play = Play().head().data(PING, ROLE)
    assert (play.status, play.body) == (None, b"")
    play.data(chunk("Hello"))
    assert (play.status, play.body) == (200, ROLE + chunk("Hello"))
    play.data(PING)
    assert play.body.endswith(PING)


def test_what_a_failed_backend_held_back_never_comes() -> None:
    """I12: not even its role; the answer is the second backend's alone."""
    play = Play().head().data(ROLE, error_event()).head().data(*WHOLE)
    assert play.body == b"".join([*WHOLE[:4], DONE])


@pytest.mark.parametrize("wants", [True, False])
def test_the_usage_chunk_is_shown_to_those_who_asked(wants: bool) -> None:
    """It is asked for in every case, for the bill."""
    play = Play(body=ask(stream_options={"include_usage": True} if wants else None)).head().data(*WHOLE)
    assert b'"include_usage":true' in play.dispatched[0].request.body.replace(b" ", b"")
    assert (usage_chunk() in play.body) == wants
    assert play.rows[0].usage.total_tokens == 14


@pytest.mark.parametrize("separate", [True, False])
def test_usage_in_its_own_chunk_or_beside_the_last_choice_is_the_same_bill(separate: bool) -> None:
    """DeepSeek, Mistral and Groq report beside the last choice."""
    beside = event({"choices": [{"index": 0, "finish_reason": "stop"}], "usage": {"prompt_tokens": 10, "completion_tokens": 4}})  # fmt: skip  # noqa: E501
    play = Play().head().data(chunk("Hi"), *([finish(), usage_chunk()] if separate else [beside]), DONE)
    assert [(row.charge_nano_usd, row.usage.source) for row in play.rows] == [(18_000, UsageSource.PROVIDER)]
    assert play.body.count(b"usage") == (0 if separate else 1)


def test_of_several_reports_the_largest_counts() -> None:
    """VLLM may report with each chunk; a zero that follows takes nothing back."""
    reports = [usage_chunk(prompt_tokens=10, completion_tokens=n) for n in (1, 4, 0)]
    assert Play().head().data(chunk("Hi"), *reports, finish(), DONE).rows[0].usage.output_tokens == 4


@dataclass(frozen=True)
class Cut:
    """How a stream breaks after two pieces of content, and what the client is told."""

    name: str
    breaks: Callable[[Play], object]
    code: str = "upstream_interrupted"
    param: str | None = None


CUTS = [
    Cut("F11 FIN", lambda play: play.ended()),
    Cut("F11 RST", lambda play: play.failed(FaultKind.LOST)),
    Cut("broken framing", lambda play: play.failed(FaultKind.PROTOCOL)),
    Cut("F12 stall", lambda play: play.wait(15.0), "upstream_timeout", "idle"),
    Cut("F13 two unreadable events", lambda play: play.data(GARBAGE, GARBAGE)),
    Cut("F13 a damaged piece", lambda play: play.data(chunk("more")[:30] + b"\n\n")),
    Cut("F13 not UTF-8", lambda play: play.data(chunk("more").replace(b"more", b"\xff"))),
    Cut("F14 error event", lambda play: play.data(error_event(kind="overloaded_error"))),
    Cut("F14 error event in the same read", lambda play: play.data(chunk("") + error_event())),
    Cut("F15 [DONE] without finish_reason", lambda play: play.data(DONE)),
    Cut("F18 a line without end", lambda play: play.data(b"x" * (1 << 20) + b"x")),
]


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.name)
def test_a_stream_that_breaks_ends_with_an_error_event(cut: Cut) -> None:
    """No failover, no `[DONE]`; the tenant pays for what was delivered, by our count."""
    play = Play().head().data(ROLE, chunk("Hello"), chunk(" world"))
    cut.breaks(play)
    assert (play.tried, play.status, play.text) == ("a", 200, "Hello world")
    assert (play.code, play.done, play.finished, play.outstanding) == (cut.code, False, True, 0)
    assert play.param == cut.param
    (row,) = play.rows
    assert row.outcome is Outcome.INTERRUPTED
    assert (row.usage.input_tokens, row.usage.output_tokens, row.usage.source) == (PROMPT, 2, UsageSource.COUNTED)
    assert row.charge_nano_usd == row.cost_nano_usd == PROMPT * 1000 + 2 * 2000
    assert play.settled[0].used.tokens == PROMPT + 2


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.name)
def test_a_stream_that_has_all_its_ends_is_whole_whatever_follows(cut: Cut) -> None:
    """I11: never an error after the finish_reason. F15: a missing `[DONE]` is added."""
    play = Play().head().data(ROLE, chunk("Hello"), finish())
    cut.breaks(play)
    assert (play.text, play.error, play.done, play.body.count(DONE)) == ("Hello", None, True, 1)
    assert [(row.outcome, row.usage.source) for row in play.rows] == [(Outcome.OK, UsageSource.COUNTED)]


@pytest.mark.parametrize(
    "reports", [[usage_chunk()], [usage_chunk(prompt_tokens=3, completion_tokens=0)]], ids=["plain", "explicit zero"]
)
def test_usage_that_came_before_the_cut_is_the_bill(reports: list[bytes]) -> None:
    play = Play().head().data(chunk("Hello"), *reports).failed(FaultKind.LOST)
    assert play.rows[0].usage.source is UsageSource.PROVIDER


def test_a_cut_inside_a_tool_call_never_looks_like_its_end() -> None:
    """F17: no finish_reason, no repair, no second backend."""
    play = Play().head().data(TOOL).failed(FaultKind.LOST)
    assert (play.tried, play.body, play.code) == ("a", TOOL, "upstream_interrupted")
    assert play.rows[0].usage.source is UsageSource.COUNTED


def test_one_unreadable_event_is_skipped() -> None:
    """F13: the answer goes on when later events can be read."""
    play = Play().head().data(chunk("Hello"), GARBAGE, chunk(" world"), finish(), DONE)
    assert (play.text, play.done, play.error) == ("Hello world", True, None)
    assert GARBAGE not in play.body


def test_what_follows_the_end_is_dropped_and_repeats_are_not() -> None:
    """F16: a chunk that came twice may be meant twice."""
    play = Play().head().data(chunk("ha"), chunk("ha") + finish() + DONE + chunk("more")).data(chunk("more"))
    assert (play.text, play.body.count(DONE)) == ("haha", 1)


@pytest.mark.parametrize(
    ("usage", "source", "tokens"),
    [
        (None, UsageSource.COUNTED, PROMPT + 1),
        ({"prompt_tokens": 0, "completion_tokens": 0}, UsageSource.PROVIDER, 0),
        ({"prompt_tokens": -1, "completion_tokens": 4}, UsageSource.COUNTED, PROMPT + 1),
        ({"prompt_tokens": 10**12, "completion_tokens": 4}, UsageSource.COUNTED, PROMPT + 1),
        ({"prompt_tokens": "ten"}, UsageSource.COUNTED, PROMPT + 1),
    ],
    ids=["missing", "zero", "negative", "absurd", "text"],
)
def test_odd_usage_never_costs_the_answer(usage: object, source: UsageSource, tokens: int) -> None:
    """F25: absent is counted by us, an explicit zero is zero."""
    play = Play().head().data(chunk("Hello"), finish(), event({"choices": [], "usage": usage}), DONE)
    assert (play.text, play.done) == ("Hello", True)
    assert [(row.usage.source, row.usage.total_tokens) for row in play.rows] == [(source, tokens)]


def test_a_server_that_sends_no_finish_reason_may_be_silent() -> None:
    """F15, by the backend's quirk: an empty answer is passed on; a stream of nothing at all is not one."""
    world = World(configured(quirks={"requires_finish_reason": False}))
    play = Play(world).head().data(ROLE, DONE)
    assert (play.status, play.body, play.tried) == (200, ROLE + DONE, "a")
    assert Play(world).head().data(PING, DONE).tried == "ab"


def test_all_choices_are_relayed_and_must_end() -> None:
    play = Play(body=ask(n=2)).head().data(chunk("a"), chunk("b", index=1), finish(), DONE)
    assert (play.text, play.code) == ("ab", "upstream_interrupted")
    play = Play(body=ask(n=2)).head().data(chunk("a"), chunk("b", index=1), finish(), finish(index=1), DONE)
    assert (play.text, play.done) == ("ab", True)


def test_a_stream_that_goes_on_past_what_was_asked_for_is_cut() -> None:
    """F18: with a margin for another tokenizer; the client is told `length`, the backend is closed, the rest unpaid."""
    play = Play(body=ask(max_tokens=100)).head()
    for _ in range(60):
        play.data(*[chunk(" word") for _ in range(10)])
    assert (play.done, play.finished, play.aborted) == (True, True, [1])
    assert b'"finish_reason":"length"' in play.body
    (row,) = play.rows
    assert (row.outcome, row.usage.source) == (Outcome.OK, UsageSource.COUNTED)
    assert 169 <= row.usage.output_tokens <= 180
    assert play.exchange.attempts[0].finish_reasons == ("length",)


def test_small_pieces_are_not_mistaken_for_many_tokens() -> None:
    """A server may send letter by letter: tokens are counted before anything is cut."""
    play = Play(body=ask(max_tokens=100)).head()
    for _ in range(90):
        play.data(*[chunk(letter) for letter in " word"])
    play.data(finish(), DONE)
    assert (play.text, play.done, play.aborted) == (" word" * 90, True, [])


def test_without_a_limit_of_the_clients_nothing_is_cut() -> None:
    play = Play().head()
    for _ in range(60):
        play.data(*[chunk(" word") for _ in range(50)])
    assert not play.finished


def text(index: int, said: str, reason: str | None = None) -> bytes:
    """A piece of a legacy completion."""
    return event({"choices": [{"index": index, "text": said, "finish_reason": reason}]})


def test_many_prompts_in_one_stream_are_whole_when_all_of_them_are() -> None:
    """The end of one is the end of nothing, and each may be as long as it was allowed."""
    body = ask(messages=None, prompt=["a", "b", "c"], max_tokens=20)
    pieces = [text(each, " word") for _ in range(50) for each in range(3)]
    begun = Play(body=body, endpoint=COMPLETIONS).head().data(*pieces, text(0, "", "stop"))
    begun.ended()
    assert begun.error is not None
    assert begun.error.code == "upstream_interrupted"
    whole = (
        Play(body=body, endpoint=COMPLETIONS).head().data(*pieces, *(text(each, "", "stop") for each in range(3)), DONE)
    )
    assert whole.body.endswith(DONE)
    assert whole.body.count(b" word") == 150
    assert whole.rows[0].outcome is Outcome.OK


def test_a_prompt_that_is_repeated_in_front_of_the_answer_is_no_endless_answer() -> None:
    body = ask(messages=None, prompt="word " * 200, max_tokens=1, echo=True)
    play = Play(body=body, endpoint=COMPLETIONS).head().data(*[text(0, " word")] * 201, text(0, "", "length"), DONE)
    assert play.body.count(b" word") == 201
