"""The benchmark itself: which cases, in which order, and what is measured of each. Prints nothing.

Machines drift, so absolute numbers of two runs cannot be compared. All servers therefore run side by side, each round
measures every case at every server in turn, and what counts is the ratio within a round. A measurement's CPU includes
what a process does after its answers: log lines, ledger rows and traces are written by threads, and leaving their work
out of the bill would be a lie.
"""

import contextlib
import http.client
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import footprint, load, peers, processes
from tests.bench.footprint import IDLE_S, STREAMS, WARM_REQUESTS, Footprint
from tests.bench.load import Address, Load, LoadFailed
from tests.bench.peers import Peer
from tests.bench.processes import Process


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A kind of request, at a number of connections."""

    name: str
    what: str
    kind: str
    """What the fake upstream answers: `plain`, `burst`, `paced` or `embed`."""
    concurrency: int
    prompt_bytes: int
    of_nginx: float | None = None
    """The goal: at most so many times the CPU of nginx for the same request."""
    of_small: float | None = None
    """The goal, or another way to reach it: at most so many times the CPU of our own `small-c32` request."""


CASES = (
    Case(
        name="small-c1", what="1.5 KB chat, 1 connection",
        kind="plain", concurrency=1, prompt_bytes=1200, of_nginx=1.8,
    ),
    Case(
        name="small-c32", what="1.5 KB chat, 32 connections",
        kind="plain", concurrency=32, prompt_bytes=1200, of_nginx=3.3,
    ),
    Case(
        name="large-c8", what="60 KB prompt, 8 connections",
        kind="plain", concurrency=8, prompt_bytes=60_000, of_nginx=3.3, of_small=1.3,
    ),
    Case(
        name="burst-c32", what="stream of 64 chunks in one write, 32 connections",
        kind="burst", concurrency=32, prompt_bytes=1200, of_small=3.0,
    ),
    Case(
        name="paced-c32", what="stream of 64 chunks 5 ms apart, 32 connections",
        kind="paced", concurrency=32, prompt_bytes=1200, of_nginx=1.4,
    ),
    Case(
        name="embed-c32", what="embedding of 1.2 KB in 384 numbers, 32 connections",
        kind="embed", concurrency=32, prompt_bytes=1200,
    ),
)  # fmt: skip
SMALL = "small-c32"
DIRECT, NGINX, GATEWAY = "direct", "nginx", "gateway"
TRACED, TRACED_ALL, REDIS = "gateway, 10 % traced", "gateway, 100 % traced", "gateway, Redis"
WORKERS = "gateway, 2 workers"
OURS = frozenset({GATEWAY, TRACED, TRACED_ALL, REDIS, WORKERS})
_LOG_S, _EXPORT_S = 0.15, 1.2
"""How long the gateway works on after the last answer: the log's thread looks every 50 ms, the exporter's and whoever
ships the ledger to a Redis once a second; all are its defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How long a run takes."""

    rounds: int
    seconds: float
    """Of one measurement."""
    warm_s: float
    """Of each case at each server before the first round."""
    requests: int = 100_000
    """The most of one measurement."""
    settles: float = 1.0
    """Which part of the time is waited in which a server's threads may still be at work on the last answers."""
    starts: int = 3
    """How often the gateway is started, to know how long that takes."""
    streams: int = STREAMS
    """Slow streams that are open at once, to know what they hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measurement."""

    requests: int
    cpu_us: float | None
    """Per request; None where there is no proxy to measure."""
    p50_ms: float
    p99_ms: float
    per_s: float
    beside_us: float | None = None
    """CPU per request of the store that the gateway asks, where that is another process."""


@dataclass(slots=True)
class Server:
    """Something that answers, directly or by asking the fake upstream."""

    name: str
    address: Address
    process: Process | None = None
    settle_s: float = 0.0
    """How long after the last answer its threads may still be at work on it."""
    beside: Process | None = None
    """The store that it asks, where that is another process; its CPU is not the gateway's."""
    only: frozenset[str] | None = None
    """The names of the cases that it is measured in; None for all."""
    rss_idle_mib: float = 0.0
    rss_after_mib: float = 0.0


@dataclass(frozen=True, slots=True)
class Exports:
    """What a collector of traces took."""

    posts: int
    bytes: int
    spans: int
    requests: int
    """Of which there were spans."""
    asked: int = 0
    """Requests of which there could have been."""


@dataclass(slots=True)
class Results:
    """Everything that was measured: of each case and server one sample per round, in the order of the rounds."""

    cases: Sequence[Case]
    size: Size
    servers: list[Server] = field(default_factory=list)
    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    """By the names of case and server."""
    left_out: dict[tuple[str, str], str] = field(default_factory=dict)
    """Cases that a peer does not serve, by the same names, and what it said."""
    footprint: Footprint = field(default_factory=Footprint)
    exports: dict[str, Exports] = field(default_factory=dict)
    """What the collector took of each server that traces, and what of it was asked for."""

    def serving(self, case: Case) -> list[Server]:
        """The servers that are measured in that case."""
        return [
            server
            for server in self.servers
            if (server.only is None or case.name in server.only) and (case.name, server.name) not in self.left_out
        ]


def run(
    size: Size,
    cases: Sequence[Case] = CASES,
    *,
    with_nginx: bool = True,
    others: Sequence[tuple[Peer, str]] = (),
    python: str = sys.executable,
    tell: Callable[[str], None] = lambda _: None,
) -> Results:
    """Start everything, measure, end everything. `tell` hears of the progress. Raises StartFailed, LoadFailed.

    `others` are the peers to be measured too, with their binaries.
    """
    results = Results(cases, size)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-")))
        _, upstream = stack.enter_context(processes.fake_upstream(folder, "upstream"))
        tell("start, first answer, memory")
        results.footprint = footprint.measure(
            folder,
            upstream=upstream,
            starts=size.starts,
            streams=size.streams,
            python=python,
            requests=min(WARM_REQUESTS, size.requests),
            idle_s=IDLE_S * size.settles,
        )
        results.servers = _proxies(stack, folder, upstream, with_nginx=with_nginx)
        collectors = _gateways(stack, folder, upstream, results.servers, python)
        for of, binary in others:
            tell(f"start {of.name}")
            process, port = stack.enter_context(peers.peer(of, binary, folder, upstream=upstream))
            results.servers.append(Server(of.name, Address(port=port, key=of.key), process, settle_s=0.05))
        _warm(results, {of.name for of, _ in others}, tell)
        time.sleep(_EXPORT_S * size.settles)
        before = {name: _taken(collector) for name, collector in collectors.items()}
        _rounds(results, tell)
        time.sleep(_EXPORT_S * size.settles)
        for name, collector in collectors.items():
            results.exports[name] = _during(_taken(collector), before[name], _asked(results, name))
    return results


def _asked(results: Results, server: str) -> int:
    """Requests in all rounds, with those that a measurement begins with on each connection."""
    return sum(
        sample.requests + case.concurrency
        for case in results.cases
        for sample in results.samples.get((case.name, server), ())
    )


def _during(after: Exports, before: Exports, asked: int) -> Exports:
    return Exports(
        posts=after.posts - before.posts,
        bytes=after.bytes - before.bytes,
        spans=after.spans - before.spans,
        requests=after.requests - before.requests,
        asked=asked,
    )


def _proxies(stack: contextlib.ExitStack, folder: Path, upstream: int, *, with_nginx: bool) -> list[Server]:
    servers = [Server(DIRECT, Address(port=upstream))]
    if with_nginx and (started := stack.enter_context(processes.nginx(folder, upstream=upstream))) is not None:
        servers.append(Server(NGINX, Address(port=started[1]), started[0], settle_s=0.05))
    return servers


def _gateways(
    stack: contextlib.ExitStack, folder: Path, upstream: int, servers: list[Server], python: str
) -> dict[str, int]:
    """Start our own, each with what it needs. Gives the collectors of those that trace, by their names."""
    collectors: dict[str, int] = {}

    def start(
        name: str, *, collector: int | None = None, traced: float = 0.0, redis: int | None = None, workers: int = 1
    ) -> Server:
        process, port, key = stack.enter_context(
            processes.gateway(
                folder / f"gateway-{len(servers)}",
                upstream=upstream,
                collector=collector,
                traced=traced,
                redis=redis,
                workers=workers,
                python=(python,),
            )
        )
        settle_s = _LOG_S if collector is None and redis is None else _EXPORT_S
        servers.append(Server(name, Address(port=port, key=key), process, settle_s=settle_s))
        return servers[-1]

    start(GATEWAY)
    for name, traced in ((TRACED, 0.1), (TRACED_ALL, 1.0)):
        _, collectors[name] = stack.enter_context(processes.fake_upstream(folder, f"collector-{traced:g}"))
        start(name, collector=collectors[name], traced=traced)
    servers[-1].only = frozenset({SMALL})
    start(WORKERS, workers=2).only = frozenset({SMALL})
    if (store := stack.enter_context(processes.redis(folder))) is not None:
        shared = start(REDIS, redis=store[1])
        shared.beside, shared.only = store[0], frozenset({SMALL, "small-c1"})
    return collectors


def _warm(results: Results, others: Collection[str], tell: Callable[[str], None]) -> None:
    """Each case at each server. A peer that does not serve a case is left out of it; anything else is a failure."""
    size = results.size
    for case in results.cases:
        tell(f"warming up, {case.name}")
        for server in results.serving(case):
            try:
                load.run(server.address, _load(case, size.warm_s, size.requests), begin=lambda: None)
            except LoadFailed as error:
                if server.name not in others:
                    raise
                results.left_out[case.name, server.name] = str(error)
    for server in results.servers:
        if server.process is not None:
            server.rss_idle_mib = server.process.rss_mib()


def _rounds(results: Results, tell: Callable[[str], None]) -> None:
    size = results.size
    for number in range(size.rounds):
        for case in results.cases:
            tell(f"round {number + 1} of {size.rounds}, {case.name}")
            servers = results.serving(case)
            for position in range(len(servers)):  # Each round begins with another one: nobody is always the first.
                server = servers[(position + number) % len(servers)]
                sample = measure(server, case, size)
                results.samples.setdefault((case.name, server.name), []).append(sample)
    for server in results.servers:
        if server.process is not None:
            server.rss_after_mib = server.process.rss_mib()


def measure(server: Server, case: Case, size: Size) -> Sample:
    """Put the case's load on the server once. Raises LoadFailed."""
    before_s = beside_s = 0.0

    def begin() -> None:
        nonlocal before_s, beside_s
        if server.process is not None:
            before_s = server.process.cpu_s()
        if server.beside is not None:
            beside_s = server.beside.cpu_s()

    answers = load.run(server.address, _load(case, size.seconds, size.requests), begin=begin)
    cpu_us: float | None = None
    beside_us: float | None = None
    if server.process is not None:
        time.sleep(server.settle_s * size.settles)
        cpu_us = (server.process.cpu_s() - before_s) * 1e6 / len(answers.latencies_s)
    if server.beside is not None:
        beside_us = (server.beside.cpu_s() - beside_s) * 1e6 / len(answers.latencies_s)
    latencies_ms = sorted(latency_s * 1000 for latency_s in answers.latencies_s)
    return Sample(
        requests=len(latencies_ms),
        cpu_us=cpu_us,
        p50_ms=statistics.median(latencies_ms),
        p99_ms=latencies_ms[int(len(latencies_ms) * 0.99)],
        per_s=len(latencies_ms) / answers.seconds,
        beside_us=beside_us,
    )


def _load(case: Case, seconds: float, requests: int) -> Load:
    return Load(
        kind=case.kind,
        concurrency=case.concurrency,
        prompt_bytes=case.prompt_bytes,
        requests=requests,
        seconds=seconds,
    )


def _taken(collector: int) -> Exports:
    connection = http.client.HTTPConnection("127.0.0.1", collector, timeout=30)
    try:
        connection.request("GET", "/taken")
        return Exports(**json.loads(connection.getresponse().read()))
    finally:
        connection.close()
