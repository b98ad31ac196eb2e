"""An answer that breaks off is gone on with by another backend of the same weights, where the policy says so."""

import json
from typing import Any

from gateway.domain.ledger import Outcome
from tests.backends.openai_backend import chat_chunk, error_reply
from tests.backends.scripted import End, Request, Script
from tests.chaos.answers import Answer
from tests.chaos.catalogue import Catalogue
from tests.chaos.fleet import ask_at_once
from tests.chaos.rig import rig
from tests.chaos.ways import DONE, ROLE, Way, content, finish, pieces, streamed, usage_event
from tests.running.configuration import Tree, charge

CATALOGUE = Catalogue()
row = CATALOGUE.row

WORDS = pieces(Way.STREAM, 12)


def same_weights(house: Tree) -> None:
    """Both backends serve the same, and either takes a beginning."""
    for backend in house["backends"].values():
        backend["models"]["small"] |= {"weights": "small", "accepts": ["prefill", "tools"]}
    house["policies"]["acme"]["models"]["assistant"]["on_midstream_failure"] = "continue"


def goes_on(request: Request) -> Script:
    """What a server of the same weights says behind the beginning that it is given; to others its whole answer."""
    body = request.json()
    begun = body["messages"][-1]["content"] if body.get("continue_final_message") else ""
    assert "".join(WORDS).startswith(begun)
    assert body.get("add_generation_prompt", not begun) is (not begun)
    rest = "".join(WORDS)[len(begun) :]
    texts = [f" {word}" for word in rest.split()]
    told = [chat_chunk({"content": text}) for text in texts]
    return streamed(ROLE, *told, finish(Way.STREAM), usage_event((9 + 12 - len(texts), len(texts))), DONE)


def seams(answer: Answer) -> list[dict[str, Any]]:
    """What the client is told of being served by two."""
    told = [json.loads(event[6:]) for event in answer.raw.split(b"\n\n") if event.startswith(b"data: {")]
    return [each["gateway"] for each in told if "gateway" in each]


CUTS: dict[str, dict[str, Any]] = {
    f"{end} after {after} of 12": {"end": end, "after": after} for end in ("fin", "rst") for after in (1, 6, 11)
}


@row("F11", "goes on elsewhere after a cut by", ways=(Way.STREAM,), variants=CUTS)
@row("F12", "goes on elsewhere after a stall", ways=(Way.STREAM,), variants={"": {"end": "hang", "after": 3}})
async def cut(way: Way, *, end: End, after: int) -> str:
    """The client has the one whole text, and a mark where the other backend began."""
    async with rig(edit=same_weights, timeouts={"idle": 0.4}) as house:
        house.first.script(streamed(*content(way, WORDS[:after]), gap_s=0.005, end=end))
        house.second.default = goes_on
        answer = await house.ask(way)
        assert (answer.content, answer.done, answer.error) == ("".join(WORDS), True, None), answer.raw
        assert answer.raw.count(b'"role"') == 1
        (seam,) = seams(answer)
        assert (seam["continued"], seam["from"], seam["to"]) == (True, "first", "second")
        begun, rest = house.rows_of(answer)
        assert (begun.outcome, rest.outcome) == (Outcome.INTERRUPTED, Outcome.OK)
        assert begun.charge_nano_usd == charge(begun.usage.prompt_tokens, seam["at_token"])
        assert rest.charge_nano_usd == charge(0, 12 - after)
        assert rest.cost_nano_usd > rest.charge_nano_usd
    return f"at token {seam['at_token']}"


NOBODY: dict[str, dict[str, Any]] = {
    "it refuses": {"second": error_reply(400)},
    "it is down": {"second": Script(framing="raw", end="rst")},
    "it is cut too": {"second": streamed(ROLE, end="rst")},
}


@row("F11", "nobody goes on:", ways=(Way.STREAM,), variants=NOBODY)
async def nobody(way: Way, *, second: Script) -> None:
    """The same honest end as without, and nothing of the second is charged."""
    async with rig(edit=same_weights) as house:
        house.first.script(streamed(*content(way, WORDS[:3]), gap_s=0.005, end="rst"))
        house.second.script(second, second)
        answer = await house.ask(way)
        answer.assert_broken_off("".join(WORDS[:3]))
        begun, failed = house.rows_of(answer)
        assert (begun.outcome, failed.outcome, failed.charge_nano_usd) == (Outcome.INTERRUPTED, Outcome.FAILED, 0)


@row("F17", "a cut tool call is not gone on with", ways=(Way.TOOLS,))
async def tool_call(way: Way) -> None:
    """Half a call must never look like a whole one."""
    texts = pieces(way, 12)[:4]
    async with rig(edit=same_weights) as house:
        house.first.script(streamed(*content(way, texts), gap_s=0.005, end="rst"))
        answer = await house.ask(way)
        answer.assert_broken_off("".join(texts))
        assert house.second.requests == []


@row("F11", "50 at once go on elsewhere", ways=(Way.STREAM,))
async def many(way: Way) -> str:
    """As one of them."""
    async with rig(edit=same_weights) as house:
        house.first.default = streamed(*content(way, WORDS[:5]), gap_s=0.02, end="rst")
        house.second.default = goes_on
        told = await ask_at_once(house, way, 50)
        for answer in told:
            assert (answer.content, answer.done, answer.error) == ("".join(WORDS), True, None), answer.raw
        on = sum(bool(seams(answer)) for answer in told)
        assert on >= 5
    return f"{on} of 50"
