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

from gateway.control.arguments import duration, instant, number, part, removal
from gateway.control.commands import (
    CONFIG_HELP,
    JOURNAL_HELP,
    STORE_HELP,
    CommandError,
    Commands,
    config_paths,
    ledger_path,
)
from gateway.control.connection import add_connection, connected, print_json
from gateway.control.simulate_print import print_portability, print_simulation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config.yaml_file import Tree
    from gateway.control.remote import AdminApi
    from gateway.control.simulated import Simulation

PATIENCE_S: Final = 330.0
"""The API gives up a little earlier."""
_TELL_EVERY: Final = 100_000
_HOUR_S: Final = 3600.0
_YEAR_S: Final = 366 * 24 * _HOUR_S
ALL: Final = float("inf")
"""For an outage of all that was recorded."""
_WATCH_EVERY_S: Final = 2.0


def add_simulate(verbs: Commands) -> None:
    """Add `simulate` to the verbs of `gateway policy`."""
    parser = verbs.add_parser(
        "simulate",
        help="see what a draft or an outage would have done to recorded traffic",
        description="Replays the recorded requests of a policy under what holds, and under a draft or without a "
        "provider, cloud, accelerator or region, for an hour: who would be served where, at what cost, who not. Asks a "
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
        "--for",
        dest="duration",
        type=_lasting,
        metavar="TIME",
        help="with --without: how long it is away, 10m or 2h, or `all` of what was recorded; the report is of the "
        "requests of that time (default: 1h)",
    )
    parser.add_argument(
        "--at",
        type=instant,
        metavar="TIME",
        help="with --without: when it goes (ISO 8601, UTC); when the policy was asked most unless told",
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
        print_portability(each for each in models if each.policy == policy)
    if not models:
        print("no requests were recorded", file=sys.stderr)
    return 0


def _simulate(arguments: argparse.Namespace) -> int:
    if not arguments.without and (arguments.duration is not None or arguments.at is not None):
        raise CommandError("--for and --at say how long and when something is away: give --without")
    if arguments.duration == ALL and arguments.at is not None:
        raise CommandError("--at says when an outage begins, and one for `all` always was")
    report = _here(arguments) if arguments.offline else _asked(arguments)
    if arguments.json:
        print_json(report)
    else:
        print_simulation(report)
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
        duration_s=_duration_s(arguments),
        starts_at=arguments.at,
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
        duration_s=_duration_s(arguments),
        starts_at=arguments.at,
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


def _duration_s(arguments: argparse.Namespace) -> float | None:
    if arguments.duration is None:
        return _HOUR_S
    return None if arguments.duration == ALL else arguments.duration


def _lasting(text: str) -> float:
    value = ALL if text == "all" else duration(text)
    if not (value == ALL or 0 < value <= _YEAR_S):
        raise argparse.ArgumentTypeError(f"{text!r} is no time of a year at most, or `all`")
    return value


def _hours(text: str) -> float:
    value = number(text)
    if not 0 < value * _HOUR_S <= _YEAR_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours, a year's at most")
    return value
