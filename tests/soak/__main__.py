"""Half an hour of everything at once, at twenty requests a second, to see whether a gateway keeps word and size.

A gateway with a Redis, traces, a policy that changes every five seconds and keys that come and go, before two backends
of which one fails one request in ten. Exits with 1 when an answer was wrong, the books are, or something grew.

python -m tests.soak --seconds 60
"""

# ruff: noqa: T201  # printing is the job

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import httpx
import uvloop

from tests.backends.openai_backend import openai_backend
from tests.backends.scripted import ScriptedBackend
from tests.running.client import client_of
from tests.running.configuration import Tree, configuration
from tests.running.gateway import RunningGateway, command, gateway
from tests.running.redis import redis_server
from tests.soak.mix import PATIENCE_S, Tally, flaky, pick, sound
from tests.soak.watching import Growth, Sample, Watch, wait_for_quiet
from tests.telemetry.otlp_receiver import OtlpReceiver

RATE: Final = 20.0
"""Requests a second, at the times of a Poisson process."""
OWNER: Final = "an-owners-key"
MIB: Final = 1 << 20
MOST_MIB_PER_MINUTE: Final = 1.0
MOST_GROWTH: Final = 10.0
"""Of descriptors, threads or tasks over the judged part: their number goes up and down with what is under way."""
COUNTED_S: Final = 60.0
"""Of a shorter run only their number at rest would say anything."""
JUDGED_S: Final = 600.0
"""Memory of a shorter run is printed and not judged: a gateway remembers its last 5,000 requests, some 10 MiB, and
grows until then."""


@dataclass(slots=True)
class Found:
    """What a soak came to."""

    seconds: float
    tally: Tally
    changes: int
    """Policies that were put in use, and keys made and revoked."""
    growths: dict[str, Growth]
    before: Sample
    after: Sample
    """At rest, both."""
    memory: list[float]
    """MiB: the median of each tenth of the run."""
    mistakes: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, print, judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800.0, help="how long (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of everything that is left to chance (default: %(default)s)"
    )
    told = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(soak(Path(folder), told.seconds, told.seed))
    show(found)
    return 1 if found.mistakes else 0


async def soak(folder: Path, seconds: float, seed: int) -> Found:
    """Run it. The folder takes ledger, keys and logs."""
    rng = random.Random(seed)
    async with openai_backend() as first, openai_backend() as second:
        first.default, second.default = flaky(rng), sound(rng)
        watch = Watch(folder)
        with redis_server(folder / "redis") as redis, OtlpReceiver() as collector:
            environ = watch.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.base_url}
            with gateway(folder, _house(first, second), environ=environ, redis=redis.url, admin_key=OWNER) as running:
                await _once(running)
                before = await anyio.to_thread.run_sync(_rest, watch, running)
                watch.samples.clear()
                tally = Tally()
                soaking = _Soak(
                    running=running,
                    tally=tally,
                    rng=rng,
                    watch=watch,
                    backends=(first, second),
                    collector=collector,
                )
                await soaking.run(seconds)
                watched = Watch.growth
                growths = {
                    "memory, MiB": watched(watch, lambda sample: sample.resident / MIB),
                    "descriptors": watched(watch, lambda sample: sample.descriptors),
                    "threads": watched(watch, lambda sample: sample.threads),
                    "tasks": watched(watch, lambda sample: sample.tasks),
                }
                tenths = watch.tenths(MIB)
                after = await anyio.to_thread.run_sync(lambda: wait_for_quiet(lambda: _rest(watch, running), before))
                found = Found(seconds, tally, soaking.changes, growths, before, after, tenths)
                found.mistakes += await _open_ends(running)
            found.mistakes += _books(running, tally)
    found.mistakes += tally.wrong
    found.mistakes += _grown(found)
    return found


@dataclass(slots=True, kw_only=True)
class _Soak:
    """What runs side by side while it lasts."""

    running: RunningGateway
    tally: Tally
    rng: random.Random
    watch: Watch
    backends: Sequence[ScriptedBackend]
    collector: OtlpReceiver
    changes: int = 0

    async def run(self, seconds: float) -> None:
        """Until the time is up and every request has ended."""
        began = time.monotonic()
        unlimited = httpx.Limits(max_connections=None)
        async with (
            client_of(self.running, "acme", limits=unlimited) as client,
            anyio.create_task_group() as others,
        ):
            others.start_soon(self._look, began, min(1.0, seconds / 20))
            others.start_soon(self._operate)
            async with anyio.create_task_group() as requests:
                due = began
                while (due := due + self.rng.expovariate(RATE)) < began + seconds:
                    await anyio.sleep(max(0.0, due - time.monotonic()))
                    requests.start_soon(self._ask, client)
            others.cancel_scope.cancel()

    async def _ask(self, client: httpx.AsyncClient) -> None:
        kind, ask = pick(self.rng)
        try:
            with anyio.fail_after(PATIENCE_S):
                await ask(client, self.tally)
        except (httpx.HTTPError, TimeoutError) as error:
            self.tally.wrong.append(f"{kind}: {type(error).__name__} {error}")

    async def _look(self, began: float, every_s: float) -> None:
        while True:
            await anyio.sleep(every_s)
            self.watch.look(self.running.process.pid, time.monotonic() - began)
            # Ours to forget: the soak's own memory is not the matter.
            for backend in self.backends:
                backend.requests.clear()
            self.collector.spans.clear()
            self.collector.raw.clear()

    async def _operate(self) -> None:
        """An operator who changes a policy, makes a key, revokes it, and looks at the metrics."""
        headers = {"authorization": f"Bearer {OWNER}"}
        async with httpx.AsyncClient(base_url=self.running.admin_url, headers=headers, trust_env=False) as admin:
            while True:
                await anyio.sleep(5)
                try:
                    await self._change(admin)
                    key = (await admin.post("/tenants/acme/keys", json={"name": "soak"})).raise_for_status().json()
                    (await admin.delete(f"/tenants/acme/keys/{key['id']}")).raise_for_status()
                    (await admin.get(f"http://127.0.0.1:{self.running.admin_port}/metrics")).raise_for_status()
                    self.changes += 2
                except httpx.HTTPError as error:
                    self.tally.wrong.append(f"operator: {type(error).__name__} {error}")

    async def _change(self, admin: httpx.AsyncClient) -> None:
        held = (await admin.get("/policies/acme")).raise_for_status()
        policy = held.json()
        policy["retries"] = {"attempts": 2 + self.changes % 2}
        tag = {"if-match": held.headers["etag"]}
        draft = (await admin.put("/policies/acme", json=policy, headers=tag)).raise_for_status()
        number = draft.json()["number"]
        (await admin.post(f"/policies/acme/revisions/{number}/activate")).raise_for_status()
        self.changes += 1


def _house(first: ScriptedBackend, second: ScriptedBackend) -> Tree:
    """The flaky backend before the sound one; limits that one request in many meets."""
    house = configuration(
        backends={"first": first.base_url, "second": second.base_url},
        models={"assistant": ["first", "second"], "vectors": ["second"]},
        tenants={
            "acme": {"limits": {"requests_per_minute": 1150, "tokens_per_minute": 10_000_000, "concurrency": 200}}
        },
    )
    for backend in house["backends"].values():
        backend["models"]["small"]["accepts"] = ["embeddings"]
    return house


async def _once(running: RunningGateway) -> None:
    async with client_of(running, "acme") as client:
        (await client.post("/v1/chat/completions", json={"model": "assistant", "messages": []})).read()


def _rest(watch: Watch, running: RunningGateway) -> Sample:
    """A sample with a number of tasks of its own time."""
    watch.look(running.process.pid, 0.0)
    time.sleep(0.2)
    return watch.look(running.process.pid, 0.0)


async def _open_ends(running: RunningGateway) -> list[str]:
    """What is still held although nobody asks any more."""
    wanted = {"gateway_requests_in_flight": 0.0, "gateway_reservations": 0.0, "gateway_ledger_pending": 0.0}
    told: dict[str, float] = {}
    async with httpx.AsyncClient(trust_env=False) as client:
        for _ in range(100):
            text = (await client.get(f"http://127.0.0.1:{running.admin_port}/metrics")).text
            lines = (line.split(" ") for line in text.splitlines())
            told = {words[0]: float(words[1]) for words in lines if words[0] in wanted}
            if told == wanted:
                return []
            await anyio.sleep(0.1)
    return [f"{name} is {value:g} at rest" for name, value in told.items() if value]


def _books(running: RunningGateway, tally: Tally) -> list[str]:
    """Whether the ledger is right, and has a row for every success that a client saw."""
    checked = command("ledger", "verify", "--store", running.store_url)
    mistakes = [] if checked.returncode == 0 else [f"ledger verify: {checked.stdout[-500:]}{checked.stderr[-500:]}"]
    rows = {row.request_id for row in running.ledger()}
    missing = {each for each in tally.answered if each not in rows}
    return [*mistakes, *(f"{len(missing)} successes have no row" for _ in range(bool(missing)))]


def _grown(found: Found) -> list[str]:
    memory = found.growths["memory, MiB"]
    grown = []
    if found.seconds >= JUDGED_S and memory.per_minute > MOST_MIB_PER_MINUTE:
        grown.append(f"memory grows by {memory.per_minute:.2f} MiB a minute")
    for name in ("descriptors", "threads", "tasks"):
        growth = found.growths[name]
        if found.seconds >= COUNTED_S and growth.per_minute * growth.minutes > MOST_GROWTH:
            grown.append(f"{name} grow by {growth.per_minute:.2f} a minute")
    return grown


def show(found: Found) -> None:
    """Print what came of it."""
    total = sum(found.tally.endings.values())
    print(f"{total} requests in {found.seconds:.0f} s, {found.changes} changes of policy and keys meanwhile\n")
    kinds: dict[str, list[str]] = defaultdict(list)
    for (kind, ending), count in sorted(found.tally.endings.items()):
        kinds[kind].append(f"{ending} × {count}")
    for kind, endings in kinds.items():
        print(f"{kind:40} {', '.join(endings)}")
    print(f"\n{'held':12} {'at rest':>8} {'least':>8} {'median':>8} {'most':>8} {'a minute':>9} {'at rest':>8}")
    ends = {
        "memory, MiB": (found.before.resident / MIB, found.after.resident / MIB),
        "descriptors": (found.before.descriptors, found.after.descriptors),
        "threads": (found.before.threads, found.after.threads),
        "tasks": (found.before.tasks, found.after.tasks),
    }
    for name, growth in found.growths.items():
        first, last = ends[name]
        print(
            f"{name:12} {first:8.1f} {growth.least:8.1f} {growth.median:8.1f} {growth.most:8.1f} "
            f"{growth.per_minute:+9.2f} {last:8.1f}"
        )
    print("\nmemory, tenth by tenth:", *(f"{each:.0f}" for each in found.memory))
    print(*(f"WRONG: {each}" for each in found.mistakes[:20]), sep="\n")
    print(f"{len(found.mistakes)} mistakes" if found.mistakes else "no mistake")


if __name__ == "__main__":
    sys.exit(main())
