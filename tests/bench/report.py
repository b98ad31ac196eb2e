"""Turns what was measured into tables and the facts without which it means nothing. Pure but for `machine`."""

import importlib.metadata
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.bench.processes import ROOT, nginx_binary
from tests.bench.rounds import (
    DIRECT,
    GATEWAY,
    NGINX,
    OURS,
    REDIS,
    SMALL,
    TRACED,
    TRACED_ALL,
    WORKERS,
    Case,
    Results,
    Sample,
)

_HEADERS = (
    "case",
    "server",
    "CPU µs/request",
    "x nginx",
    "x own small",
    "goal",
    "p50 ms",
    "added",
    "p99 ms",
    "added",
    "per s",
)
_PACKAGES = ("uvicorn", "uvloop", "httptools", "litestar", "msgspec", "opentelemetry-sdk")
_BUILD = "import platform, sysconfig as s; print(platform.python_version(), s.get_config_var('CONFIG_ARGS') or '')"


def table(results: Results) -> str:
    """One row per case and server: medians over the rounds, ranges in parentheses."""
    rows: list[tuple[str, ...]] = [_HEADERS]
    for case in results.cases:
        for position, server in enumerate(results.serving(case)):
            rows.append((case.name if position == 0 else "", server.name, *_cells(results, case, server.name)))
    return _aligned(rows)


def facts(results: Results) -> str:
    """What the rows above do not say: what a store and tracing add, what the process takes. Each with its goal."""
    rows: list[tuple[str, ...]] = [("what", "measured", "goal")]
    for case in results.cases:
        added = _more(results, case, REDIS)
        if added:
            store = [sample.beside_us for sample in results.samples[case.name, REDIS] if sample.beside_us is not None]
            rows.append((f"Redis store, {case.name}: CPU it adds, µs/request", _spread(added), "≤ 50"))
            rows.append((f"Redis store, {case.name}: CPU of redis-server itself, not in any row", _spread(store), ""))
        for server in (TRACED, TRACED_ALL):
            if case.name == SMALL and (added := _more(results, case, server)):
                what = server.removeprefix("gateway, ")
                rows.append((f"{what}, {case.name}: CPU it adds, µs/request", _spread(added), ""))
        if served := _faster(results, case, WORKERS):
            what = f"2 workers, {case.name}: requests a second, x one process (the load's processes share the cores)"
            rows.append((what, _spread(served, 2), ""))
    process = results.footprint
    rows += [
        ("start, spawn to first 200 from /healthz, s", _spread(process.starts_s, 2), ""),
        ("start, spawn to the end of the first chat, s", _spread(process.first_answers_s, 2), "< 3"),
        ("memory, idle, MiB", f"{process.idle_mib:.0f}", "< 100"),
        ("memory, once it counts tokens (until it has not for a minute), MiB", f"{process.counting_mib:.0f}", ""),
        (f"memory, after {process.requests} small chats, MiB", f"{process.warm_mib:.0f}", ""),
        (f"memory, {process.streams} slow streams at once, MiB", f"{process.streams_mib:.0f}", "< 200"),
    ]
    return _aligned(rows)


def notes(results: Results) -> str:
    """What stands below the tables: what the cases are, memory in the course of the run, and what to mistrust."""
    lines = [f"{case.name}: {case.what}" for case in results.cases]
    names = {server.name for server in results.servers}
    lines += [f"{server} does not serve {case}: {why}" for (case, server), why in results.left_out.items()]
    lines += [
        f"resident memory of {server.name}: {server.rss_idle_mib:.0f} MiB warm, {server.rss_after_mib:.0f} MiB after"
        for server in results.servers
        if server.process is not None
    ]
    for name, taken in results.exports.items():
        lines.append(
            f"{name}: the OTLP receiver took {taken.spans} spans of {taken.requests} requests, of {taken.asked} "
            f"(the others were not sampled, or found the queue of spans full), in {taken.posts} exports "
            f"of {taken.bytes / 1024:.0f} KiB"
        )
        least = 0.5 if name == TRACED_ALL else 0.05
        if taken.requests < least * taken.asked:
            lines.append(f"WARNING: {name} did not trace what it should; its rows do not show what tracing costs")
    if REDIS not in names:
        lines.append("there is no redis-server: nothing is said of the store that a fleet shares")
    if NGINX not in names:
        lines.append("nginx is not installed or was left out: there are no ratios to it")
    lines.append(
        "CPU is the whole process tree's, user and system, threads and what they finish after the answer included. "
        "`x nginx` and `added` compare within a round. Of streams, latency is the time to the first text. "
        f"Median (least to most) of {results.size.rounds} rounds; differences below 10 % are noise."
    )
    return "\n".join(lines)


def machine(python: str) -> str:
    """Where this ran, with which versions."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")),
        platform.machine(),
    )
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    version, _, build = _output([python, "-c", _BUILD]).partition(" ")
    # Worth some 20 %. Distributions may profile without saying so here.
    optimized = "with" if "--enable-optimizations" in build else "without"
    binary = nginx_binary()
    server = _output([binary, "-v"]).rpartition("/")[2] if binary is not None else "absent"
    store = _output(["redis-server", "--version"]).partition("v=")[2].partition(" ")[0] or "absent"
    commit = _output(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]) or "unknown"
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return (
        f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, load average {load}\n"
        f"Python {version} configured {optimized} --enable-optimizations, nginx {server}, Redis {store}, {packages}; "
        f"gateway at {commit}"
    )


def _cells(results: Results, case: Case, server: str) -> Sequence[str]:
    samples = results.samples[case.name, server]
    direct = results.samples[case.name, DIRECT]
    cpu = [sample.cpu_us for sample in samples if sample.cpu_us is not None]
    of_nginx = _ratios(samples, results.samples.get((case.name, NGINX), ()))
    of_small = _ratios(samples, results.samples.get((SMALL, server), ()))
    is_ours = server in OURS
    return (
        _spread(cpu),
        "" if server == NGINX else _spread(of_nginx, 2),
        _spread(of_small, 2) if is_ours and case.name != SMALL else "",
        _goal(case) if server in {GATEWAY, TRACED} else "",
        _spread([sample.p50_ms for sample in samples], 2),
        _added(server, [mine.p50_ms - theirs.p50_ms for mine, theirs in zip(samples, direct, strict=True)]),
        _spread([sample.p99_ms for sample in samples], 2),
        _added(server, [mine.p99_ms - theirs.p99_ms for mine, theirs in zip(samples, direct, strict=True)]),
        f"{statistics.median(sample.per_s for sample in samples):.0f}",
    )


def _ratios(samples: Iterable[Sample], others: Iterable[Sample]) -> list[float]:
    """Round by round."""
    return [
        mine.cpu_us / theirs.cpu_us
        for mine, theirs in zip(samples, others, strict=False)
        if mine.cpu_us is not None and theirs.cpu_us
    ]


def _more(results: Results, case: Case, server: str) -> list[float]:
    """µs of CPU that a request costs that gateway more than the plain one, round by round."""
    pairs = zip(results.samples.get((case.name, server), ()), results.samples[case.name, GATEWAY], strict=False)
    return [mine.cpu_us - plain.cpu_us for mine, plain in pairs if mine.cpu_us is not None and plain.cpu_us is not None]


def _faster(results: Results, case: Case, server: str) -> list[float]:
    """How many times the plain one's requests that gateway answers in the same time, round by round."""
    pairs = zip(results.samples.get((case.name, server), ()), results.samples[case.name, GATEWAY], strict=False)
    return [mine.per_s / plain.per_s for mine, plain in pairs]


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """With the first row as its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _goal(case: Case) -> str:
    ways = []
    if case.of_nginx is not None:
        ways.append(f"{case.of_nginx:g} nginx")
    if case.of_small is not None:
        ways.append(f"{case.of_small:g} small")
    return "≤ " + " or ".join(ways) if ways else ""


def _added(server: str, values: Sequence[float]) -> str:
    return "" if server == DIRECT else f"{statistics.median(values):+.2f}"


def _spread(values: Sequence[float], digits: int = 0) -> str:
    if not values:
        return ""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f}" if least == most else f"{middle:.{digits}f} ({least:.{digits}f}-{most:.{digits}f})"


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _output(command: Sequence[str]) -> str:
    """What a command says, on either stream; empty when it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return (done.stdout or done.stderr).strip()
