"""A simulation as a job: from files and trees to a report, in a process of its own beside a gateway that serves.

Takes only what can be sent to another process: sources, overlays, paths. `simulate` does the work.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from gateway.config.policies import Overlay, PolicyBook, Sources, assemble
from gateway.config.yaml_file import Tree
from gateway.control.independence import domain_of
from gateway.control.portability import ModelPortability, portability
from gateway.control.recorder import recorded
from gateway.control.simulate import Question, simulate
from gateway.control.simulated import Simulation
from gateway.control.spans import HOUR_S, lead_s
from gateway.control.underway import counting
from gateway.domain.backend import Backend
from gateway.domain.policy import Dimension

DAY_S: Final = 86_400.0
YEAR_S: Final = 366 * DAY_S


class SimulationWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be simulated. Without a draft it is what holds, of which something is taken away."""

    document: dict[str, Any] | None = None
    """A policy as it stands in the configuration."""
    revision: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """One that was written already; 0 is what the files say. Not with `document`."""
    without: dict[Dimension, str] = {}
    """Failure domains taken away after: `{"provider": "openai"}`."""
    duration_s: Annotated[float, msgspec.Meta(gt=0, le=YEAR_S)] | None = HOUR_S
    """How long that is away: the report is of this time. Null for all that was recorded. Without `without` it is."""
    starts_at: float | None = None
    """When it goes, in seconds since the epoch; null for when the policy was asked most."""
    window_s: Annotated[float, msgspec.Meta(gt=0, le=YEAR_S)] = DAY_S
    """The recorded requests of so many last seconds, and those that `starts_at` needs."""


class NoSuchDomain(Exception):
    """Raised when what is to be taken away is nowhere: a rehearsal of that would prove nothing. Says what there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that a simulation needs to know."""

    file: Path
    """Of recorded decisions."""
    sources: Sources
    overlay: Overlay
    """What holds in place of the files."""
    policy: str
    draft: Tree = None
    """In place of what holds; None for no other."""
    without: Mapping[Dimension, str] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)
    gateways: int = 1
    """How many share the backends' limits; the file is one's."""
    duration_s: float | None = None
    """How long `without` is away; None for all the time."""
    starts_at: float | None = None
    """From when on; None for when the policy was asked most."""
    since: float = 0.0
    """Seconds since the epoch."""
    progress: Path | None = None
    """Where the process that reckons notes how far it is."""

    def check(self) -> tuple[PolicyBook, PolicyBook]:
        """What holds, and what is tried. Raises ConfigurationError for a draft with mistakes, NoSuchDomain."""
        before = assemble(self.sources, self.overlay)
        check_without(self.without, before.backends)
        if self.draft is None:
            return before, before
        return before, assemble(self.sources, drafted(self.overlay, self.policy, self.draft))

    def run(self, told: Callable[[int], None] = lambda _done: None) -> Simulation:
        """The report. Raises as `check` does, and RecordUnusable."""
        before, after = self.check()
        question = Question(
            policy=self.policy,
            before=before,
            after=after,
            without=self.without,
            unavailable=self.unavailable,
            lasts_s=self.duration_s if self.without else None,
            starts_at=self.starts_at,
            gateways=self.gateways,
        )
        since = self.since
        if self.starts_at is not None:
            since = min(since, self.starts_at - lead_s(after, self.policy))
        return simulate(question, lambda: recorded(self.file, since=since), told)


def check_without(without: Mapping[Dimension, str], backends: Mapping[str, Backend]) -> None:
    """See that what is to be taken away is there. Raises NoSuchDomain."""
    for dimension, value in without.items():
        known = sorted({domain_of(name, backend, dimension) for name, backend in backends.items()})
        if value not in known:
            raise NoSuchDomain(f"No backend has the {dimension} {value[:64]!a}; there is {', '.join(known)}.")


def drafted(overlay: Overlay, policy: str, draft: Tree) -> Overlay:
    """What would hold in place of the files if the draft did."""
    return {**overlay, "policies": {**overlay.get("policies", {}), policy: draft}}


def run_apart(job: Job) -> bytes:
    """The report as JSON; runs in a process of its own."""
    with counting(job.progress) as told:
        return msgspec.json.encode(job.run(told))


def report_portability(file: Path, sources: Sources, overlay: Overlay, since: float) -> list[ModelPortability]:
    """Which part of the recorded traffic could go where, under what holds."""
    return list(portability(recorded(file, since=since), assemble(sources, overlay)))


def portability_apart(file: Path, sources: Sources, overlay: Overlay, since: float) -> bytes:
    """The same as JSON, in a process of its own."""
    return msgspec.json.encode(report_portability(file, sources, overlay, since))
