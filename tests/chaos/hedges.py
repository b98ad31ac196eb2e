"""A second try beside one that is slow to begin: whatever becomes of the two, the client gets one answer."""

import asyncio
import functools
from collections import Counter

from gateway.domain.ledger import LedgerEntry, Outcome
from gateway.domain.usage import UsageSource
from tests.backends.openai_backend import error_reply
from tests.backends.scripted import Script, ScriptedBackend
from tests.chaos.answers import Answer
from tests.chaos.before_content import MARGIN_S, SILENT, now
from tests.chaos.catalogue import Catalogue
from tests.chaos.rig import Rig, rig
from tests.chaos.ways import HEALTHY, STREAMED, USAGE, Way, content, pieces, streamed, whole_stream
from tests.running.configuration import Terms

CATALOGUE = Catalogue(alike=STREAMED)
row = CATALOGUE.row

AFTER_S = 0.3
HEDGED: Terms = {"hedge": {"after": AFTER_S, "share": 0.2}}


def begins_after(way: Way, delay_s: float) -> Script:
    """A healthy stream that is silent at first."""
    script = whole_stream(way, HEALTHY[way])
    return Script(
        headers=script.headers, steps=script.steps, framing=script.framing, head_delay_s=delay_s
    )  # fmt: skip


def ends(house: Rig, answer: Answer) -> dict[str, LedgerEntry]:
    """The rows of the request by backend. It is charged once, for the answer that was delivered."""
    rows = {each.backend: each for each in house.rows_of(answer)}
    paid = [each for each in rows.values() if each.charge_nano_usd]
    assert len(paid) == 1
    assert paid[0].outcome in {Outcome.OK, Outcome.INTERRUPTED}
    for each in rows.values():
        if each.outcome is Outcome.OUTRUN:
            assert (each.usage.source, each.usage.output_tokens) == (UsageSource.ESTIMATED, 0)
            assert each.cost_nano_usd > 0
    return rows


@row("F46", "hedge: the first is silent", ways=STREAMED)
async def second_wins(way: Way) -> str:
    """The second answers; the first is closed at once."""
    async with rig(terms=HEDGED) as house:
        house.first.script(SILENT)
        began = now()
        answer = await house.ask(way)
        took = now() - began
        answer.assert_healthy(way)
        assert (answer.headers["x-gateway-backend"], answer.headers["x-gateway-attempts"]) == ("second", "2")
        await house.first.wait_until(lambda: house.first.requests[0].closed_at is not None)
        closed_after = (house.first.requests[0].closed_at or 0.0) - began - AFTER_S
        assert closed_after < MARGIN_S
        rows = ends(house, answer)
        assert (rows["first"].outcome, rows["second"].outcome) == (Outcome.OUTRUN, Outcome.OK)
        assert AFTER_S <= took < AFTER_S + MARGIN_S
    return f"{took * 1000:.0f} ms, {AFTER_S * 1000:.0f} of them waited"


@row("F46", "hedge: both answer at the same moment", ways=STREAMED)
async def both_at_once(way: Way) -> str:
    """One of them is heard, and of the other not a byte."""
    async with rig(terms={"hedge": {"after": AFTER_S, "share": 0.2}}) as house:
        house.first.default = begins_after(way, AFTER_S + 0.2)
        house.second.default = lambda _: begins_after(way, 0.19 + 0.005 * len(house.second.requests))
        answers = await asyncio.gather(*(house.ask(way) for _ in range(5)))
        winners = Counter[str]()
        for answer in answers:
            answer.assert_healthy(way)
            rows = ends(house, answer)
            winner = answer.headers["x-gateway-backend"]
            assert rows.pop(winner).outcome is Outcome.OK
            assert [each.outcome for each in rows.values()] == [Outcome.OUTRUN]
            winners[winner] += 1
    return f"{winners['first']} to {winners['second']}"


@row("F46", "hedge: the second answers with an error first", ways=STREAMED)
async def second_fails(way: Way) -> None:
    """The first goes on as if nothing had been."""
    async with rig(terms=HEDGED) as house:
        house.first.script(begins_after(way, AFTER_S + 0.2))
        house.second.script(error_reply(500))
        answer = await house.ask(way)
        answer.assert_healthy(way)
        assert answer.headers["x-gateway-backend"] == "first"
        rows = ends(house, answer)
        assert (rows["first"].outcome, rows["second"].outcome) == (Outcome.OK, Outcome.FAILED)
        assert rows["second"].cost_nano_usd == 0


@row("F46", "hedge: the first answers with an error while the second works", ways=STREAMED)
async def first_fails(way: Way) -> None:
    """The second is the failover, and is on its way already."""
    async with rig(terms=HEDGED) as house:
        house.first.script(error_reply(500, delay_s=AFTER_S + 0.1))
        house.second.script(begins_after(way, 0.3))
        answer = await house.ask(way)
        answer.assert_healthy(way)
        rows = ends(house, answer)
        assert (rows["first"].outcome, rows["second"].outcome) == (Outcome.FAILED, Outcome.OK)
        assert len(house.second.requests) == 1


@row("F46", "hedge: the winner dies after its content", ways=STREAMED)
async def winner_dies(way: Way) -> None:
    """An honest end: the other one was given up."""
    texts = pieces(way, 12)[:3]
    async with rig(terms=HEDGED) as house:
        house.first.script(SILENT)
        house.second.script(streamed(*content(way, texts), gap_s=0.01, end="rst"))
        answer = await house.ask(way)
        answer.assert_broken_off("".join(texts))
        rows = ends(house, answer)
        assert (rows["first"].outcome, rows["second"].outcome) == (Outcome.OUTRUN, Outcome.INTERRUPTED)
        assert rows["second"].usage.prompt_tokens > 0


def _was_left(backend: ScriptedBackend) -> bool:
    return backend.requests[0].closed_at is not None


@row("F46", "hedge: hangs up while both work", ways=STREAMED)
async def leaves_both(way: Way) -> None:
    """Both are closed, one is charged."""
    async with rig(terms=HEDGED) as house:
        house.first.script(SILENT)
        house.second.script(SILENT)
        asked = asyncio.create_task(house.ask(way))
        await house.second.wait_requests(1)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        for backend in (house.first, house.second):
            await backend.wait_until(functools.partial(_was_left, backend))
        await house.quiesce()
        rows = {each.backend: each for each in house.rows()}
        assert (rows["first"].outcome, rows["second"].outcome) == (Outcome.CLIENT_GONE, Outcome.OUTRUN)
        assert (rows["first"].charge_nano_usd > 0, rows["second"].charge_nano_usd) == (True, 0)


@row("F46", "hedge: a slow first backend, 100 requests", ways=STREAMED)
async def within_budget(way: Way) -> str:
    """A twentieth are helped, and five more; the others wait."""
    async with rig(terms={"hedge": {"after": AFTER_S}}) as house:
        house.first.default = begins_after(way, AFTER_S + 0.2)
        answers = await asyncio.gather(*(house.ask(way) for _ in range(100)))
        for answer in answers:
            answer.assert_healthy(way)
        helped = len(house.second.requests)
        assert 1 <= helped <= 5 + 0.05 * 100
        assert sum(each.usage.total_tokens == sum(USAGE) for each in house.rows() if each.outcome is Outcome.OK) == 100
    return f"{helped} of 100 helped"
