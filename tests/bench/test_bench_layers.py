"""The layer profile charges whoever was at work, and leaves no room out."""

import time
from pathlib import Path

import pytest

from tests.bench.layers import BENCH, LAYERS, SERVER, Looks, layer_of, measured, table
from tests.bench.processes import ROOT

OUTSIDE = {"__init__.py", "__main__.py", "app.py", "demo.py", "serve.py", "stores.py", "supervise.py"}
"""Of `gateway/` itself: what no request goes through."""
SPIN = "def spin(until, inner=None):\n    while clock() < until:\n        inner and inner(clock() + 0.0005)\n"


@pytest.mark.parametrize(
    ("file", "layer"),
    [
        ("gateway/api/edge_request.py", "edge: parse, write"),
        ("gateway/api/stream.py", "drive the exchange"),
        ("gateway/pipeline/intake.py", "intake, auth"),
        ("gateway/pipeline/exchange.py", "relay"),
        ("gateway/pipeline/bill.py", "settlement"),
        ("gateway/dialects/openai/stream.py", "relay"),
        ("tests/bench/inside.py", BENCH),
    ],
)
def test_a_file_belongs_to_the_layer_with_the_longest_beginning(file: str, layer: str) -> None:
    assert layer_of(str(ROOT / file)) == layer


def test_every_file_that_a_request_may_go_through_has_a_layer() -> None:
    files = [file for file in (ROOT / "gateway").rglob("*.py") if file.parent.name != "gateway"]
    files += [file for file in (ROOT / "gateway").glob("*.py") if file.name not in OUTSIDE]
    assert {layer_of(str(file)) for file in files} == set(LAYERS)


def test_what_is_nobodys_counts_for_whoever_called_it() -> None:
    """Nearly all time is that of the function in routing, or of the library's that it called."""
    assert layer_of("/usr/lib/python3/site-packages/uvicorn/server.py") == SERVER
    assert layer_of("/usr/lib/python3/enum.py") is None
    ours: dict[str, object] = {"clock": time.thread_time}
    theirs = dict(ours)
    exec(compile(SPIN, str(Path("/usr/lib/python3/enum.py")), "exec"), theirs)  # text of this file's
    exec(compile(SPIN, str(ROOT / "gateway/routing/choose.py"), "exec"), ours)  # the same
    looks = Looks()
    with looks:
        ours["spin"](time.thread_time() + 0.05, theirs["spin"])  # type: ignore[operator]  # it was compiled above
    assert looks.found_s["routing"] > 0.8 * sum(looks.found_s.values()) > 0


def test_the_table_tells_of_every_layer_and_adds_up() -> None:
    costs = measured({"plain": 400, "paced": 100}, settle_s=0.2)
    for cost in costs.values():
        assert sum(cost.layers_us.values()) == pytest.approx(cost.loop_us)
        assert all(cost.layers_calls[layer] > 0 for layer in LAYERS)
    told = table(costs)
    assert all(layer in told for layer in LAYERS)
    assert "thread journal" in told
