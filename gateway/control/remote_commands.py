"""The commands `explain | usage | backends | revision | audit`: what running gateways know, through the admin API."""

# ruff: noqa: T201  # printing is the job

import argparse
import datetime as dt
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, get_args

from gateway.control.commands import CommandError, Commands, print_table
from gateway.control.connection import add_connection, connected, moment, print_json, tell_done
from gateway.control.ledger import add_grouping, add_selection, print_totals, usd

if TYPE_CHECKING:
    from gateway.control.decisions import AttemptShown, DecisionShown
    from gateway.control.explain import Explained
    from gateway.control.shown import Change, RevisionsShown
    from gateway.domain.plan import Candidate
    from gateway.domain.preferences import Preferences

_LOOK_S: Final = 0.2
_SHORT: Final = 60
"""Characters of what was changed that the table of changes shows."""


def add_remote(commands: Commands) -> None:
    """Add `gateway explain | usage | backends | revision | audit`."""
    _add_explain(commands)
    _add_usage(commands)
    _add_backends(commands)
    _add_revision(commands)
    _add_audit(commands)


def _add_explain(commands: Commands) -> None:
    parser = commands.add_parser(
        "explain",
        help="tell why a request went where it went, or where one would go",
        description="With the id of a request (the header x-request-id of its answer): its candidates, what each was "
        "ranked with or why it was left out, and what became of every try. Any gateway of the fleet may be asked, for "
        "an hour after it, or as GATEWAY_EXPLAINED_HOURS says. With --tenant and --model: the same for a request that "
        "nobody sent, as things stand now.",
    )
    parser.add_argument("request_id", nargs="?", metavar="REQUEST_ID", help="a request that was served")
    parser.add_argument("--tenant", metavar="NAME", help="who would ask")
    parser.add_argument("--model", metavar="NAME", help="the public name that would be asked for")
    parser.add_argument(
        "--needs", type=_needs, default=(), metavar="A,B", help="what it would need: tools, json_schema, vision, …"
    )
    parser.add_argument(
        "--prompt-tokens", type=int, default=100, metavar="N", help="length of the prompt (default: %(default)s)"
    )
    parser.add_argument(
        "--output-tokens", type=int, default=256, metavar="N", help="room for the answer (default: %(default)s)"
    )
    parser.add_argument("--stream", action="store_true", help="it would be streamed")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="what strategies that draw draw with")
    parser.add_argument(
        "--wishes",
        dest="gateway",
        type=_wishes,
        metavar="JSON",
        help='what it would wish of its way, as clients send it in the field `gateway`: \'{"only": ["nim"]}\'',
    )
    add_connection(parser)
    parser.set_defaults(run=_explain, usage=parser.error)


def _explain(arguments: argparse.Namespace) -> int:
    from gateway.control.decisions import DecisionShown
    from gateway.control.explain import Asked, Explained
    from gateway.control.remote import step

    features = (arguments.tenant, arguments.model)
    if None in features if arguments.request_id is None else any(features):
        arguments.usage("either REQUEST_ID, or --tenant and --model")
    with connected(arguments) as api:
        if arguments.request_id is not None:
            answer = api.get(f"/decisions{step(arguments.request_id)}")
        else:
            names = Asked.__struct_fields__
            answer = api.post("/route/explain", {name: getattr(arguments, name) for name in names})
    if arguments.json:
        print_json(answer.body)
    elif arguments.request_id is not None:
        _print_decision(answer.read(DecisionShown))
    else:
        _print_explained(arguments.tenant, answer.read(Explained))
    return 0


def _print_explained(tenant: str, told: "Explained") -> None:
    print(f"{told.model} for {tenant}, policy {told.policy}, strategy {told.strategy}")
    if told.refusal is None:
        print(f"at most {told.attempts} tries, in this order:")
    else:
        print(f"refused: {told.refusal}")
    print_table([*_candidates(told.candidates)])


def _print_decision(told: "DecisionShown") -> None:
    tokens = "" if told.prompt_tokens is None else f", a prompt of about {told.prompt_tokens} tokens"
    print(f"request {told.request_id} of {told.tenant} (key {told.key}) at {moment(told.at)}")
    print(f"{told.model}{', streamed' if told.stream else ''}{tokens}, at {told.route}")
    print(f"policy {told.policy}, strategy {told.strategy}, decision {told.decision}, seed {told.seed}")
    if told.preferences is not None:
        import msgspec

        print(f"wished: {msgspec.json.encode(told.preferences).decode()}")
    if told.panics:
        print("the breakers of all targets were open, so that all were tried all the same")
    print(f"ended: {told.outcome}, status {told.status}" + (f", {told.error_code}" if told.error_code else ""))
    print()
    print_table([*_candidates(told.candidates)])
    print()
    heads = ("TRY", "TARGET", "WHY", "ENDED", "STARTED", "FIRST TOKEN", "TOOK", "COST USD")
    print_table([heads, *map(_attempt, range(1, len(told.attempts) + 1), told.attempts)], right=4)


def _candidates(found: "Sequence[Candidate]") -> "Iterable[tuple[str, ...]]":
    yield "RANK", "TARGET", "SCORE", "LEFT OUT FOR"
    for each in sorted(found, key=lambda each: (each.rank is None, each.rank)):
        rank = "-" if each.rank is None else str(each.rank + 1)
        score = "" if each.score is None else f"{each.score:.6g}"
        why = each.excluded or ""
        if each.wait_s is not None:
            why += f", {each.wait_s:.1f} s more"
        if each.affinity is not None:
            why = f"(affinity: {each.affinity.replace('_', ' ')})"
        yield rank, each.target, score, why


def _attempt(number: int, tried: "AttemptShown") -> tuple[str, ...]:
    ended = tried.fault or ("ok" if tried.status is not None else "")
    if tried.status is not None:
        ended += f" ({tried.status})"
    times = (tried.started_ms, tried.ttft_ms, tried.took_ms)
    cost = "" if tried.cost_nano_usd is None else usd(tried.cost_nano_usd)
    if tried.drill is not None:
        ended += f", by drill {tried.drill}"
    return (
        str(number),
        f"{tried.backend}/{tried.model}",
        tried.reason,
        ended + (", sent on" if tried.was_sent_on else ""),
        *("" if each is None else f"{each:.1f} ms" for each in times),
        cost,
    )


def _add_usage(commands: Commands) -> None:
    parser = commands.add_parser(
        "usage",
        help="sums of what was used and what it cost",
        description="What the ledger of one running gateway adds up to; with --fleet, those of all that share its "
        "Redis. `gateway ledger totals` reads the file itself.",
    )
    add_grouping(parser)
    add_selection(parser)
    parser.add_argument("--fleet", action="store_true", help="of all gateways on the same Redis, in whole days")
    add_connection(parser)
    parser.set_defaults(run=_usage)


def _usage(arguments: argparse.Namespace) -> int:
    from gateway.control.shown import Usage

    with connected(arguments) as api:
        answer = api.get(
            "/usage",
            by=",".join(arguments.by),
            tenant=arguments.tenant,
            since=_iso(arguments.since),
            before=_iso(arguments.before),
            fleet="true" if arguments.fleet else None,
        )
    if arguments.json:
        print_json(answer.body)
    else:
        usage = answer.read(Usage)
        print_totals(usage.by, usage.totals)
    return 0


def _add_backends(commands: Commands) -> None:
    parser = commands.add_parser(
        "backends",
        help="show the backends, take one out of service or back in",
        description="Shows every backend as one running gateway sees it.",
    )
    verbs = parser.add_subparsers(metavar="VERB")
    drain = verbs.add_parser(
        "drain",
        help="send a backend nothing new",
        description="Sends the backend nothing new, on every gateway; what it works on is finished. Holds until it is "
        "undone, restarts included.",
    )
    undrain = verbs.add_parser("undrain", help="let a backend be asked again")
    for verb, name in ((drain, "drain"), (undrain, "undrain")):
        verb.add_argument("name", metavar="NAME")
        add_connection(verb, is_part=True)
        verb.set_defaults(run=_drain, verb=name)
    add_connection(parser)
    parser.set_defaults(run=_backends)


def _backends(arguments: argparse.Namespace) -> int:
    from gateway.control.shown import Health

    with connected(arguments) as api:
        answer = api.get("/backends")
    if arguments.json:
        print_json(answer.body)
        return 0
    lines = [("NAME", "PROVIDER", "STATE", "MODEL", "TROUBLE")]
    lines += [
        (each.name, each.provider or "", each.state, model, each.troubles.get(model, ""))
        for each in answer.read(list[Health])
        for model in each.models
    ]
    print_table(lines)
    return 0


def _drain(arguments: argparse.Namespace) -> int:
    from gateway.control.remote import step

    with connected(arguments) as api:
        api.post(f"/backends{step(arguments.name)}/{arguments.verb}")
    what = "is sent nothing new" if arguments.verb == "drain" else "may be asked again"
    done = {"name": arguments.name, "drained": arguments.verb == "drain"}
    tell_done(arguments, done, f"{arguments.name} {what}, on every gateway within seconds")
    return 0


def _add_revision(commands: Commands) -> None:
    parser = commands.add_parser(
        "revision",
        help="show which configuration each gateway runs",
        description="Shows every gateway of the fleet with the configuration that it runs, and which entries were "
        "changed so that they are not what the files say.",
    )
    parser.add_argument(
        "--wait", type=float, metavar="SECONDS", help="until all run the same; exit with 1 when they do not by then"
    )
    add_connection(parser)
    parser.set_defaults(run=_revision)


def _revision(arguments: argparse.Namespace) -> int:
    from gateway.control.shown import RevisionsShown

    ends = time.monotonic() + (arguments.wait or 0.0)
    with connected(arguments) as api:
        while True:
            answer = api.get("/revision")
            told = answer.read(RevisionsShown)
            if told.converged or time.monotonic() >= ends:
                break
            time.sleep(_LOOK_S)
    if arguments.json:
        print_json(answer.body)
    else:
        _print_revisions(told)
    if arguments.wait is not None and not told.converged:
        raise CommandError(f"the gateways do not run the same after {arguments.wait:g} s")
    return 0


def _print_revisions(told: "RevisionsShown") -> None:
    lines = [("GATEWAY", "REVISION", "CHANGES", "SAID", "TROUBLE")]
    lines += [(each.name, each.revision, str(each.seq), moment(each.at), each.trouble or "") for each in told.replicas]
    print_table(lines)
    print("all run the same" if told.converged else "they do not run the same (yet)", file=sys.stderr)
    for entry in told.drift:
        print(f"{entry} is not what the files say", file=sys.stderr)


def _add_audit(commands: Commands) -> None:
    parser = commands.add_parser(
        "audit",
        help="show who changed what",
        description="Shows every change made through the admin API, oldest first. The gateway checks the chain of "
        "hashes as it reads. --json has what was before and what is after. Needs an owner's key.",
    )
    parser.add_argument("--after", type=int, default=0, metavar="N", help="only changes behind the one numbered N")
    add_connection(parser)
    parser.set_defaults(run=_audit)


def _audit(arguments: argparse.Namespace) -> int:
    from gateway.control.shown import AuditPage

    changes: list[Change] = []
    after: int | None = arguments.after
    with connected(arguments) as api:
        while after is not None:
            page = api.get("/audit", after=after, limit=1000).read(AuditPage)
            changes += page.events
            after = page.next
    if arguments.json:
        print_json(changes)
        return 0
    lines = [("NUMBER", "AT", "WHO", "WHAT", "OF", "TO")]
    lines += [
        (str(each.seq), moment(each.at), each.actor, each.action, each.resource, _short(each.after)) for each in changes
    ]
    print_table(lines)
    return 0


def _short(value: object) -> str:
    import msgspec

    text = "" if value is None else msgspec.json.encode(value).decode()
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…"


def _iso(at: float | None) -> str | None:
    return None if at is None else dt.datetime.fromtimestamp(at, dt.UTC).isoformat()


def _wishes(text: str) -> "Preferences":
    import msgspec

    from gateway.domain.preferences import Preferences

    try:
        return msgspec.json.decode(text, type=Preferences)
    except msgspec.DecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no such wish: {error}") from None


def _needs(text: str) -> tuple[str, ...]:
    from gateway.domain.backend import Capability

    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in get_args(Capability):
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(get_args(Capability))}")
    return names
