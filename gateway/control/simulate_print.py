"""A simulation's report as people read it: tables on stdout."""

# ruff: noqa: T201  # printing is the job

import time
from typing import TYPE_CHECKING

from gateway.control.commands import print_table
from gateway.control.connection import moment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.control.portability import ModelPortability
    from gateway.control.simulated import Simulation


def print_simulation(report: "Simulation") -> None:
    """The whole report."""
    if report.outage_from is not None and report.outage_until is not None:
        away = ", ".join(f"{dimension}={value}" for dimension, value in report.without.items())
        print(f"without {away} from {moment(report.outage_from)} to {moment(report.outage_until)}:")
    print(
        f"{report.requests} requests replayed, {report.moved} would go elsewhere; "
        f"{report.left_out} left out that a limit refused"
    )
    print(f"the replay of what holds agrees with where {report.agreement:.1%} of them went first\n")
    _sides(report)
    _table(
        ("REFUSED", "BECAUSE", "MODEL", "BEFORE", "AFTER"),
        ((each.code, each.because, each.model, str(each.before), str(each.after)) for each in report.refusals),
        right=2,
    )
    _table(("NO OTHER PROVIDER ANY MORE", "REQUESTS"), ((each.model, str(each.requests)) for each in report.losses), 1)
    _table(
        ("TENANT", "MODEL", "FROM", "TO", "REQUESTS", "TOKENS", "MORE USD"),
        (
            (
                each.tenant,
                each.model,
                each.before,
                each.after,
                str(each.requests),
                str(each.tokens),
                _usd(each.cost_nano_usd),
            )
            for each in report.changes
        ),
        right=3,
    )
    _table(
        ("LIMIT THAT BURSTS", "FIRST", "MINUTES", "GRANTED", "PEAK"),
        (
            (
                f"{each.backend}, {each.limit}",
                time.strftime("%Y-%m-%d %H:%M", time.gmtime(each.first_over_at)),
                str(each.minutes_over),
                str(each.granted),
                str(each.peak_after),
            )
            for each in report.pressure
            if each.first_over_at is not None
        ),
        right=3,
    )
    print_portability(report.portability)
    print("What this cannot know:")
    for sentence in report.cannot_tell:
        print(f"- {sentence}")


def print_portability(models: "Iterable[ModelPortability]") -> None:
    """Which part of each model's requests could go where, as a table."""
    _table(
        ("MODEL", "REQUESTS", "COULD GO TO", "PART", "WHAT BLOCKS THE REST"),
        (
            (
                model.model,
                str(model.requests),
                target.target,
                f"{target.share:.1%}",
                ", ".join(f"{each.reason} {each.requests}" for each in target.blocked_by),
            )
            for model in models
            for target in model.targets
        ),
    )


def _sides(report: "Simulation") -> None:
    sides = (report.before, report.after)
    rows: list[tuple[str, ...]] = [("", "BEFORE", "AFTER", "USD BEFORE", "USD AFTER")]
    names = sorted({each.name for side in sides for each in side.targets})
    providers = sorted({each.name for side in sides for each in side.domains.get("provider", ())})
    for kind, listed in (("", names), ("provider ", providers)):
        for name in listed:
            found = [
                next((each for each in (side.domains["provider"] if kind else side.targets) if each.name == name), None)
                for side in sides
            ]
            counts = ["0" if each is None else str(each.requests) for each in found]
            costs = [_usd(0 if each is None else each.cost_nano_usd) for each in found]
            rows.append((kind + name, counts[0], counts[1], costs[0], costs[1]))
    rows.append(("all", *(str(side.served) for side in sides), *(_usd(side.cost_nano_usd) for side in sides)))
    rows.append(("served", *(f"{side.served_share:.2%}" for side in sides), "", ""))
    if any(side.granted != side.served for side in sides):
        rows.append(("within limits", *(f"{side.granted_share:.2%}" for side in sides), "", ""))
        rows.append(("used up first", *(side.first_used_up or "-" for side in sides), "", ""))
    rows.append(("first token, median, ms", *(_ms(side.ttft_p50_ms) for side in sides), "", ""))
    rows.append(("first token, 95 %, ms", *(_ms(side.ttft_p95_ms) for side in sides), "", ""))
    rows.append(("known of so many streams", *(f"{side.ttft_known_share:.1%}" for side in sides), "", ""))
    print_table(rows, right=4)
    print()


def _table(heads: tuple[str, ...], rows: "Iterable[tuple[str, ...]]", right: int = 0) -> None:
    listed = list(rows)
    if listed:
        print_table([heads, *listed], right=right)
        print()


def _usd(nano_usd: int) -> str:
    return f"{nano_usd / 1e9:.4f}"


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f}"
