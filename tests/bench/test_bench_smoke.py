"""The benchmark works: it starts what it measures, and its table leaves nothing out."""

import dataclasses

from tests.bench.report import notes, table
from tests.bench.rounds import CASES, DIRECT, GATEWAY, TRACED, Size, run

TINY = Size(rounds=1, seconds=0.25, warm_s=0.0, requests=100, settles=0.25, starts=1)


def test_the_smallest_run_fills_every_row_of_the_table() -> None:
    """Without nginx, so that it passes where there is none. The collector has seen spans: the traced row did trace."""
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
    assert [row.split()[0] for row in rows[::3]] == [case.name for case in CASES]
    assert len(rows) == 3 * len(CASES)
    said = notes(results)
    assert "nginx is not installed or was left out" in said
    assert "WARNING" not in said
    assert min(results.starts_s) > 0
