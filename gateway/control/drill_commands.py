"""The commands `drill start | list | show | abort`: outages on purpose, through the admin API.

Exit code 1 of what waits for a drill says that it was stopped because too few requests were served, or aborted.
"""

# ruff: noqa: T201  # printing is the job

import argparse
import sys
import time
from typing import TYPE_CHECKING, Final

from gateway.control.arguments import duration, instant, number, part, removal, spelled
from gateway.control.commands import CommandError, Commands, print_table
from gateway.control.connection import add_connection, connected, moment, print_json
from gateway.control.ledger import usd

if TYPE_CHECKING:
    from gateway.control.drill import DrillWanted
    from gateway.control.drill_report import DrillReport
    from gateway.control.drill_verbs import DrillShown
    from gateway.control.remote import AdminApi, Answer

_LOOK_S: Final = 0.5
_MOST_TIMES: Final = 52
_REPORTS_S: Final = 15.0
"""How long after a drill its report is waited for."""


def add_drill(commands: Commands) -> None:
    """Add `gateway drill`."""
    parser = commands.add_parser(
        "drill",
        help="let a provider, cloud, chip or region fail on purpose",
        description="Lets backends of a failure domain fail on every gateway, for a while: what is above them meets it "
        "as it would meet an outage. A drill ends by itself, and before its time when too few requests are served.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    _add_start(verbs)
    for name, help_text, run in (
        ("list", "all drills, the last first", _list),
        ("show", "a drill and its report", _show),
        ("abort", "end a drill on every gateway, or call it off", _abort),
    ):
        verb = verbs.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.")
        if name != "list":
            verb.add_argument("id", metavar="ID")
        add_connection(verb)
        verb.set_defaults(run=run)


def _add_start(verbs: Commands) -> None:
    parser = verbs.add_parser(
        "start",
        help="begin a drill, or plan one",
        description="Begins a drill now, or plans one. Rehearse first: `gateway policy simulate NAME --without …`.",
    )
    parser.add_argument(
        "--without",
        action="append",
        type=removal,
        required=True,
        metavar="DOMAIN=VALUE",
        help="whose backends are to fail, for example provider=openai; one value of each kind",
    )
    parser.add_argument(
        "--fault",
        choices=["refuse", "hang", "slow", "rate_limit", "cut"],
        default="refuse",
        help="no connection; no answer; ten times as slow; 429; an answer that breaks off (default: %(default)s)",
    )
    parser.add_argument(
        "--for",
        dest="duration",
        type=duration,
        default=300.0,
        metavar="TIME",
        help="how long: 90s, 5m, 1h (default: 5m)",
    )
    parser.add_argument("--at", type=instant, metavar="TIME", help="when it begins (ISO 8601, UTC); now unless told")
    parser.add_argument(
        "--every",
        type=duration,
        metavar="TIME",
        help="again so often, 1w for each week, until the next one, which is always in the list, is called off",
    )
    parser.add_argument(
        "--times",
        type=int,
        choices=range(2, _MOST_TIMES + 1),
        metavar="N",
        help=f"with --every: plan so many now, from 2 to {_MOST_TIMES}, and no more",
    )
    parser.add_argument(
        "--percent", type=number, default=100.0, metavar="P", help="of the tries that would go there (default: 100)"
    )
    parser.add_argument("--tenant", metavar="NAME", help="only this tenant's requests")
    parser.add_argument("--model", metavar="NAME", help="only requests for this public model")
    parser.add_argument(
        "--stop-below",
        type=part,
        default=0.95,
        metavar="PART",
        help="stop when a smaller part of the last hundred requests is served (default: %(default)s)",
    )
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for those who read of it later")
    parser.add_argument(
        "--may-leave-nothing", action="store_true", help="also where nobody else serves a model: its requests fail"
    )
    parser.add_argument("--wait", action="store_true", help="until it is over; exits with 1 if it was ended before")
    add_connection(parser)
    parser.set_defaults(run=_start)


def _start(arguments: argparse.Namespace) -> int:
    from gateway.control.drill import DrillWanted

    wanted = DrillWanted(
        fault=arguments.fault,
        without=dict(arguments.without),
        tenant=arguments.tenant,
        model=arguments.model,
        percent=arguments.percent,
        duration_s=arguments.duration,
        starts_at=arguments.at,
        stop_below=arguments.stop_below,
        reason=arguments.reason,
        every_s=None if arguments.times else arguments.every,
        may_leave_nothing=arguments.may_leave_nothing,
    )
    if arguments.times and arguments.every is None:
        raise CommandError("--times says how many drills there are so far apart as --every says")
    if arguments.every is not None and arguments.wait:
        raise CommandError("several drills are not waited for")
    with connected(arguments) as api:
        if arguments.times:
            return _planned(arguments, api, wanted)
        answer = api.post("/drills", wanted)
        if not arguments.wait:
            return _told(arguments, answer)
        drill_id = _read(answer).drill.id
        print(f"{drill_id} runs; `gateway drill abort {drill_id}` ends it", file=sys.stderr)
        answer = _waited(api, drill_id)
    _told(arguments, answer)
    return 0 if _read(answer).phase == "ended" else 1


def _planned(arguments: argparse.Namespace, api: "AdminApi", first: "DrillWanted") -> int:
    """Plan the same drill several times: each is one of its own, to be seen and called off by itself."""
    begin = time.time() if first.starts_at is None else first.starts_at
    from msgspec.structs import replace

    for turn in range(arguments.times):
        _told(arguments, api.post("/drills", replace(first, starts_at=begin + turn * arguments.every)))
    return 0


def _waited(api: "AdminApi", drill_id: str) -> "Answer":
    """The drill once it is over, with its report if there will be one soon."""
    over_since: float | None = None
    while True:
        answer = api.get(f"/drills/{drill_id}")
        told = _read(answer)
        if told.phase not in {"planned", "running"}:
            over_since = over_since or time.monotonic()
            if told.is_reported or time.monotonic() > over_since + _REPORTS_S:
                return answer
        time.sleep(_LOOK_S)


def _list(arguments: argparse.Namespace) -> int:
    from gateway.control.drill_verbs import DrillShown

    with connected(arguments) as api:
        drills = api.all("/drills", DrillShown)
    if arguments.json:
        print_json(drills)
        return 0
    lines = [("ID", "PHASE", "FROM", "TO", "FAULT", "OF", "FOR", "AGAIN", "AFFECTED", "SERVED")]
    for each in drills:
        drill, report = each.drill, each.report
        counts = ("", "") if report is None else (str(report.affected), str(report.affected_served))
        times = moment(drill.starts_at), moment(each.over_at or drill.ends_at)
        again = "" if drill.every_s is None else spelled(drill.every_s)
        lines.append((drill.id, each.phase, *times, drill.fault, _domains(each), _whom(each), again, *counts))
    print_table(lines, right=2)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from gateway.control.remote import step

    with connected(arguments) as api:
        return _told(arguments, api.get(f"/drills{step(arguments.id)}"))


def _abort(arguments: argparse.Namespace) -> int:
    from gateway.control.remote import step

    with connected(arguments) as api:
        return _told(arguments, api.post(f"/drills{step(arguments.id)}/abort"))


def _told(arguments: argparse.Namespace, answer: "Answer") -> int:
    if arguments.json:
        print_json(answer.body)
    else:
        _print(_read(answer))
    return 0


def _read(answer: "Answer") -> "DrillShown":
    from gateway.control.drill_verbs import DrillShown

    return answer.read(DrillShown)


def _print(told: "DrillShown") -> None:
    drill = told.drill
    print(f"{drill.id} {told.phase}: {drill.fault} of {_domains(told)} for {_whom(told)}, {drill.percent:g} % of tries")
    print(f"from {moment(drill.starts_at)} to {moment(told.over_at or drill.ends_at)}, planned by {told.by}")
    if told.over_by is not None:
        print(f"ended before its time by {told.over_by}" + (f": {told.because}" if told.because else ""))
    if drill.every_s is not None:
        print(f"again every {spelled(drill.every_s)}, until one of them is called off before it begins")
    if drill.reason:
        print(f"reason: {drill.reason}")
    if told.report is not None:
        print()
        _print_report(told.report)


def _print_report(report: "DrillReport") -> None:
    usual = "unknown" if report.usual_nano_usd is None else usd(report.usual_nano_usd)
    print_table(
        [
            ("requests", str(report.requests), f"{report.served_share:.2%} served"),
            ("affected", str(report.affected), f"{report.affected_served} served, {report.struck} of them struck"),
            ("time added, median", _ms(report.added_p50_ms), f"95 %: {_ms(report.added_p95_ms)}"),
            ("time lost in struck tries, median", _ms(report.lost_p50_ms), f"95 %: {_ms(report.lost_p95_ms)}"),
            ("cost, USD", usd(report.cost_nano_usd), f"usual: {usual}, for nothing: {usd(report.wasted_nano_usd)}"),
        ]
    )
    tables = (
        (("STRUCK BACKEND", "TRIES", "REACHED IT"), [(e.backend, str(e.tries), str(e.reached)) for e in report.tries]),
        (("NOT SERVED", "REQUESTS"), [(code, str(count)) for code, count in report.failures.items()]),
        (
            ("RAN OUT", "OF", "FIRST", "TIMES"),
            [(met.what, met.where, moment(met.first_at), str(met.count)) for met in report.limits],
        ),
    )
    for heads, rows in tables:
        if rows:
            print()
            print_table([heads, *rows], right=1)
    print(f"\ntold by {', '.join(report.gateways)}", file=sys.stderr)


def _domains(told: "DrillShown") -> str:
    return ", ".join(f"{dimension}={value}" for dimension, value in told.drill.without.items())


def _whom(told: "DrillShown") -> str:
    drill = told.drill
    return f"{drill.tenant or 'every tenant'}, {drill.model or 'every model'}"


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f} ms"
