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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import load, peers, processes
from tests.bench.load import Address, Load
from tests.bench.peers import Peer
from tests.bench.processes import Process


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A kind of request, at a number of connections."""

    name: str
    what: str
    kind: str
    """What the fake upstream answers: `plain`, `burst` or `paced`."""
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
)  # fmt: skip
SMALL = "small-c32"
DIRECT, NGINX, GATEWAY, TRACED = "direct", "nginx", "gateway", "gateway, 10 % traced"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measurement."""

    requests: int
    cpu_us: float | None
    """Per request; None where there is no proxy to measure."""
    p50_ms: float
    p99_ms: float
    per_s: float


@dataclass(slots=True)
class Server:
    """Something that answers, directly or by asking the fake upstream."""

    name: str
    address: Address
    process: Process | None = None
    settle_s: float = 0.0
    """How long after the last answer its threads may still be at work on it."""
    rss_idle_mib: float = 0.0
    rss_after_mib: float = 0.0


@dataclass(slots=True)
class Results:
    """Everything that was measured: of each case and server one sample per round, in the order of the rounds."""

    cases: Sequence[Case]
    size: Size
    servers: list[Server] = field(default_factory=list)
    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    """By the names of case and server."""
    starts_s: list[float] = field(default_factory=list)
    """From spawning the gateway to its first good answer."""
    exports: int = 0
    export_bytes: int = 0


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
        _, collector = stack.enter_context(processes.fake_upstream(folder, "collector"))
        for number in range(size.starts - 1):
            tell(f"start {number + 1}")
            with processes.gateway(folder / f"start{number}", upstream=upstream, python=(python,)) as (process, _, _):
                results.starts_s.append(process.ready_s)
        results.servers = _start(stack, folder, upstream, collector, with_nginx=with_nginx, python=python)
        for of, binary in others:
            tell(f"start {of.name}")
            process, port = stack.enter_context(peers.peer(of, binary, folder, upstream=upstream))
            results.servers.append(Server(of.name, Address(port=port, key=of.key), process, settle_s=0.05))
        results.starts_s += [s.process.ready_s for s in results.servers if s.name == GATEWAY and s.process is not None]
        _rounds(results, tell)
        results.exports, results.export_bytes = _taken(collector)
    return results


def _start(
    stack: contextlib.ExitStack, folder: Path, upstream: int, collector: int, *, with_nginx: bool, python: str
) -> list[Server]:
    servers = [Server(DIRECT, Address(port=upstream))]
    if with_nginx and (started := stack.enter_context(processes.nginx(folder, upstream=upstream))) is not None:
        servers.append(Server(NGINX, Address(port=started[1]), started[0], settle_s=0.05))
    # The log's thread looks every 50 ms, the exporter's once a second; both are the gateway's defaults.
    for name, to, settle_s in ((GATEWAY, None, 0.15), (TRACED, collector, 1.2)):
        process, port, key = stack.enter_context(
            processes.gateway(folder / f"gateway-{len(servers)}", upstream=upstream, collector=to, python=(python,))
        )
        servers.append(Server(name, Address(port=port, key=key), process, settle_s=settle_s))
    return servers


def _rounds(results: Results, tell: Callable[[str], None]) -> None:
    size, servers = results.size, results.servers
    for case in results.cases:
        tell(f"warming up, {case.name}")
        for server in servers:
            load.run(server.address, _load(case, size.warm_s, size.requests), begin=lambda: None)
    for server in servers:
        if server.process is not None:
            server.rss_idle_mib = server.process.rss_mib()
    for number in range(size.rounds):
        for case in results.cases:
            tell(f"round {number + 1} of {size.rounds}, {case.name}")
            for position in range(len(servers)):  # Each round begins with another one: nobody is always the first.
                server = servers[(position + number) % len(servers)]
                sample = measure(server, case, size)
                results.samples.setdefault((case.name, server.name), []).append(sample)
    for server in servers:
        if server.process is not None:
            server.rss_after_mib = server.process.rss_mib()


def measure(server: Server, case: Case, size: Size) -> Sample:
    """Put the case's load on the server once. Raises LoadFailed."""
    before_s = 0.0

    def begin() -> None:
        nonlocal before_s
        if server.process is not None:
            before_s = server.process.cpu_s()

    answers = load.run(server.address, _load(case, size.seconds, size.requests), begin=begin)
    cpu_us: float | None = None
    if server.process is not None:
        time.sleep(server.settle_s * size.settles)
        cpu_us = (server.process.cpu_s() - before_s) * 1e6 / len(answers.latencies_s)
    latencies_ms = sorted(latency_s * 1000 for latency_s in answers.latencies_s)
    return Sample(
        requests=len(latencies_ms),
        cpu_us=cpu_us,
        p50_ms=statistics.median(latencies_ms),
        p99_ms=latencies_ms[int(len(latencies_ms) * 0.99)],
        per_s=len(latencies_ms) / answers.seconds,
    )


def _load(case: Case, seconds: float, requests: int) -> Load:
    return Load(
        kind=case.kind,
        concurrency=case.concurrency,
        prompt_bytes=case.prompt_bytes,
        requests=requests,
        seconds=seconds,
    )


def _taken(collector: int) -> tuple[int, int]:
    connection = http.client.HTTPConnection("127.0.0.1", collector, timeout=5)
    try:
        connection.request("GET", "/taken")
        taken = json.loads(connection.getresponse().read())
        return int(taken["posts"]), int(taken["bytes"])
    finally:
        connection.close()
