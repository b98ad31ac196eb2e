"""The benchmark works: it starts what it measures, and its table leaves nothing out."""

import dataclasses
import shutil

from tests.bench.report import facts, notes, table
from tests.bench.rounds import CASES, DIRECT, GATEWAY, TRACED, Size, run

TINY = Size(rounds=1, seconds=0.25, warm_s=0.0, requests=100, settles=0.2, starts=1, streams=40)


def test_the_smallest_run_fills_every_row_of_the_table() -> None:
    """Without nginx, so that it passes where there is none. The receiver has seen spans: the traced rows did trace."""
    cases = [dataclasses.replace(case, concurrency=min(case.concurrency, 4)) for case in CASES]
    results = run(TINY, cases, with_nginx=False)
    for case in CASES:
        for server in (DIRECT, GATEWAY, TRACED):
            (sample,) = results.samples[case.name, server]
            assert 0 < sample.requests <= TINY.requests
            assert 0 < sample.p50_ms <= sample.p99_ms
            assert (sample.cpu_us is None) if server == DIRECT else (sample.cpu_us is not None and sample.cpu_us > 0)
    head, rule, *rows = table(results).splitlines()
    assert head.split()[:2] == ["case", "server"]
    assert set(rule) == {"-", " "}
    assert [row.split()[0] for row in rows if not row.startswith(" ")] == [case.name for case in CASES]
    assert len(rows) == sum(len(results.serving(case)) for case in CASES)
    rest = facts(results)
    assert "40 slow streams" in rest
    assert "100 % traced, small-c32" in rest
    assert ("Redis store, small-c1" in rest) == (shutil.which("redis-server") is not None)
    said = notes(results)
    assert "nginx is not installed or was left out" in said
    assert "WARNING" not in said
    of_process = results.footprint
    assert 0 < min(of_process.starts_s) < min(of_process.first_answers_s)
    assert 0 < of_process.idle_mib <= of_process.streams_mib
    assert min(of_process.counting_mib, of_process.warm_mib) > 0
