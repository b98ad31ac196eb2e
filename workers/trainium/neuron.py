"""Everything that is different on AWS Neuron devices: finding them, telling real packages from placeholders, settings.

The names of AWS's packages exist on the public index as placeholders of 2 kB; the real ones come from AWS's own index.
Not yet run on a device by us: the graphs keep to what Neuron's JAX documents as supported, and tests check that.
"""

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Final

import structlog

from workers.trainium.config import DeviceChoice
from workers.trainium.errors import DeviceUnavailable

_PLUGIN: Final = "libneuronxla"
_COMPILER: Final = "neuronx-cc"
_HOW_TO_INSTALL: Final = (
    "On the instance, install AWS's packages from the Neuron package repository (not from the public index): "
    "`jax-neuronx[stable]`, as the Neuron documentation's JAX set-up page shows, or start from AWS's Neuron images."
)

_JAX_PACKAGES: Final = (_PLUGIN, _COMPILER, "jax-neuronx")
"""What JAX on Neuron stands on."""
VLLM_PACKAGES: Final = ("vllm-neuron", _PLUGIN, _COMPILER, "torch-neuronx")
"""What vLLM on Neuron stands on; the public index has placeholders of these names."""
_LAST_PLACEHOLDERS: Final = {
    "jax-neuronx": (0, 0),
    "libneuronxla": (1,),
    "neuronx-cc": (1,),
    "torch-neuronx": (1,),
    "vllm-neuron": (0, 1),
}
"""The highest version of each placeholder, as far as it tells it from the real ones."""
_NO_CORE: Final = re.compile(
    r"nrt_init|nrt_allocate_neuron_cores|NRT_RESOURCE|NRT_LOAD_NOT_ENOUGH_NC|NRT_EXEC_NC_BUSY"
    r"|No neuron device available|Neuron ?Core(?:\(s\))?.*(?:in use|reserved|not available)"
)
"""How the runtime says that it did not get its cores."""
_NO_MEMORY: Final = re.compile(r"RESOURCE_EXHAUSTED|[Oo]ut of memory")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Backend:
    """All that the rest of the worker needs to know of the device; the only place where platforms differ."""

    platform: str
    """JAX's name for it."""
    dtype: str
    prefill: tuple[int, ...]
    """Tokens per prompt chunk, ascending."""
    environment: Mapping[str, str]
    """Variables that must be set before JAX is imported; the user's own settings win."""


_CPU: Final = Backend(
    platform="cpu",
    # bfloat16 is 13 times slower on this kind of CPU.
    dtype="float32",
    prefill=(64, 256),
    environment={
        "JAX_PLATFORMS": "cpu",
        # Loading a cached executable logs pages about `prefer-no-gather`, which is a compiler hint, not a CPU feature.
        "TF_CPP_MIN_LOG_LEVEL": "3",
    },
)
_NEURON: Final = Backend(
    platform="neuron",
    dtype="bfloat16",
    prefill=(128, 512),
    environment={
        "JAX_PLATFORMS": "neuron,cpu",
        # Eager operations would compile one executable each.
        "NEURON_RT_STOCHASTIC_ROUNDING_EN": "0",
        "NEURON_RUN_TRIVIAL_COMPUTATION_ON_CPU": "1",
        "NEURON_CC_FLAGS": "--model-type=transformer --auto-cast=none",
    },
)


def installed_version(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def has_device_node(root: Path = Path("/dev")) -> bool:
    """Whether the kernel driver shows a Neuron device."""
    return any(root.glob("neuron[0-9]*"))


def what_is_placeholder(name: str, version: str | None) -> str | None:
    """Why the installed package is not the real one; None when it is, or is not installed."""
    if version is None:
        return None
    last = _LAST_PLACEHOLDERS[name]
    numbers = tuple(int(part) for part in version.split(".")[: len(last)] if part.isdigit())
    if numbers > last:
        return None
    return f"`{name}` {version} is the public index's placeholder, not the package. {_HOW_TO_INSTALL}"


def find_compiler(
    version_of: Callable[[str], str | None] = installed_version, find: Callable[[str], str | None] = shutil.which
) -> str | None:
    """The path of `neuronx-cc`; None when it is not there, or is the public index's placeholder."""
    path = find(_COMPILER)
    return None if path is None or what_is_placeholder(_COMPILER, version_of(_COMPILER)) else path


def explain_failure(lines: Sequence[str]) -> str:
    """What an error, or the last lines of a process, say of its devices, for people; empty when nothing."""
    if any(_NO_CORE.search(line) for line in lines):
        return (
            " A NeuronCore is missing, or reserved by another process: look with `neuron-ls`, and give this worker its "
            "own with NEURON_RT_VISIBLE_CORES."
        )
    if any(_NO_MEMORY.search(line) for line in lines):
        return (
            " The device has too little memory for this: fewer --slots and a smaller --max-model-len need less, and "
            "--tensor-parallel-size splits it over several."
        )
    return ""


def choose_backend(
    wanted: DeviceChoice,
    *,
    version_of: Callable[[str], str | None] = installed_version,
    device_present: Callable[[], bool] = has_device_node,
) -> Backend:
    """The backend for `--device`; `auto` takes a Neuron device when plugin and device are both there.

    Raises `DeviceUnavailable` when `neuron` was asked for and something is missing, or when there is a device and only
    placeholders to use it with: whoever installed those did not want a CPU. The message says what to install.
    """
    if wanted == "cpu":
        return _CPU
    found = {name: version_of(name) for name in _JAX_PACKAGES}
    placeholders = [problem for name in _JAX_PACKAGES if (problem := what_is_placeholder(name, found[name]))]
    is_present = device_present()
    if placeholders and (is_present or wanted == "neuron"):
        raise DeviceUnavailable(f"--device {wanted}: {placeholders[0]}")
    missing = [name for name in (_PLUGIN, _COMPILER) if found[name] is None]
    if is_present and not missing and not placeholders:
        return _NEURON
    if wanted == "auto":
        if is_present:
            log.warning("device.unused", missing=missing, instead="cpu", how=_HOW_TO_INSTALL)
        return _CPU
    if missing:
        raise DeviceUnavailable(f"--device neuron: `{missing[0]}` is not installed. {_HOW_TO_INSTALL}")
    raise DeviceUnavailable(
        "--device neuron: this machine shows no Neuron device (/dev/neuron0); is it an Inf2 or Trn instance with the "
        f"driver? {_HOW_TO_INSTALL}"
    )


def profile_for_build(name: str, devices: int) -> Backend:
    """A device's types and bucket sizes on a machine without it: graphs are made on the CPU for a build host.

    As many CPU devices are shown to JAX as the model is to be split over.
    """
    backend = _NEURON if name == "neuron" else _CPU
    # Beside the user's own flags, which would otherwise stand alone.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    os.environ["XLA_FLAGS"] = flags.strip()
    return replace(backend, platform="cpu", environment=_CPU.environment)


def prepare_environment(backend: Backend, *, devices: int, cache_dir: Path) -> None:
    """Set what must be set before JAX is imported; what the user has set stays.

    On Neuron as many cores are taken as share the model, not all there are: a core that one process has is lost to all
    others until it ends. What the compiler made is kept with the models.
    """
    wanted = dict(backend.environment)
    if backend.platform == _NEURON.platform:
        wanted["NEURON_COMPILE_CACHE_URL"] = str(cache_dir / "neff")
        if "NEURON_RT_VISIBLE_CORES" not in os.environ:
            wanted["NEURON_RT_NUM_CORES"] = str(devices)
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
