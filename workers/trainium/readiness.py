"""How far the worker is on its way from started to serving. Written by the loading thread, read by the server."""

from typing import Literal, TypeAlias

import msgspec

Stage: TypeAlias = Literal["fetching", "loading", "compiling", "ready", "draining", "failed"]
Status: TypeAlias = Literal["loading", "ready", "draining", "failed"]


class Progress(msgspec.Struct, frozen=True):
    """The body of `/ready`."""

    status: Status
    stage: Stage
    done: int
    total: int
    """0 when it is not known."""
    unit: Literal["bytes", "layers", "executables"]
    """What `done` and `total` count."""
    detail: str
    """For people: what is happening now."""


class Readiness:
    """The newest `Progress`. One frozen value is swapped for the next, so readers in other threads need no lock."""

    def __init__(self) -> None:
        self.now = Progress("loading", "fetching", 0, 0, "bytes", "looking for the model")

    def fetching(self, done: int, total: int, detail: str) -> None:
        """The model's file is on its way; counts bytes."""
        self._move(Progress("loading", "fetching", done, total, "bytes", detail))

    def loading(self, done: int, total: int) -> None:
        """Weights are being read; counts layers."""
        self._move(Progress("loading", "loading", done, total, "layers", "reading the weights"))

    def compiling(self, done: int, total: int, shape: str) -> None:
        """The executables without which nothing can be served are being compiled."""
        self._move(Progress("loading", "compiling", done, total, "executables", shape))

    def ready(self, done: int, total: int, detail: str) -> None:
        """Requests are taken; `done` of `total` executables exist."""
        self._move(Progress("ready", "ready", done, total, "executables", detail))

    def draining(self) -> None:
        """No more requests are taken; the running ones may finish."""
        self._move(msgspec.structs.replace(self.now, status="draining", stage="draining", detail="shutting down"))

    def failed(self, reason: str) -> None:
        """The worker cannot serve and will not recover by itself."""
        self.now = msgspec.structs.replace(self.now, status="failed", stage="failed", detail=reason)

    def _move(self, to: Progress) -> None:
        """Draining and failed are final but for failing: a late report from the loading thread changes nothing."""
        if self.now.status not in ("draining", "failed"):
            self.now = to
