"""The commands `tenants list | show | create | suspend | resume | delete`, through the admin API."""

# ruff: noqa: T201  # printing is the job

import argparse
from typing import TYPE_CHECKING, Any

from gateway.control.commands import Commands, print_table
from gateway.control.connection import add_connection, connected, print_json, tell_done

if TYPE_CHECKING:
    from gateway.control.remote import AdminApi


def add_tenants(commands: Commands) -> None:
    """Add `gateway tenants …`."""
    parser = commands.add_parser(
        "tenants",
        help="list, make, suspend and delete tenants of running gateways",
        description="Tenants of running gateways, through the admin API. A change holds on every gateway of the fleet "
        "within seconds.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    listing = verbs.add_parser("list", help="show every tenant")
    listing.set_defaults(run=_list)
    show = verbs.add_parser("show", help="print a tenant as the configuration has it")
    show.set_defaults(run=_show)
    create = verbs.add_parser("create", help="make a tenant", description="Makes a tenant. One that exists stays.")
    create.set_defaults(run=_create)
    suspend = verbs.add_parser(
        "suspend",
        help="refuse a tenant's requests for now",
        description="Refuses the tenant's requests, with 403, until `tenants resume`. What runs is finished; its keys "
        "stay.",
    )
    suspend.set_defaults(run=lambda arguments: _suspend(arguments, is_wanted=True))
    resume = verbs.add_parser("resume", help="serve a suspended tenant again")
    resume.set_defaults(run=lambda arguments: _suspend(arguments, is_wanted=False))
    delete = verbs.add_parser(
        "delete", help="let a tenant's keys work no longer", description="What the tenant used stays in the ledger."
    )
    delete.set_defaults(run=_delete)
    for verb in (show, create, suspend, resume, delete):
        verb.add_argument("name", metavar="NAME")
    create.add_argument("--policy", required=True, metavar="NAME", help="what it may do")
    create.add_argument(
        "--metadata",
        type=_pair,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what the conditions of policies may ask for; may be repeated",
    )
    for verb in (listing, show, create, suspend, resume, delete):
        add_connection(verb)


def _list(arguments: argparse.Namespace) -> int:
    from gateway.control.shown import TenantLine

    with connected(arguments) as api:
        found = api.all("/tenants", TenantLine)
    if arguments.json:
        print_json(found)
        return 0
    lines = [("NAME", "POLICY", "FROM", "STATE")]
    lines += [(each.id, each.policy, each.source, "suspended" if each.suspended else "active") for each in found]
    print_table(lines)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from gateway.control.yaml_text import dump

    with connected(arguments) as api:
        tree, _ = _seen(api, arguments.name)
    if arguments.json:
        print_json(tree)
    else:
        print(dump({"version": 1, "tenants": {arguments.name: tree}}), end="")
    return 0


def _create(arguments: argparse.Namespace) -> int:
    from gateway.control.remote import step

    tree: dict[str, Any] = {"policy": arguments.policy}
    if arguments.metadata:
        tree["metadata"] = dict(arguments.metadata)
    with connected(arguments) as api:
        # No ETag: where there is one of that name already, it is refused.
        answer = api.put(f"/tenants{step(arguments.name)}", tree, etag=None)
    tell_done(
        arguments, answer.body, f"tenant {arguments.name} has the policy {arguments.policy}; gateway keys create …"
    )
    return 0


def _suspend(arguments: argparse.Namespace, *, is_wanted: bool) -> int:
    from gateway.control.remote import step

    with connected(arguments) as api:
        tree, etag = _seen(api, arguments.name)
        if bool(tree.get("suspended")) is not is_wanted:
            kept = {name: value for name, value in tree.items() if name != "suspended"}
            api.put(f"/tenants{step(arguments.name)}", kept | {"suspended": True} if is_wanted else kept, etag=etag)
    what = "refused" if is_wanted else "served again"
    done = {"id": arguments.name, "suspended": is_wanted}
    tell_done(arguments, done, f"requests of {arguments.name} are {what}, on every gateway within seconds")
    return 0


def _delete(arguments: argparse.Namespace) -> int:
    from gateway.control.remote import step

    with connected(arguments) as api:
        _, etag = _seen(api, arguments.name)
        api.delete(f"/tenants{step(arguments.name)}", etag=etag)
    done = {"id": arguments.name, "deleted": True}
    tell_done(arguments, done, f"keys of {arguments.name} work no longer, on every gateway within seconds")
    return 0


def _seen(api: "AdminApi", name: str) -> tuple[dict[str, Any], str | None]:
    """The tenant, and what names the state that was seen."""
    from gateway.control.remote import step

    answer = api.get(f"/tenants{step(name)}")
    return answer.read(dict), answer.etag


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value
