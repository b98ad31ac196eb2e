"""Reads `neuron-monitor`, AWS's reporter of Neuron devices: use, memory and errors of this worker's cores.

The program prints one JSON object per period. Where it is not installed nothing is reported: a gauge that is absent is
true, a zero would not be. Tested with reports as AWS documents them, not yet on a device.
"""

import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import anyio
import msgspec
import structlog

BROKEN: Final = "the device reports hardware errors; replace the instance"
"""Why a worker that heard so takes no more requests."""
_PROGRAM: Final = "neuron-monitor"
_LONGEST_REPORT: Final = 1 << 20

log = structlog.get_logger()


class _Core(msgspec.Struct, frozen=True):
    neuroncore_utilization: float = 0.0


class _Counters(msgspec.Struct, frozen=True):
    neuroncores_in_use: dict[str, _Core] = {}


class _UsedBytes(msgspec.Struct, frozen=True):
    neuron_device: int = 0


class _MemoryUsed(msgspec.Struct, frozen=True):
    neuron_runtime_used_bytes: _UsedBytes = _UsedBytes()


class _Executions(msgspec.Struct, frozen=True):
    error_summary: dict[str, int] = {}


class _RuntimeReport(msgspec.Struct, frozen=True):
    neuroncore_counters: _Counters = _Counters()
    memory_used: _MemoryUsed = _MemoryUsed()
    execution_stats: _Executions = _Executions()


class _Runtime(msgspec.Struct, frozen=True):
    pid: int
    report: _RuntimeReport = _RuntimeReport()


class _Device(msgspec.Struct, frozen=True):
    mem_ecc_uncorrected: int = 0
    sram_ecc_uncorrected: int = 0


class _HardwareCounters(msgspec.Struct, frozen=True):
    neuron_devices: list[_Device] | None = None


class _System(msgspec.Struct, frozen=True):
    neuron_hw_counters: _HardwareCounters = _HardwareCounters()


class _Report(msgspec.Struct, frozen=True):
    neuron_runtime_data: list[_Runtime] = []
    system_data: _System = _System()


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """One report, as far as it is about one worker's processes."""

    utilization: Mapping[str, float] = field(default_factory=dict)
    """Core → share of its time in use, between 0 and 1."""
    memory_bytes: int | None = None
    """On the devices; None when the processes hold none."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """Kind of failed execution → how many in this period."""
    is_broken: bool = False
    """Whether the hardware reports errors that a restart of the process does not mend."""


def read_report(line: bytes, is_ours: Callable[[int], bool]) -> DeviceUse | None:
    """What a line says of the processes whose ids are ours; None when it is not a report."""
    try:
        report = msgspec.json.decode(line, type=_Report)
    except msgspec.DecodeError:
        return None
    ours = [runtime.report for runtime in report.neuron_runtime_data if is_ours(runtime.pid)]
    if not ours:
        # They hold no core, so broken ones are not their concern.
        return DeviceUse()
    uncorrected = any(
        device.mem_ecc_uncorrected or device.sram_ecc_uncorrected
        for device in report.system_data.neuron_hw_counters.neuron_devices or []
    )
    errors: Counter[str] = Counter()
    for one in ours:
        errors.update({kind: count for kind, count in one.execution_stats.error_summary.items() if count})
    return DeviceUse(
        utilization={
            core: counters.neuroncore_utilization / 100
            for one in ours
            for core, counters in one.neuroncore_counters.neuroncores_in_use.items()
        },
        memory_bytes=sum(one.memory_used.neuron_runtime_used_bytes.neuron_device for one in ours),
        errors=dict(errors),
        is_broken=uncorrected or "hardware" in errors,
    )


async def watch_devices(
    is_ours: Callable[[int], bool], note: Callable[[DeviceUse], None], *, program: str = _PROGRAM
) -> None:
    """Tell `note` of every report until cancelled; returns at once where the program is not installed."""
    path = shutil.which(program)
    if path is None:
        return
    # Not the event loop's own way: it forks, which a process with JAX's threads must not.
    process = subprocess.Popen(  # noqa: ASYNC220, S603  # started in a millisecond; a program the operator installed
        [path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdout is not None  # noqa: S101  # it was asked for
    try:
        while line := await anyio.to_thread.run_sync(process.stdout.readline, _LONGEST_REPORT, abandon_on_cancel=True):
            use = read_report(line, is_ours)
            if use is not None:
                note(use)
        log.warning("monitor.ended", program=program)
    finally:
        with suppress(ProcessLookupError):
            # The whole group: somebody's open end of the pipe would keep the reading thread.
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
