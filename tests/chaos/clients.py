"""Clients that leave, or that do not read: nothing goes on for them, and they pay for what they were sent."""

import asyncio
from unittest.mock import patch

from gateway.api import asgi, stream
from gateway.domain.ledger import LedgerEntry, Outcome
from gateway.domain.usage import UsageSource
from tests.backends.openai_backend import EVENT_STREAM
from tests.backends.scripted import Script, ScriptedBackend, black_hole
from tests.chaos.before_content import MARGIN_S, SILENT, now
from tests.chaos.catalogue import Catalogue
from tests.chaos.in_stream import assert_counted
from tests.chaos.raw_client import raw_client
from tests.chaos.rig import Rig, rig
from tests.chaos.ways import (
    DONE,
    PING,
    ROLE,
    STREAMED,
    USAGE,
    Way,
    content,
    finish,
    piece,
    pieces,
    streamed,
    usage_event,
    whole_stream,
)
from tests.running.configuration import charge

CATALOGUE = Catalogue(alike=STREAMED)
row = CATALOGUE.row

LEAVES = {"closing": {"reset": False}, "resetting": {"reset": True}}
"""How a client leaves."""


async def row_of(house: Rig, request_id: str) -> LedgerEntry:
    """The one row of a request whose client has left."""
    async with asyncio.timeout(MARGIN_S):
        while not (rows := house.rows(request_id)):  # noqa: ASYNC110  # the ledger is a file
            await asyncio.sleep(0.005)
    (found,) = rows
    return found


async def closed_after(backend: ScriptedBackend, left_at: float) -> str:
    """How long the backend was kept busy for nobody; fails when it is too long."""
    await backend.wait_until(lambda: backend.requests[-1].closed_at is not None)
    took = (backend.requests[-1].closed_at or 0.0) - left_at
    assert took < MARGIN_S
    return f"closed after {took * 1000:.1f} ms"


async def settled(house: Rig) -> None:
    """Wait until no reservation is left; fails when it takes long."""
    async with asyncio.timeout(MARGIN_S):
        while house.limiter.outstanding(now()):  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.002)


PARTS = {"in the request's head": {"upto": "head"}, "in the request's body": {"upto": "body"}}


@row("F44 a b", "leaves", variants=PARTS)
async def before_the_request(way: Way, upto: str) -> None:
    """There was no request yet: nothing is reserved, sent or written."""
    async with rig() as house, raw_client(house) as client:
        whole = client.request(way)
        end = whole.index(b"\r\n\r\n")
        await client.send(whole[: end // 2 if upto == "head" else end + 20])
        if upto == "body":
            async with asyncio.timeout(MARGIN_S):
                while not house.machinery.live:  # noqa: ASYNC110  # nothing tells
                    await asyncio.sleep(0.002)
        client.leave()
        await house.quiesce()
        assert (house.limiter.granted, house.rows(), house.first.requests) == ([], [], [])


@row("F44 c", "leaves the queue for a connection", variants=LEAVES)
async def while_queued(way: Way, reset: bool) -> None:
    """It was never sent, so it costs nothing; the queue's next is served."""
    async with rig(connections=1, targets=["first"]) as house:
        house.first.script(SILENT)
        async with raw_client(house) as busy, raw_client(house) as waiting:
            await busy.ask(way)
            await house.first.wait_requests(1)
            await waiting.ask(way)
            async with asyncio.timeout(MARGIN_S):
                while "1 waiting" not in repr(house.machinery.transport):  # noqa: ASYNC110  # nothing tells
                    await asyncio.sleep(0.002)
            waiting.leave(reset=reset)
            left = await row_of(house, waiting.request_id)
            assert (left.outcome, left.cost_nano_usd) == (Outcome.CLIENT_GONE, 0)
            busy.leave(reset=reset)
            await row_of(house, busy.request_id)
        (await house.ask(way)).assert_healthy(way)
        assert len(house.first.requests) == 2


@row("F44 d", "leaves while we connect", variants=LEAVES)
async def while_connecting(way: Way, reset: bool) -> None:
    """Nothing was sent, nothing costs, and the next backend is not asked."""
    async with black_hole() as hole, rig(places={"first": hole}) as house, raw_client(house) as client:
        await client.ask(way)
        async with asyncio.timeout(MARGIN_S):
            while "1 connecting" not in repr(house.machinery.transport):  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.002)
        client.leave(reset=reset)
        left = await row_of(house, client.request_id)
        assert (left.outcome, left.cost_nano_usd) == (Outcome.CLIENT_GONE, 0)
        await settled(house)
        assert house.second.requests == []


@row("F44 e", "leaves before the answer", variants=LEAVES)
async def before_the_answer(way: Way, reset: bool) -> str:
    """The backend is closed at once; the prompt was sent and is paid."""
    return await _before_content(way, SILENT, reset=reset)


EARLY = {
    "headers": Script(headers=[EVENT_STREAM], framing="chunked", terminated=False, end="hang"),
    "the role": streamed(ROLE, end="hang"),
    "pings": streamed(*[PING] * 500, gap_s=0.01, end="hang"),
}


@row(
    "F44 e",
    "leaves after nothing but",
    ways=STREAMED,
    variants={name: {"script": script} for name, script in EARLY.items()},
)
async def before_content(way: Way, script: Script) -> str:
    """As before the answer."""
    return await _before_content(way, script, reset=False)


async def _before_content(way: Way, script: Script, *, reset: bool) -> str:
    async with rig() as house, raw_client(house) as client:
        house.first.script(script)
        await client.ask(way)
        await house.first.wait_requests(1)
        if script.steps:
            await house.first.wait_until(lambda: house.first.requests[0].steps_sent >= 1)
        took = await closed_after(house.first, client.leave(reset=reset))
        left = await row_of(house, client.request_id)
        assert (left.outcome, left.usage.source) == (Outcome.CLIENT_GONE, UsageSource.ESTIMATED)
        assert left.charge_nano_usd == charge(left.usage.input_tokens, 0) > 0
        await settled(house)
        assert house.second.requests == []
    return took


AFTER = {f"{k} pieces, {name}": {"k": k, **how} for k in (1, 10) for name, how in LEAVES.items()}


@row("F44 f", "leaves after", ways=STREAMED, variants=AFTER)
async def after_pieces(way: Way, k: int, reset: bool) -> str:
    """The prompt and what was sent are paid."""
    texts = pieces(way, 12)[:k]
    async with rig() as house, raw_client(house) as client:
        house.first.script(streamed(*content(way, texts), end="hang"))
        await client.ask(way)
        await client.read_content("".join(texts))
        took = await closed_after(house.first, client.leave(reset=reset))
        left = await row_of(house, client.request_id)
        assert left.outcome is Outcome.CLIENT_GONE
        assert_counted(left, way, texts)
        await settled(house)
        assert house.second.requests == []
    return took


@row("F44 f", "leaves while pieces come", ways=STREAMED, variants=LEAVES)
async def while_pieces_come(way: Way, reset: bool) -> str:
    """A backend in full flow is stopped, too."""
    async with rig() as house, raw_client(house) as client:
        endless = [piece(way, number, " word") for number in range(4000)]
        house.first.script(streamed(*endless, gap_s=0.001, end="hang"))
        await client.ask(way)
        await client.read_content(" word word word")
        took = await closed_after(house.first, client.leave(reset=reset))
        left = await row_of(house, client.request_id)
        assert (left.outcome, left.usage.source) == (Outcome.CLIENT_GONE, UsageSource.COUNTED)
        assert house.first.requests[0].steps_sent < 3000
    return took


@row("F44 g", "leaves after the last content", ways=STREAMED, variants=LEAVES)
async def before_done(way: Way, reset: bool) -> None:
    """Many clients do not wait for `[DONE]`: a success, charged as reported."""
    texts = pieces(way, 3)
    async with rig() as house, raw_client(house) as client:
        house.first.script(streamed(*content(way, texts), finish(way), usage_event(), end="hang"))
        await client.ask(way)
        await client.read_until(b'"finish_reason": "')
        # What a client has read, the gateway has worked off; the usage came in the same read or comes in the next.
        await house.first.wait_until(lambda: house.first.requests[0].steps_sent == 6)
        await asyncio.sleep(0.02)
        await closed_after(house.first, client.leave(reset=reset))
        left = await row_of(house, client.request_id)
        assert (left.outcome, left.charge_nano_usd) == (Outcome.OK, charge(*USAGE))


@row("F44 h", "leaves right after the end", variants=LEAVES)
async def after_the_end(way: Way, reset: bool) -> None:
    """A success."""
    async with rig() as house, raw_client(house) as client:
        await client.ask(way)
        await client.read_until(b'"usage"' if way is Way.WHOLE else DONE)
        client.leave(reset=reset)
        left = await row_of(house, client.request_id)
        assert (left.outcome, left.usage.source) == (Outcome.OK, UsageSource.PROVIDER)
        assert left.charge_nano_usd == charge(*USAGE)


MIB = 1 << 20
LARGE = "x" * (64 << 10)


@row("F43", "reads nothing of 12 MiB", ways=STREAMED)
async def reads_nothing(way: Way) -> str:
    """The backend is held back, at most 1 MiB is held for the client, and after its patience it is cut off."""
    texts = [LARGE] * 192
    with patch.object(stream, "SLOW_CLIENT_S", 0.5):
        async with rig() as house, raw_client(house, receives=16 << 10) as client:
            house.first.script(whole_stream(way, texts))
            await client.ask(way)
            most = 0
            async with asyncio.timeout(15):
                while not house.first.requests or house.machinery.live:
                    most = max(most, held_for(house))
                    await asyncio.sleep(0.001)
            left = await row_of(house, client.request_id)
            assert left.outcome is Outcome.CLIENT_GONE
            await house.first.wait_until(lambda: house.first.open == 0)
            assert 0 < most <= MIB
    return f"{most // 1024} KiB held"


@row("F43", "reads 4 MiB slowly", ways=STREAMED)
async def reads_slowly(way: Way) -> str:
    """Slow is not stalled: it gets all of it, and no more than 1 MiB is held meanwhile."""
    texts = [LARGE] * 64
    async with rig(timeouts={"idle": 0.5}) as house, raw_client(house, receives=16 << 10) as client:
        house.first.script(whole_stream(way, texts))
        await client.ask(way)
        most = 0
        got = b""
        async with asyncio.timeout(15):
            while not got.endswith(b"0\r\n\r\n"):
                got = got[-16:] + await client.read(64 << 10)
                most = max(most, held_for(house))
                await asyncio.sleep(0.004)
        assert DONE in got
        assert (await row_of(house, client.request_id)).outcome is Outcome.OK
        assert 0 < most <= MIB
    return f"{most // 1024} KiB held"


def held_for(house: Rig) -> int:
    """Bytes that wait for clients: in the outboxes, and written but not taken by the kernel."""
    boxes = sum(each._client._unsent for each in house.machinery.live if isinstance(each._client, asgi.Client))
    return boxes + sum(each.transport.get_write_buffer_size() for each in house.server.server_state.connections)
