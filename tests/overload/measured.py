"""Goodput of a gateway that is asked for ten times what can be served.

Of backends: open loops of clients that never back off. The load comes at the times of a Poisson process, whatever
became of earlier requests, so nothing is relieved by being slow. A request counts if its answer is whole and right
within its deadline; its client hangs up then. Of the gateway itself: so many clients that each asks again at once.
"""

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Literal

from tests.backends.openai_backend import answer_sensibly, chat_reply, chat_stream, error_reply, openai_backend
from tests.backends.scripted import Request, Script
from tests.bench import load as bench
from tests.bench import processes
from tests.limits.client import Client
from tests.running.client import chat
from tests.running.configuration import Tree, configuration
from tests.running.gateway import RunningGateway, gateway

SLOTS: Final = 16
"""Requests that each of the two backends works on at once without becoming slower."""
WORK_S: Final = 0.5
CAPACITY: Final = 2 * SLOTS / WORK_S
"""Answers a second that both backends can give."""
PATIENCE_S: Final = 3.0


Kind = Literal["granted", "refuses"]
"""What keeps a backend from more than it bears: the configuration, or its own refusals."""


@dataclass(slots=True)
class Load:
    """What came of one load."""

    offered: float
    """Requests a second."""
    seconds: float
    endings: Counter[str] = field(default_factory=Counter)
    """Status, or `late` for a client that hung up."""
    refused_s: list[float] = field(default_factory=list)
    """How long those who were refused waited for it."""

    @property
    def goodput(self) -> float:
        """Good answers a second."""
        return self.endings["200"] / self.seconds


async def goodput(
    folder: Path, times: float, seconds: float, *, kind: Kind, stream: bool = False, seed: int = 1
) -> Load:
    """Offer so many times the capacity for so long."""
    async with openai_backend() as first, openai_backend() as second:
        for backend in (first, second):
            backend.default = shared(refuses=kind == "refuses")
        grant = {"limits": {"concurrency": SLOTS}} if kind == "granted" else {}
        backends = {
            name: {"base_url": backend.base_url, **grant} for name, backend in (("first", first), ("second", second))
        }
        house = configuration(backends=backends, models={"assistant": ["first", "second"]})
        house["policies"]["acme"]["models"]["assistant"]["strategy"] = {"mode": "least_busy"}
        with gateway(folder, house) as running:
            load = Load(CAPACITY * times, seconds)
            await offer(running, load, random.Random(seed), chat(stream=stream))
            for backend in (first, second):
                backend.requests.clear()
        return load


def shared(*, refuses: bool) -> Callable[[Request], Script]:
    """An engine that works on everything at once: what is beyond its slots makes all of it slower, or is refused."""
    busy_until: list[float] = []

    def answer(request: Request) -> Script:
        if request.method == "GET":
            return answer_sensibly(request)
        now = time.monotonic()
        busy_until[:] = [each for each in busy_until if each > now]
        if refuses and len(busy_until) >= SLOTS:
            return error_reply(503)
        takes_s = WORK_S * max(1.0, (len(busy_until) + 1) / SLOTS)
        busy_until.append(now + takes_s)
        if request.json().get("stream"):
            return chat_stream(first_delay_s=takes_s)
        reply = chat_reply()
        return Script(headers=reply.headers, steps=reply.steps, framing=reply.framing, head_delay_s=takes_s)

    return answer


async def offer(running: RunningGateway, load: Load, rng: random.Random, body: Tree) -> None:
    """Put the load on a gateway. What is asked in the first quarter warms up and does not count."""
    idle: list[Client] = []
    warm_s = load.seconds / 4
    began = time.monotonic()
    due = began

    async def ask(*, counts: bool) -> None:
        client = idle.pop() if idle else await Client.connect(running.port, running.keys["acme"])
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                reply = await client.ask(body)
        except TimeoutError:
            client.kill()
            ending = "late"
        else:
            idle.append(client)
            ending = str(reply.status)
            if reply.status != 200 and counts:
                load.refused_s.append(time.monotonic() - asked_at)
        if counts:
            load.endings[ending] += 1

    async with asyncio.TaskGroup() as tasks:
        while (due := due + rng.expovariate(load.offered)) < began + warm_s + load.seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.create_task(ask(counts=due > began + warm_s))
    for client in idle:
        with suppress(OSError):
            client.close()


def own(folder: Path, clients: tuple[int, ...], *, rounds: int, seconds: float) -> dict[int, float]:
    """By the number of clients: good answers for each second of CPU of a gateway whose backend is always quicker.

    The median of rounds in which each number of clients has its turn. CPU, since a machine has other things to do, too.
    Raises LoadFailed when one answer was not as it should be.
    """
    found: dict[int, list[float]] = {each: [] for each in clients}
    folder.mkdir(parents=True, exist_ok=True)
    with (
        processes.fake_upstream(folder, "upstream") as (_, upstream),
        processes.gateway(folder / "gateway", upstream=upstream) as (process, port, key),
    ):
        for _ in range(rounds):
            for number in clients:
                load = bench.Load(kind="plain", concurrency=number, prompt_bytes=1200, requests=10**9, seconds=seconds)
                began: list[float] = []
                address = bench.Address(port=port, key=key)
                answers = bench.run(address, load, begin=partial(_note, process, began))
                found[number].append(len(answers.latencies_s) / (process.cpu_s() - began[0]))
    return {number: statistics.median(each) for number, each in found.items()}


def _note(process: processes.Process, began: list[float]) -> None:
    began.append(process.cpu_s())
