"""What the report measures: real gateways, a real Redis, clients that retry. Each function measures one promise."""

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx

from gateway.domain.ledger import Outcome
from tests.backends.openai_backend import answer_sensibly, chat_stream, openai_backend
from tests.backends.scripted import Request, Script
from tests.limits.client import Client
from tests.running.client import chat
from tests.running.configuration import Terms, charge, configuration
from tests.running.gateway import RunningGateway, gateway
from tests.running.redis import RedisServer, redis_server
from tests.running.store_proxy import store_proxy

CLIENTS = 200
WINDOW_S = 3.0
BURST_S = 2.0
REQUESTS_PER_MINUTE = 4_200
TOKENS_PER_MINUTE = 120_000
SLOTS = 100
PATIENT = {"gateway.admission.resp.OPERATION_S": 1.0}
"""Where the store is well: on a machine that has no CPU for it, 50 ms would make an outage of that."""
_EXCHANGING_CLIENTS = 24
_MOST_WORDS = 40
_SENT_WORDS = 40
"""Of each stream, when its client vanishes; each is a token."""
_PROMPT_TOKENS = 3 + len(["word"]) + 3
"""As OpenAI's cookbook counts one message with one word."""
_RETRY_S = (0.05, 0.25)
"""How long a denied client waits: less than any SDK does."""


@dataclass(frozen=True, slots=True)
class Round:
    """One seed."""

    seed: int
    unit: str
    granted: int
    bound: float
    denied: int
    shared: int = 0

    @property
    def ratio(self) -> float:
        """What was granted, of what may be: the burst, and what comes back in the time that it took."""
        return self.granted / self.bound


@dataclass(frozen=True, slots=True)
class BlackHole:
    """A Redis that swallows everything."""

    usual_ms: float
    """Median of an answer while all was well."""
    once_ms: float
    """What the requests that waited for it waited more, all together."""
    waited: int
    later_ms: float
    """What nine of ten requests after those took at most, more than nine of ten took before: a machine has its own
    noise."""


@dataclass(frozen=True, slots=True)
class Killed:
    """Clients that vanished in the middle of their streams."""

    clients: int
    held_before: int
    held_after: int
    seconds: float
    """Until nothing was held."""
    charged: int
    """Nano-dollars in the ledgers of both gateways."""
    invoiced: int
    """What a provider asks that counts what it had sent to each of them."""


@dataclass(frozen=True, slots=True)
class Exchanged:
    """Gateways that are stopped and started one after the other while clients ask."""

    answers: int
    granted: int
    failed: int
    """Answers that were neither granted nor refused by a limit, and requests that got none."""
    bound: float
    """What may have been granted in the time that it took."""
    rows: int
    """Successes in both ledgers."""
    slowest_exit_s: float


async def exchanged(folder: Path) -> Exchanged:
    """Two gateways over one Redis, each with a successor on its own ledger, as an upgrade goes."""
    terms: dict[str, Terms] = {
        "acme": {"limits": {"requests_per_minute": REQUESTS_PER_MINUTE, "burst_seconds": BURST_S}}
    }
    endings: Counter[int] = Counter()
    exits_s: list[float] = []
    with redis_server(folder / "redis") as redis:
        async with openai_backend() as backend:
            backend.default = _after_a_while
            told = configuration(backends={"only": backend.base_url}, models={"assistant": ["only"]}, tenants=terms)
            homes = [folder / f"gateway-{n}" for n in range(2)]
            for home in homes:
                await anyio.Path(home).mkdir()
            with ExitStack() as stack:

                def start(home: Path) -> RunningGateway:
                    return stack.enter_context(gateway(home, told, redis=redis.url, drain_s=5.0, patience=PATIENT))

                live = [await asyncio.to_thread(start, home) for home in homes]
                began = time.perf_counter()
                async with anyio.create_task_group() as clients:
                    for n in range(_EXCHANGING_CLIENTS):
                        clients.start_soon(_insist_on_any, live, random.Random(n), endings)
                    for n, home in enumerate(homes):
                        await anyio.sleep(1.5)
                        stopped = time.perf_counter()
                        live[n].terminate()
                        await asyncio.to_thread(live[n].wait)
                        exits_s.append(time.perf_counter() - stopped)
                        live[n] = await asyncio.to_thread(start, home)
                    await anyio.sleep(1.5)
                    clients.cancel_scope.cancel()
                took_s = time.perf_counter() - began
                await asyncio.to_thread(stack.close)
            rows = [row for each in live for row in each.ledger(tenant="acme") if row.outcome is Outcome.OK]
    granted, refused = endings[200], endings[429]
    failed = endings.total() - granted - refused
    bound = REQUESTS_PER_MINUTE / 60 * (BURST_S + took_s)
    return Exchanged(endings.total(), granted, failed, bound, len(rows), max(exits_s))


async def _insist_on_any(live: Sequence[RunningGateway], rng: random.Random, endings: "Counter[int]") -> None:
    """Ask whichever gateway takes the connection, as behind a balancer."""
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        while True:
            status = 0
            for each in rng.sample(live, len(live)):
                try:
                    asked = client.post(f"{each.base_url}/chat/completions", json=chat(), headers=each.headers("acme"))
                    status = (await asked).status_code
                except httpx.ConnectError:
                    continue
                except httpx.HTTPError:
                    status = -1
                break
            endings[status] += 1
            await anyio.sleep(0.0 if status == 200 else rng.uniform(*_RETRY_S))  # success


def _after_a_while(request: Request) -> Script:
    script = answer_sensibly(request)
    return Script(headers=script.headers, steps=script.steps, framing=script.framing, head_delay_s=0.1)


async def bursts(folder: Path, seeds: int) -> list[Round]:
    """200 clients at once on two gateways over one Redis, for as long as a window, one tenant for each seed."""
    tenants: dict[str, Terms] = {
        f"seed-{seed}": {"limits": _limits(seed) | {"burst_seconds": BURST_S}} for seed in range(seeds)
    }
    rounds = []
    async with _house(folder, tenants) as (gateways, _redis):
        for seed in range(seeds):
            rounds.append(await _burst(gateways, seed))  # noqa: PERF401  # one after the other
    return rounds


def _limits(seed: int) -> dict[str, int]:
    return {"tokens_per_minute": TOKENS_PER_MINUTE} if seed % 2 else {"requests_per_minute": REQUESTS_PER_MINUTE}


async def _burst(gateways: Sequence[RunningGateway], seed: int) -> Round:
    tenant = f"seed-{seed}"
    clients = [await Client.connect(gateways[n % 2].port, gateways[n % 2].keys[tenant]) for n in range(CLIENTS)]
    granted = denied = 0
    began = last = time.perf_counter()

    async def insist(client: Client, rng: random.Random) -> None:
        nonlocal granted, denied, last
        while time.perf_counter() < began + WINDOW_S:
            words = " ".join(["word"] * rng.randint(1, _MOST_WORDS))
            reply = await client.ask(
                {"model": "assistant", "max_tokens": _MOST_WORDS, "messages": [{"role": "user", "content": words}]}
            )
            if reply.status == 200:  # success
                granted += reply.tokens if seed % 2 else 1
                last = max(last, time.perf_counter())
            else:
                denied += 1
                await asyncio.sleep(rng.uniform(*_RETRY_S))

    await asyncio.gather(*(insist(client, random.Random(1000 * seed + n)) for n, client in enumerate(clients)))
    for client in clients:
        client.close()
    per_minute = TOKENS_PER_MINUTE if seed % 2 else REQUESTS_PER_MINUTE
    bound = per_minute / 60 * (BURST_S + last - began)
    return Round(seed, "tokens" if seed % 2 else "requests", granted, bound, denied)


async def black_hole(folder: Path) -> BlackHole:
    """One client after the other, through a proxy that swallows everything from some moment on."""
    tenants: dict[str, Terms] = {"acme": {"limits": {"requests_per_minute": 10_000_000, "tokens_per_minute": 10**9}}}
    with redis_server(folder / "redis") as redis:
        async with store_proxy(redis.port) as proxy, _gateways(folder, tenants, proxy.url, 1) as (only,):
            client = await Client.connect(only.port, only.keys["acme"])

            async def took_ms() -> float:
                began = time.perf_counter()
                reply = await client.ask({"model": "assistant", "messages": [{"role": "user", "content": "word"}]})
                assert reply.status == 200, reply  # success
                return (time.perf_counter() - began) * 1000

            for _ in range(100):
                await took_ms()
            before = sorted([await took_ms() for _ in range(500)])
            usual = statistics.median(before)
            proxy.is_hole = True
            more = [await took_ms() - usual for _ in range(500)]
            client.close()
    waited = [each for each in more[:20] if each > 25]  # half of an operation's time
    rest = sorted(more[20:])
    return BlackHole(usual, sum(waited), len(waited), _ninth(rest) + usual - _ninth(before))


def _ninth(ordered: Sequence[float]) -> float:
    """What nine of ten do not exceed."""
    return ordered[len(ordered) * 9 // 10]


async def killed_clients(folder: Path) -> Killed:
    """As many clients as a tenant has slots vanish while their streams run. Nobody ever reports what these used."""
    tenants: dict[str, Terms] = {"acme": {"limits": {"concurrency": SLOTS}}}

    def slow(request: Request) -> Script:
        if request.method != "POST":
            return answer_sensibly(request)
        words = ["word"] + [" word"] * (_SENT_WORDS - 1)
        return chat_stream(words, gap_s=0.01, cut_after=_SENT_WORDS, end="hang")

    async with _house(folder, tenants, answer=slow) as (gateways, redis):
        clients = []
        for n in range(SLOTS):
            each = gateways[n % 2]
            client = await Client.connect(each.port, each.keys["acme"])
            client.send({"model": "assistant", "stream": True, "messages": [{"role": "user", "content": "word"}]})
            clients.append(client)
        await asyncio.gather(*(client.sees(b"word", _SENT_WORDS) for client in clients))
        with redis.client() as inside:
            before = int(inside.zcard("gw:{t:acme}:concurrency"))
            began = time.perf_counter()
            for client in clients:
                client.kill()
            after = before
            while after and time.perf_counter() < began + 10:
                await asyncio.sleep(0.005)
                after = int(inside.zcard("gw:{t:acme}:concurrency"))
            took_s = time.perf_counter() - began
        rows = [row for each in gateways for row in each.ledger(tenant="acme")]
    invoiced = SLOTS * charge(_PROMPT_TOKENS, _SENT_WORDS)
    return Killed(SLOTS, before, after, took_s, sum(row.charge_nano_usd for row in rows), invoiced)


def _random_answer(request: Request) -> Script:
    return answer_sensibly(request, text=" ".join(["word"] * random.randint(1, _MOST_WORDS)))  # a size


@asynccontextmanager
async def _house(
    folder: Path, tenants: dict[str, Terms], answer: Callable[[Request], Script] = _random_answer
) -> AsyncIterator[tuple[list[RunningGateway], RedisServer]]:
    """Two gateways over one Redis, and a backend in this process."""
    with redis_server(folder / "redis") as redis:
        async with _gateways(folder, tenants, redis.url, 2, answer=answer, patience=PATIENT) as made:
            yield made, redis


@asynccontextmanager
async def _gateways(
    folder: Path,
    tenants: dict[str, Terms],
    redis: str,
    count: int,
    *,
    answer: Callable[[Request], Script] = _random_answer,
    patience: Mapping[str, float] | None = None,
) -> AsyncIterator[list[RunningGateway]]:
    async with openai_backend() as backend:
        backend.default = answer
        told = configuration(backends={"only": backend.base_url}, models={"assistant": ["only"]}, tenants=tenants)
        with ExitStack() as stack:
            made = []
            for n in range(count):
                home = folder / f"gateway-{n}"
                home.mkdir()
                # In a thread: the gateway is waited for, and the proxy to its store lives in this event loop.
                running = await asyncio.to_thread(
                    stack.enter_context, gateway(home, told, redis=redis, drain_s=1.0, patience=patience)
                )
                made.append(running)
            yield made
            await asyncio.to_thread(stack.close)
