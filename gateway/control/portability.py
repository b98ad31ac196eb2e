"""Which part of real traffic could go to which target, and what keeps the rest from it. Pure.

A request is portable to a target when nothing lasting is against it: what it asks for, its length, what the target's
dialect has words for. Whether the target is well or has room is another matter.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from gateway.config.policies import PolicyBook
from gateway.control.recorded import Features
from gateway.control.replay import Kind, Replay

_PLAIN = "plain text"


class Blocker(msgspec.Struct, frozen=True, kw_only=True):
    """Something that keeps requests from a target."""

    reason: str
    """`capability:vision`, `unsupported:n`, `context`, `condition`."""
    requests: int


class TargetPortability(msgspec.Struct, frozen=True, kw_only=True):
    """One target of a model."""

    target: str
    portable: int
    """Requests that it could serve."""
    share: float
    blocked_by: tuple[Blocker, ...]
    """The rest, the largest first."""


class FeatureSet(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that ask for the same."""

    needs: str
    """`tools, vision`; `plain text` for nothing more."""
    requests: int
    with_alternative: int
    """Those that at least two providers could serve."""


class ModelPortability(msgspec.Struct, frozen=True, kw_only=True):
    """One public model of a policy."""

    policy: str
    model: str
    requests: int
    with_alternative: int
    share: float
    """The part that at least two providers could serve."""
    targets: tuple[TargetPortability, ...]
    feature_sets: tuple[FeatureSet, ...]
    """The largest first."""


@dataclass(slots=True)
class _Model:
    requests: int = 0
    alternative: int = 0
    portable: Counter[str] = field(default_factory=Counter)
    blocked: Counter[tuple[str, str]] = field(default_factory=Counter)
    sets: Counter[tuple[str, ...]] = field(default_factory=Counter)
    sets_alternative: Counter[tuple[str, ...]] = field(default_factory=Counter)


class Portability:
    """The sums. `take` each request, then ask for the `report`."""

    __slots__ = ("_counted", "_kinds")

    def __init__(self) -> None:
        self._counted: Counter[tuple[str, str, tuple[str, ...], int]] = Counter()
        self._kinds: dict[int, Kind] = {}

    def take(self, each: Features, policy: str, kind: Kind | None) -> None:
        """Count a request, with what it counts as; None, as the policy has no such model, does not count."""
        if kind is not None:
            self._kinds[id(kind)] = kind  # Held, so that its identity stays its own.
            self._counted[policy, each.model, each.needs, id(kind)] += 1

    def report(self) -> tuple[ModelPortability, ...]:
        """By policy and model."""
        models: dict[tuple[str, str], _Model] = defaultdict(_Model)
        for (policy, model, needs, kind), count in self._counted.items():
            _add(models[policy, model], needs, self._kinds[kind], count)
        return tuple(_of_model(policy, model, models[policy, model]) for policy, model in sorted(models))


def portability(batches: Iterable[Sequence[Features]], book: PolicyBook) -> tuple[ModelPortability, ...]:
    """The report for every model of every policy that these requests asked for."""
    sums = Portability()
    replays = {name: Replay(book, name) for name in book.policies}
    for batch in batches:
        for each in batch:
            name = each.policy.partition("@")[0]
            if name in replays:
                sums.take(each, name, replays[name].kind(each))
    return sums.report()


def _add(model: _Model, needs: tuple[str, ...], kind: Kind, count: int) -> None:
    has_alternative = len(kind.providers) > 1
    model.requests += count
    model.sets[needs] += count
    if has_alternative:
        model.alternative += count
        model.sets_alternative[needs] += count
    for target in kind.eligible:
        model.portable[target.name] += count
    for name, reason in kind.excluded.items():
        model.blocked[name, reason] += count


def _of_model(policy: str, name: str, model: _Model) -> ModelPortability:
    targets = sorted(model.portable.keys() | {target for target, _ in model.blocked})
    return ModelPortability(
        policy=policy,
        model=name,
        requests=model.requests,
        with_alternative=model.alternative,
        share=model.alternative / model.requests,
        targets=tuple(
            TargetPortability(
                target=target,
                portable=model.portable[target],
                share=model.portable[target] / model.requests,
                blocked_by=tuple(
                    Blocker(reason=reason, requests=count)
                    for (blocked, reason), count in model.blocked.most_common()
                    if blocked == target
                ),
            )
            for target in targets
        ),
        feature_sets=tuple(
            FeatureSet(needs=", ".join(needs) or _PLAIN, requests=count, with_alternative=model.sets_alternative[needs])
            for needs, count in model.sets.most_common()
        ),
    )
