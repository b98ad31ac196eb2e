"""Reports of Neuron devices, as AWS documents them."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.workers.trainium.process import WorkerProcess, eventually
from workers.trainium.metrics import Gauges, Metrics
from workers.trainium.monitor import DeviceUse, read_report, watch_devices


def only(own: int) -> Callable[[int], bool]:
    return lambda pid: pid == own


def report(pid: int, *, hardware: int = 0, uncorrected: int = 0) -> str:
    """One line of the program."""
    errors = {"generic": 0, "numerical": 2, "transient": 0, "model": 0, "runtime": 0, "hardware": hardware}
    mine: dict[str, Any] = {
        "pid": pid,
        "neuron_runtime_tag": "367",
        "error": "",
        "report": {
            "execution_stats": {"period": 5.0, "error_summary": errors, "execution_summary": {"completed": 10}},
            "memory_used": {
                "period": 5.0,
                "neuron_runtime_used_bytes": {"host": 6997643264, "neuron_device": 12519788544},
            },
            "neuroncore_counters": {
                "period": 5.0,
                "neuroncores_in_use": {
                    "0": {"neuroncore_utilization": 42.5, "flops": 1},
                    "1": {"neuroncore_utilization": 0},
                },
            },
        },
    }
    other = {"pid": pid + 1, "report": {"memory_used": {"neuron_runtime_used_bytes": {"neuron_device": 7}}}}
    device = {"neuron_device_index": 0, "mem_ecc_corrected": 3, "mem_ecc_uncorrected": uncorrected}
    system = {"neuron_hw_counters": {"period": 5.0, "neuron_devices": [device]}, "vcpu_usage": {"period": 5.0}}
    return json.dumps(
        {"neuron_runtime_data": [other, mine], "system_data": system, "instance_info": {"instance_type": "trn2"}}
    )


def test_a_report_is_read_for_ones_own_process() -> None:
    """Other processes have cores of their own."""
    use = read_report(report(10).encode(), only(10))
    assert use == DeviceUse({"0": 0.425, "1": 0.0}, 12519788544, {"numerical": 2}, is_broken=False)
    assert read_report(report(10, uncorrected=1).encode(), only(99)) == DeviceUse()
    assert read_report(b"not a report", only(10)) is None
    assert read_report(b'{"neuron_runtime_data": 1}', only(10)) is None


def test_the_cores_of_several_processes_are_added_up() -> None:
    """A model that is split over devices may have a process for each."""
    use = read_report(report(10).encode(), {10, 11}.__contains__)
    assert use == DeviceUse({"0": 0.425, "1": 0.0}, 12519788544 + 7, {"numerical": 2}, is_broken=False)


@pytest.mark.parametrize("kind", ["hardware", "uncorrected"])
def test_broken_hardware_is_noticed(kind: str) -> None:
    """A failed execution for want of hardware, or memory that lost a bit for good."""
    use = read_report(report(10, **{kind: 1}).encode(), only(10))
    assert use is not None
    assert use.is_broken


def test_without_reports_there_are_no_gauges() -> None:
    """A zero would be a lie; with reports they have their cores and kinds."""
    metrics, gauges = Metrics(), Gauges(0, 0, 4, 0.0, 0, 0)
    assert "trn_worker_device" not in metrics.render("m", gauges)
    metrics.devices = read_report(report(10).encode(), only(10))
    metrics.device_errors["numerical"] += 2
    text = metrics.render("m", gauges)
    assert 'trn_worker_device_utilization{model_name="m",core="0"} 0.425' in text
    assert 'trn_worker_device_errors_total{model_name="m",kind="numerical"} 2' in text


def fake_monitor(folder: Path, text: str) -> Path:
    """A program of the real one's name that reports and goes on."""
    path = folder / "neuron-monitor"
    path.write_text(f"#!/bin/sh\n{text}\nexec sleep 60\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


async def test_the_program_is_read_until_nobody_asks_any_more(tmp_path: Path) -> None:
    """Line by line; where it is not installed there is nothing to read."""
    path = fake_monitor(tmp_path, f"echo noise\necho '{report(10)}'\necho '{report(10, hardware=1)}'")
    found: list[DeviceUse] = []
    with anyio.fail_after(30):
        await watch_devices(only(10), found.append, program=str(tmp_path / "missing"))
        async with anyio.create_task_group() as group:

            def note(use: DeviceUse) -> None:
                found.append(use)
                if len(found) == 2:
                    group.cancel_scope.cancel()

            async def watch() -> None:
                await watch_devices(only(10), note, program=str(path))

            group.start_soon(watch)
    assert [use.is_broken for use in found] == [False, True]


def test_a_worker_on_broken_hardware_takes_no_more_requests(
    tiny_path: Path, worker_cache: Path, tmp_path: Path
) -> None:
    """Readiness says so, and why."""
    line = report(10, uncorrected=1).replace('"pid": 10', "\"pid\": '$PPID'")
    fake_monitor(tmp_path, f"echo '{line}'")
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with WorkerProcess(tiny_path, worker_cache, "--max-model-len", "8192", env=env) as worker:
        eventually(lambda: worker.http.get("/ready").json()["status"] == "failed")
        assert "hardware" in worker.http.get("/ready").json()["detail"]
        assert worker.http.get("/health").status_code == 503
        assert "trn_worker_device_utilization" in worker.http.get("/metrics").text
