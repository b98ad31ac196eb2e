"""Turns what was measured into one table and the facts without which it means nothing. Pure but for `machine`."""

import importlib.metadata
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.bench.processes import ROOT, nginx_binary
from tests.bench.rounds import DIRECT, GATEWAY, NGINX, SMALL, TRACED, Case, Results, Sample

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
        for position, server in enumerate(results.servers):
            rows.append((case.name if position == 0 else "", server.name, *_cells(results, case, server.name)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADERS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def notes(results: Results) -> str:
    """What stands below the table: what the cases are, start-up, memory, and what to mistrust."""
    lines = [f"{case.name}: {case.what}" for case in results.cases]
    names = {server.name for server in results.servers}
    lines.append(f"gateway start, spawn to first 200 from /healthz: {_spread(results.starts_s, 2)} s")
    lines += [
        f"resident memory of {server.name}: {server.rss_idle_mib:.0f} MiB warm, {server.rss_after_mib:.0f} MiB after"
        for server in results.servers
        if server.process is not None
    ]
    if TRACED in names:
        lines.append(f"the collector took {results.exports} exports, {results.export_bytes / 1024:.0f} KiB")
        if not results.exports:
            lines.append("WARNING: nothing was traced; the traced rows show no tracing")
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
    commit = _output(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]) or "unknown"
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return (
        f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, load average {load}\n"
        f"Python {version} configured {optimized} --enable-optimizations, nginx {server}, {packages}; "
        f"gateway at {commit}"
    )


def _cells(results: Results, case: Case, server: str) -> Sequence[str]:
    samples = results.samples[case.name, server]
    direct = results.samples[case.name, DIRECT]
    cpu = [sample.cpu_us for sample in samples if sample.cpu_us is not None]
    of_nginx = _ratios(samples, results.samples.get((case.name, NGINX), ()))
    of_small = _ratios(samples, results.samples.get((SMALL, server), ()))
    is_ours = server in {GATEWAY, TRACED}
    return (
        _spread(cpu),
        "" if server == NGINX else _spread(of_nginx, 2),
        _spread(of_small, 2) if is_ours and case.name != SMALL else "",
        _goal(case) if is_ours else "",
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


def _goal(case: Case) -> str:
    ways = []
    if case.of_nginx is not None:
        ways.append(f"{case.of_nginx:g} nginx")
    if case.of_small is not None:
        ways.append(f"{case.of_small:g} small")
    return "≤ " + " or ".join(ways)


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
