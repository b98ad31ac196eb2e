"""What recorded traffic uses and a draft's targets cannot serve: warnings with places, for whoever saves it. Pure.

A warning keeps nothing from being saved. It counts requests as `portability` does: by what lasts, not by who is well.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from gateway.config.policies import PolicyBook
from gateway.config.problems import Path, Problem, of_policy, render
from gateway.control.portability import ModelPortability, Portability
from gateway.control.recorded import Features
from gateway.control.replay import Replay
from gateway.control.shown import Mistake
from gateway.domain.policy import Policy, TargetGroup, TargetRef

RECENT: Final = 20_000
"""Requests that a draft is held against when it is saved: some 100 ms of work."""
_NAMED: Final = 4
"""Reasons that one warning names; the rarer ones are counted together."""
_CONDITION: Final = "condition"


def warnings_of(book: PolicyBook, policy: str, batches: Iterable[Sequence[Features]]) -> tuple[Mistake, ...]:
    """What is worth a warning of this policy: by the configuration alone, then by these requests."""
    return tuple(map(_shown, of_policy(book.warnings, policy))) + tuple(_found(book, policy, batches))


def _found(book: PolicyBook, policy: str, batches: Iterable[Sequence[Features]]) -> Iterator[Mistake]:
    sums, replay = Portability(), Replay(book, policy)
    unknown: Counter[str] = Counter()
    nowhere: Counter[str] = Counter()
    for batch in batches:
        for each in batch:
            if each.policy.partition("@")[0] != policy:
                continue
            kind = replay.kind(each)
            if kind is None:
                unknown[each.model] += 1
            else:
                sums.take(each, policy, kind)
                nowhere[each.model] += not kind.eligible
    for model, count in sorted(unknown.items()):
        message = f"has no model {model!a}, which {_requests(count)} of the recorded traffic asked for"
        yield Mistake(render(("policies", policy, "models")), message)
    held = book.policies[policy].policy
    for report in sums.report():
        here: Path = ("policies", policy, "models", report.model)
        if nowhere[report.model]:
            text = f"no target could serve {_part(nowhere[report.model], report)}"
            yield Mistake(render(here), text)
        yield from _of_targets(held, report, here)


def _of_targets(policy: Policy, report: ModelPortability, here: Path) -> Iterator[Mistake]:
    places = _places(policy.models[report.model].targets, (*here, "targets"))
    for target in report.targets:
        blocked = [each for each in target.blocked_by if each.reason != _CONDITION]
        count = sum(each.requests for each in blocked)
        if not count:
            continue
        named = [f"{each.reason} ({each.requests})" for each in blocked[:_NAMED]]
        if rest := sum(each.requests for each in blocked[_NAMED:]):
            named.append(f"other reasons ({rest})")
        text = f"could not serve {_part(count, report)}, because of {', '.join(named)}"
        yield Mistake(render(places[target.target]), text)


def _places(entries: Sequence[TargetRef | TargetGroup], path: Path) -> Mapping[str, Path]:
    """Target → where it stands first."""
    found: dict[str, Path] = {}
    for index, entry in enumerate(entries):
        here = (*path, index)
        inner = (
            {f"{entry.backend}/{entry.model}": here}
            if isinstance(entry, TargetRef)
            else _places(entry.targets, (*here, "targets"))
        )
        found = {**inner, **found}
    return found


def _part(count: int, report: ModelPortability) -> str:
    return f"{count / report.requests:.1%} of the {_requests(report.requests)} recorded for this model"


def _requests(count: int) -> str:
    return f"{count} request{'' if count == 1 else 's'}"


def _shown(problem: Problem) -> Mistake:
    return Mistake(problem.path, problem.message)
