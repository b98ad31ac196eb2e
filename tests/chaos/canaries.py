"""Thousands of clients that leave at any moment: no place in a pool is lost, and no answer reaches another client."""

import asyncio
import contextlib
import json
import random
from collections import Counter

from gateway.domain.ledger import Outcome
from tests.backends.scripted import Request, Script
from tests.chaos.answers import read_stream
from tests.chaos.catalogue import Catalogue
from tests.chaos.raw_client import RawClient, raw_client, unchunked
from tests.chaos.rig import Rig, rig
from tests.chaos.ways import DONE, STREAMED, Way, content, finish, usage_event

CATALOGUE = Catalogue(alike=STREAMED)
row = CATALOGUE.row

CLIENTS = 1_000
"""In each way of asking."""
CONNECTIONS = 12
AT_ONCE = 2 * CONNECTIONS
"""As many as can be served and wait at a backend, so that half of them wait, and none is sent elsewhere."""


@row("F44", f"{CLIENTS} clients, most of which leave at any moment")
async def canaries(way: Way) -> str:
    """Each asks with a word of its own and gets it back, or nothing of it."""
    rng = random.Random(1)

    def echo(request: Request) -> Script:
        """The word in four pieces, between which time passes."""
        word = request.json()["messages"][0]["content"]
        if way is Way.WHOLE:
            message = {"role": "assistant", "content": word}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 9, "completion_tokens": 2}
            body = json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
            return Script(headers=[("content-type", "application/json")], steps=[(0.01 + rng.random() * 0.02, body)])
        events = [*content(way, [word[:3], word[3:6], word[6:9], word[9:]]), finish(way), usage_event(), DONE]
        steps = [(rng.random() * 0.006, event) for event in events]
        return Script(headers=[("content-type", "text/event-stream")], steps=steps, framing="chunked")

    async def one(house: Rig, number: int, turns: asyncio.Semaphore) -> bool:
        """Whether the client stayed to the end."""
        word = f"canary-{number:06}-"
        async with turns, raw_client(house) as client:
            stays = rng.random() < 0.3
            reading = asyncio.create_task(_read_all(client, way, word))
            if not stays:
                await asyncio.sleep(rng.random() * 0.06)
                reading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reading
                client.leave(reset=rng.random() < 0.5)
            else:
                await reading
            _assert_own(client, way, word, is_whole=stays)
        return stays

    async with rig(connections=CONNECTIONS) as house:
        house.first.default = house.second.default = echo
        turns = asyncio.Semaphore(AT_ONCE)
        stayed = await asyncio.gather(*(one(house, number, turns) for number in range(CLIENTS)))
        await house.quiesce()
        rows = house.rows()
        ends = Counter(each.outcome for each in rows)
        queued = sum(each.outcome is Outcome.CLIENT_GONE and not each.usage.total_tokens for each in rows)
        assert ends[Outcome.OK] >= sum(stayed)
        assert ends[Outcome.CLIENT_GONE] > CLIENTS // 10
        assert queued > CLIENTS // 100
        # Every place is free: as many requests as there are places are at work at the same time.
        house.first.default = Script(framing="raw", end="hang")
        before = len(house.first.requests)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(CONNECTIONS):
                await (await stack.enter_async_context(raw_client(house))).ask(way)
            await house.first.wait_requests(before + CONNECTIONS)
    return f"{sum(stayed)} stayed, {ends[Outcome.CLIENT_GONE]} left at work, {queued} left the queue"


async def _read_all(client: RawClient, way: Way, word: str) -> None:
    await client.ask(way, messages=[{"role": "user", "content": word}])
    await client.read_until(b'"usage"' if way is Way.WHOLE else DONE)


def _assert_own(client: RawClient, way: Way, word: str, *, is_whole: bool) -> None:
    """Assert that what was read is the client's own, and all of it if it stayed."""
    head, _, body = client.got.partition(b"\r\n\r\n")
    assert not head or head.startswith(b"HTTP/1.1 200"), client.got
    if way is Way.WHOLE:
        assert client.got.count(b"canary") == client.got.count(word.encode()), client.got
        assert not is_whole or word.encode() in client.got
    else:
        answer = read_stream(200, {}, unchunked(body))
        assert word.startswith(answer.content), (word, answer.content)
        assert not is_whole or answer.content == word
