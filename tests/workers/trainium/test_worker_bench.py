"""The benchmark's own workings; its figures say nothing on a tiny model."""

import json

from tests.workers.trainium.process import WorkerProcess
from workers.trainium.bench import Figures, Plan, Server, measure, table


def test_every_figure_is_measured_on_a_running_server(tiny_worker: WorkerProcess) -> None:
    """Through HTTP and /proc, as it is done with any engine."""
    server = Server("ours", tiny_worker.base_url, tiny_worker.pid, "tiny", {"cache_salt": "bench"}, 1.5)
    figures = measure(server, Plan(tokens=4, rounds=1, short=2))
    assert set(figures.decode) == {1, 8}
    assert min(figures.decode.values()) > 0
    assert min(figures.held, figures.prefill) > 0
    assert 0 < figures.first_token_ms[0] <= figures.first_token_ms[1]
    assert figures.peak_mb > 50
    assert figures.compile_s is not None
    assert figures.start_s == 1.5


def test_the_table_shows_both_engines_and_their_ratios() -> None:
    """So that the reader need not divide."""
    ours = Figures("ours", {1: 40.0, 8: 100.0}, 90.0, 500.0, (80.0, 90.0), 1500.0, 5.0, 20.0)
    theirs = Figures("llama.cpp", {1: 80.0, 8: 125.0}, 60.0, 250.0, (100.0, 300.0), 400.0, 1.0)
    text = table([ours, theirs])
    assert "batch 8 against batch 1: 2.50" in text
    assert "decode 0.50 at batch 1, 0.80 at batch 8, 1.50 held to a schema; prefill 2.00" in text
    assert "against" not in table([ours]).replace("batch 8 against batch 1", "")


def test_addresses_are_found_in_what_servers_say() -> None:
    """Ours in its log, llama.cpp's in the line that its process prints."""
    from workers.trainium import bench

    event = json.dumps({"event": "server.listening", "host": "127.0.0.1", "port": 7})
    assert bench._ours(event) == "http://127.0.0.1:7"
    assert bench._ours("noise") is None
    assert bench._theirs("listening http://127.0.0.1:8\n") == "http://127.0.0.1:8"
    assert bench._theirs("noise") is None
