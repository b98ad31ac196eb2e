"""How `vllm serve` is called, and whether it can be. Renders values; runs nothing."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from workers.trainium.config import Settings
from workers.trainium.errors import WorkerError
from workers.trainium.neuron import VLLM_PACKAGES, installed_version, what_is_placeholder

_OURS: Final = ("--host", "--port", "--served-model-name", "--api-key")
"""Arguments this worker sets, or that would lock it out."""


@dataclass(frozen=True, slots=True)
class Command:
    """A checked call of `vllm serve`, but for its port."""

    program: tuple[str, ...]
    arguments: tuple[str, ...]

    @property
    def is_by_priority(self) -> bool:
        """Whether requests may be given a priority; by default vLLM serves them in order, and refuses one."""
        said = " ".join(self.arguments).replace("=", " ")
        return "--scheduling-policy priority" in said

    def at(self, port: int) -> list[str]:
        """The whole call; it listens on the loopback address only."""
        return [*self.program, *self.arguments, "--host", "127.0.0.1", "--port", str(port)]


def check_command(
    settings: Settings,
    program: Sequence[str],
    further: Sequence[str],
    *,
    version_of: Callable[[str], str | None] = installed_version,
    find: Callable[[str], str | None] = shutil.which,
) -> Command:
    """The call for these settings. Raises `WorkerError` that says what to install, or which argument is ours."""
    for name in VLLM_PACKAGES:
        problem = what_is_placeholder(name, version_of(name))
        if problem is not None:
            raise WorkerError(f"--engine vllm: {problem}")
    if not program or find(program[0]) is None:
        raise WorkerError(
            f"--engine vllm: there is no program `{program[0] if program else ''}`. Install `vllm` (Nvidia), or start "
            f"from AWS's Neuron images for vLLM (Trn2, Trn3), or name it with --vllm-command."
        )
    for argument in further:
        if argument.split("=")[0] in _OURS:
            raise WorkerError(f"--vllm-args: `{argument}` is set by this worker")
    arguments = ["serve", settings.model, "--served-model-name", public_name(settings.model)]
    arguments += ["--max-model-len", str(settings.max_len), "--max-num-seqs", str(settings.slots)]
    arguments += ["--tensor-parallel-size", str(settings.devices)]
    # Or its usage says nothing of cached tokens, which cost less.
    arguments += ["--enable-prompt-tokens-details"]
    return Command(tuple(program), (*arguments, *further))


def public_name(model: str) -> str:
    """The name clients use: the last part of a path or of a hub's name."""
    return model.rstrip("/").rsplit("/", 1)[-1]
