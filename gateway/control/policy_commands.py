"""The commands `policy list | show | diff | apply | activate | rollback`: policies of a fleet, through the admin API.

What holds is asked, what is wanted is read from files, the difference is shown; the API checks and keeps.
`simulate` and `portability` stand in a module of their own.
"""

# ruff: noqa: T201  # printing is the job

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.control.commands import CommandError, Commands, print_table
from gateway.control.connection import add_connection, connected, moment, print_json, tell_done
from gateway.control.simulate_command import add_portability, add_simulate

if TYPE_CHECKING:
    from gateway.config.yaml_file import Tree
    from gateway.control.remote import AdminApi, Answer
    from gateway.control.shown import Applied, RevisionShown

DIFFERENT: Final = 3
"""The exit code of `--exit-code` when there is a difference."""
_MISSING: Final = 404
_EXIT_CODE_HELP: Final = f"exit with {DIFFERENT} when there is a difference, with 0 when there is none"


def add_policy(commands: Commands) -> None:
    """Add `gateway policy …`."""
    parser = commands.add_parser(
        "policy",
        help="see, change and take back policies of running gateways",
        description="Policies of running gateways, through the admin API. What is written becomes a revision that "
        "never changes; which revision holds is a step of its own, on every gateway of the fleet within seconds. "
        "Revision 0 is what the gateways' own files say.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    listing = verbs.add_parser("list", help="show every policy, or the revisions of one")
    listing.add_argument("name", nargs="?", metavar="NAME", help="the policy whose revisions are shown")
    listing.set_defaults(run=_list)

    show = verbs.add_parser(
        "show",
        help="print a policy as a file that `apply` takes",
        description="Prints what holds, as YAML that can be changed and given to `gateway policy apply`.",
    )
    show.add_argument("name", metavar="NAME")
    show.add_argument("--revision", type=int, metavar="N", help="this revision instead of what holds")
    show.set_defaults(run=_show)

    diff = verbs.add_parser(
        "diff",
        help="compare what holds with a file or a revision",
        description="Prints what would change if the other one held, as a unified diff; nothing when they mean the "
        "same.",
    )
    diff.add_argument("name", metavar="NAME")
    diff.add_argument(
        "other", metavar="FILE_OR_REVISION", help="a revision's number, or a configuration file or folder"
    )
    diff.add_argument("--exit-code", action="store_true", help=_EXIT_CODE_HELP)
    diff.set_defaults(run=_diff)

    apply = verbs.add_parser(
        "apply",
        help="write the policies of files that differ from what holds",
        description="Compares every policy of the files with what holds, prints the differences, checks what differs "
        "as if it held, and writes a revision of each; nothing when one has a mistake. They hold when they are "
        "activated. Doing it again writes nothing again. What else stands in the files is not applied. Policies that "
        "are not in the files stay as they are.",
    )
    apply.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="configuration: a YAML file or a folder of them"
    )
    apply.add_argument("--dry-run", action="store_true", help="only print the differences and the mistakes")
    apply.add_argument("--activate", action="store_true", help="let the revisions hold too")
    apply.add_argument("--exit-code", action="store_true", help=_EXIT_CODE_HELP)
    apply.set_defaults(run=_apply)

    activate = verbs.add_parser("activate", help="let a revision hold")
    activate.add_argument("name", metavar="NAME")
    activate.add_argument("revision", type=int, metavar="N", help="as `policy list NAME` shows it; 0 is the files' own")
    activate.set_defaults(run=_activate)

    rollback = verbs.add_parser(
        "rollback",
        help="let that hold again which held before",
        description="Lets that revision hold which held before the one that holds now. Doing it again takes it back.",
    )
    rollback.add_argument("name", metavar="NAME")
    rollback.set_defaults(run=_rollback)

    for verb in (listing, show, diff, apply, activate, rollback):
        add_connection(verb)
    add_simulate(verbs)
    add_portability(verbs)


def _list(arguments: argparse.Namespace) -> int:
    from gateway.control.remote import step
    from gateway.control.shown import PolicyLine, RevisionShown

    name = arguments.name
    rows: list[tuple[str, ...]]
    with connected(arguments) as api:
        if name is None:
            policies = api.all("/policies", PolicyLine)
            rows = [("NAME", "HOLDS", "REVISIONS", "DIGEST", "LABEL")]
            for line in policies:
                holds = line.source if line.active is None else f"revision {line.active}"
                rows.append((line.name, holds, str(line.revisions), line.digest, line.label))
            found: object = policies
        else:
            revisions = api.all(f"/policies{step(name)}/revisions", RevisionShown)
            rows = [("REVISION", "WRITTEN", "BY", "DIGEST", "STATE")]
            rows += [
                (str(each.number), moment(each.at), each.by, each.digest, "holds" if each.is_active else "")
                for each in revisions
            ]
            found = revisions
    if arguments.json:
        print_json(found)
    else:
        print_table(rows)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from gateway.control.yaml_text import dump

    with connected(arguments) as api:
        if arguments.revision is None:
            tree = _seen(api, arguments.name).tree
        else:
            tree = _revision(api, arguments.name, arguments.revision)
    if tree is None:
        raise CommandError(f"there is no policy `{arguments.name}`")
    if arguments.json:
        print_json(tree)
        return 0
    print(dump({"version": 1, "policies": {arguments.name: tree}}), end="")
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from gateway.control.yaml_text import difference

    name, other = arguments.name, arguments.other
    with connected(arguments) as api:
        held = _seen(api, name).tree if name in _holding(api) else None
        if other.isdecimal():
            wanted, title = _revision(api, name, int(other)), f"{name}, revision {other}"
        else:
            found = _policies([Path(other)])
            if name not in found:
                raise CommandError(f"{other} has no policy `{name}`")
            wanted, title = found[name], f"{name}, {other}"
    text = difference(held, wanted, (f"{name}, what holds", title))
    if arguments.json:
        print_json({"policy": name, "difference": text})
    else:
        print(text, end="")
    return DIFFERENT if text and arguments.exit_code else 0


def _apply(arguments: argparse.Namespace) -> int:
    from gateway.control.shown import Applied
    from gateway.control.yaml_text import difference

    wanted = _policies(arguments.paths)
    files = ", ".join(map(str, arguments.paths))
    with connected(arguments) as api:
        holding = _holding(api)
        changed = {}
        applied: dict[str, Applied] = {}
        for name, tree in wanted.items():
            seen = _seen(api, name)
            held = seen.tree if name in holding else None
            text = difference(held, tree, (f"{name}, what holds", f"{name}, {files}"))
            applied[name] = Applied(policy=name, difference=text)
            if not arguments.json:
                print(text, end="")
            if text:
                changed[name] = (tree, seen.etag)
        print(f"{len(changed)} of {len(wanted)} policies differ from what holds", file=sys.stderr)
        sys.stdout.flush()
        _check(api, {name: wanted[name] for name in changed}, applied)
        if not arguments.dry_run:
            _write(api, changed, applied, activate=arguments.activate)
    if arguments.json:
        print_json(list(applied.values()))
    return DIFFERENT if changed and arguments.exit_code else 0


def _check(api: "AdminApi", wanted: "dict[str, Tree]", applied: "dict[str, Applied]") -> None:
    """Tell the warnings. Raises CommandError with every mistake of all of them."""
    from gateway.control.remote import Refused, step
    from gateway.control.shown import Checked

    refusals = []
    for name, tree in wanted.items():
        try:
            checked = api.post(f"/policies{step(name)}/check", tree).read(Checked)
            applied[name].warnings = checked.warnings
            for each in checked.warnings:
                print(f"warning: {each.path}: {each.message}", file=sys.stderr)
        except Refused as refused:
            if not refused.is_about_content:
                raise
            refusals.append(f"{name}: {refused}")
    if refusals:
        raise CommandError("\n".join(refusals))


def _write(
    api: "AdminApi",
    changed: "dict[str, tuple[Tree, str | None]]",
    applied: "dict[str, Applied]",
    *,
    activate: bool,
) -> None:
    """Write all of them, then let them hold if that is wanted."""
    from gateway.control.remote import step

    revisions = {name: _written(api, name, tree, etag) for name, (tree, etag) in changed.items()}
    for name, (number, etag) in revisions.items():
        applied[name].revision, applied[name].holds = number, activate
        if activate:
            # Not if somebody let another one hold since the difference was shown.
            api.post(f"/policies{step(name)}/revisions/{number}/activate", etag=etag)
            print(f"{name}: revision {number} holds, on every gateway within seconds", file=sys.stderr)
        else:
            print(f"{name}: revision {number} is written; gateway policy activate {name} {number}", file=sys.stderr)


def _written(api: "AdminApi", name: str, tree: "Tree", etag: str | None) -> tuple[int, str | None]:
    """The number of the revision with this content, the one that has it already or a new one; and the ETag since."""
    import msgspec

    from gateway.control.remote import step
    from gateway.control.shown import RevisionShown
    from gateway.control.state import digest_of

    digest = digest_of(msgspec.json.encode(tree))
    known = [each.number for each in _revisions(api, name) if each.digest == digest]
    if known:
        return known[-1], etag
    answer = api.put(f"/policies{step(name)}", tree, etag=etag)
    return answer.read(RevisionShown).number, answer.etag


def _activate(arguments: argparse.Namespace) -> int:
    from gateway.control.remote import step

    with connected(arguments) as api:
        answer = api.post(f"/policies{step(arguments.name)}/revisions{step(arguments.revision)}/activate")
    return _told(arguments, answer)


def _rollback(arguments: argparse.Namespace) -> int:
    from gateway.control.remote import step

    with connected(arguments) as api:
        answer = api.post(f"/policies{step(arguments.name)}/rollback")
    return _told(arguments, answer)


def _told(arguments: argparse.Namespace, answer: "Answer") -> int:
    from gateway.control.shown import RevisionShown

    number = answer.read(RevisionShown).number
    which = f"revision {number}" if number else "what the files say"
    tell_done(arguments, answer.body, f"{arguments.name}: {which} holds, on every gateway within seconds")
    return 0


class _Seen(NamedTuple):
    """A policy that holds, else its last draft, and what names the state that was seen. None where there is nothing."""

    tree: "Tree"
    etag: str | None


def _holding(api: "AdminApi") -> set[str]:
    """The names of the policies that hold."""
    from gateway.control.shown import PolicyLine

    return {line.name for line in api.all("/policies", PolicyLine) if line.source != "draft"}


def _seen(api: "AdminApi", name: str) -> _Seen:
    from gateway.control.remote import Refused, step

    try:
        answer = api.get(f"/policies{step(name)}")
    except Refused as refused:
        if refused.status != _MISSING:
            raise
        return _Seen(None, None)
    return _Seen(answer.read(dict), answer.etag)


def _revision(api: "AdminApi", name: str, number: int) -> "Tree":
    from gateway.control.remote import step
    from gateway.control.shown import RevisionShown

    return api.get(f"/policies{step(name)}/revisions{step(number)}").read(RevisionShown).document


def _revisions(api: "AdminApi", name: str) -> "list[RevisionShown]":
    from gateway.control.remote import Refused, step
    from gateway.control.shown import RevisionShown

    try:
        return api.all(f"/policies{step(name)}/revisions", RevisionShown)
    except Refused as refused:
        if refused.status != _MISSING:
            raise
        return []


def _policies(paths: list[Path]) -> "dict[str, Tree]":
    """The policies of the files by their names. Raises CommandError with all that cannot be read."""
    from gateway.config import policies

    sources = policies.read(paths)
    if sources.mistakes:
        raise CommandError("\n".join(map(str, sources.mistakes)))
    names = sources.names("policies")
    for name in names:
        homes = [file for file, tree in sources.trees if name in _section(tree)]
        if len(homes) > 1:
            raise CommandError(f"the policy `{name}` stands in several files: {', '.join(homes)}")
    if not names:
        raise CommandError("there are no policies in what was given")
    left = sorted({section for _, tree in sources.trees for section in tree} - {"version", "policies"})
    if left:
        print(f"only policies are looked at, not what else is there: {', '.join(left)}", file=sys.stderr)
    return {name: sources.entry("policies", name) for name in names}


def _section(tree: "dict[str, Tree]") -> "dict[str, Tree]":
    section = tree.get("policies")
    return section if isinstance(section, dict) else {}
