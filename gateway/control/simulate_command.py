"""The commands `policy simulate | portability`: what recorded traffic tells, asked of a gateway or reckoned here.

Prints what `simulate` finds. With a bound it is a check: exits with 1 where too few requests would be served.
"""

# ruff: noqa: T201  # printing is the job

import argparse
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.control.arguments import number, part, removal
from gateway.control.commands import (
    CONFIG_HELP,
    JOURNAL_HELP,
    STORE_HELP,
    CommandError,
    Commands,
    config_paths,
    ledger_path,
    print_table,
)
from gateway.control.connection import add_connection, connected, print_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gateway.config.yaml_file import Tree
    from gateway.control.portability import ModelPortability
    from gateway.control.remote import AdminApi
    from gateway.control.simulated import Simulation

PATIENCE_S: Final = 330.0
"""The API gives up a little earlier."""
_TELL_EVERY: Final = 100_000
_HOUR_S: Final = 3600.0
_WATCH_EVERY_S: Final = 2.0


def add_simulate(verbs: Commands) -> None:
    """Add `simulate` to the verbs of `gateway policy`."""
    parser = verbs.add_parser(
        "simulate",
        help="see what a draft or an outage would have done to recorded traffic",
        description="Replays the recorded requests of a policy under what holds, and under a draft or without a "
        "provider, cloud, accelerator or region: who would be served where, at what cost, who not at all. Asks a "
        "running gateway for its own requests; with --offline reads the file next to the ledger, and the configuration "
        "as its files have it. Nothing is sent and nothing is changed.",
    )
    parser.add_argument("name", metavar="NAME")
    draft = parser.add_mutually_exclusive_group()
    draft.add_argument("--revision", type=int, metavar="N", help="a revision that was written; 0 is the files' own")
    draft.add_argument("--file", type=Path, metavar="PATH", help="a configuration file or folder that has the policy")
    parser.add_argument(
        "--without",
        action="append",
        type=removal,
        default=[],
        metavar="DOMAIN=VALUE",
        help="take away a failure domain, for example provider=openai; one value of each kind",
    )
    parser.add_argument(
        "--hours", type=_hours, default=24.0, metavar="H", help="requests of so many last hours (default: 24)"
    )
    parser.add_argument(
        "--min-served",
        type=part,
        metavar="PART",
        help="exit with 1 when a smaller part of the requests would be served, or none were recorded: 0.99",
    )
    parser.add_argument("--offline", action="store_true", help="without a gateway, from its files")
    parser.add_argument("--config", action="append", type=Path, metavar="PATH", help=f"with --offline: {CONFIG_HELP}")
    parser.add_argument("--store", metavar="URL", help=f"with --offline: {STORE_HELP}")
    parser.add_argument("--journal", type=Path, metavar="PATH", help=f"with --offline: {JOURNAL_HELP}")
    add_connection(parser)
    parser.set_defaults(run=_simulate)


def add_portability(verbs: Commands) -> None:
    """Add `portability` to the verbs of `gateway policy`."""
    parser = verbs.add_parser(
        "portability",
        help="see which part of recorded traffic could go to which target",
        description="For each model of each policy: the part of the requests that each of its targets could serve, by "
        "what they asked for and how long they were, and what blocks the rest. Asks a running gateway for its own "
        "requests.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of this policy only")
    parser.add_argument(
        "--hours", type=_hours, default=24.0, metavar="H", help="requests of so many last hours (default: 24)"
    )
    add_connection(parser)
    parser.set_defaults(run=_portability)


def _portability(arguments: argparse.Namespace) -> int:
    from gateway.control.portability import ModelPortability

    with connected(arguments) as api:
        answer = api.get("/portability", patience_s=PATIENCE_S, window_s=str(arguments.hours * _HOUR_S))
    models = [each for each in answer.read(list[ModelPortability]) if arguments.name in {None, each.policy}]
    if arguments.json:
        print_json(models)
        return 0
    for policy in dict.fromkeys(each.policy for each in models):
        print(f"policy {policy}\n")
        _print_portability(each for each in models if each.policy == policy)
    if not models:
        print("no requests were recorded", file=sys.stderr)
    return 0


def _simulate(arguments: argparse.Namespace) -> int:
    report = _here(arguments) if arguments.offline else _asked(arguments)
    if arguments.json:
        print_json(report)
    else:
        _print(report)
    return _judged(report, arguments.min_served)


def _judged(report: "Simulation", bound: float | None) -> int:
    if bound is None:
        return 0
    if not report.requests:
        print("no requests were recorded: nothing is proven", file=sys.stderr)
        return 1
    share = report.after.granted_share
    verdict = "below" if share < bound else "within"
    print(f"served: {share:.4%}, {verdict} the bound of {bound:.2%}", file=sys.stderr)
    return 1 if share < bound else 0


def _asked(arguments: argparse.Namespace) -> "Simulation":
    """What a running gateway says."""
    from gateway.control.remote import step
    from gateway.control.simulated import Simulation
    from gateway.control.simulation import SimulationWanted

    document = None if arguments.file is None else _drafted(arguments.file, arguments.name)
    if document is not None and not isinstance(document, dict):
        raise CommandError(f"{arguments.file}: the policy `{arguments.name}` is no policy")
    wanted = SimulationWanted(
        document=document,
        revision=arguments.revision,
        without=dict(arguments.without),
        window_s=arguments.hours * _HOUR_S,
    )
    with connected(arguments) as api, _watched(api):
        answer = api.post(f"/policies{step(arguments.name)}/simulate", wanted, patience_s=PATIENCE_S)
    return answer.read(Simulation)


@contextmanager
def _watched(api: "AdminApi") -> "Iterator[None]":
    """Tell every few seconds how far the gateway is, while the block lasts."""
    from gateway.control.underway import SimulationUnderway

    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(_WATCH_EVERY_S):
            with suppress(CommandError):  # The one that is waited for says what is wrong.
                for each in api.get("/simulations").read(list[SimulationUnderway]):
                    print(f"{each.policy}: {each.done} of at most {each.of} requests", file=sys.stderr)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def _here(arguments: argparse.Namespace) -> "Simulation":
    """The same, reckoned from the recorded file and the configuration's files."""
    from gateway.config import policies, settings
    from gateway.config.problems import ConfigurationError
    from gateway.control import recorder
    from gateway.control.simulation import Job, NoSuchDomain

    if arguments.revision is not None:
        raise CommandError("--offline knows files only; give the draft with --file")
    file = settings.decisions_beside(ledger_path(arguments))
    job = Job(
        file=file,
        sources=policies.read(config_paths(arguments)),
        overlay={},
        policy=arguments.name,
        draft=None if arguments.file is None else _drafted(arguments.file, arguments.name),
        without=dict(arguments.without),
        since=time.time() - arguments.hours * _HOUR_S,
    )
    try:
        _, after = job.check()
        if job.policy not in after.policies:
            raise CommandError(f"there is no policy `{job.policy}`")
        total = recorder.count(file)
        return job.run(lambda done: _tell(done, total))
    except ConfigurationError as error:
        raise CommandError(f"the configuration has mistakes:\n{error}") from error
    except (recorder.RecordUnusable, NoSuchDomain) as error:
        raise CommandError(str(error)) from error


def _tell(done: int, total: int) -> None:
    if done % _TELL_EVERY == 0:
        print(f"{done} of at most {total} requests", file=sys.stderr)


def _drafted(path: Path, name: str) -> "Tree":
    from gateway.config import policies

    sources = policies.read([path])
    if sources.mistakes:
        raise CommandError("\n".join(map(str, sources.mistakes)))
    tree = sources.entry("policies", name)
    if tree is None:
        raise CommandError(f"{path} has no policy `{name}`")
    return tree


def _print(report: "Simulation") -> None:
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
    _print_portability(report.portability)
    print("What this cannot know:")
    for sentence in report.cannot_tell:
        print(f"- {sentence}")


def _print_portability(models: "Iterable[ModelPortability]") -> None:
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


def _hours(text: str) -> float:
    value = number(text)
    if not 0 < value <= 366 * 24:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours, a year's at most")
    return value
