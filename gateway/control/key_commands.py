"""The commands `keys create | list | rotate | revoke`, on the key store next to a ledger or through the admin API.

Parses and prints; what is done stands in `keys`, or is done by the gateway that is asked.
"""

# ruff: noqa: T201  # printing is the job

import argparse
import datetime as dt
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.control.commands import (
    CONFIG_HELP,
    JOURNAL_HELP,
    STORE_HELP,
    CommandError,
    Commands,
    config_paths,
    configuration,
    key_store_path,
    print_table,
)
from gateway.control.connection import ADMIN_HELP, add_json, connected, print_json, tell_done

if TYPE_CHECKING:
    from gateway.control.remote import AdminApi
    from gateway.control.shown import KeyMade, KeyShown
    from gateway.domain.tenant import Door


def add_keys(commands: Commands) -> None:
    """Add `gateway keys create | list | rotate | revoke`."""
    parser = commands.add_parser(
        "keys",
        help="make, list, rotate and revoke API keys",
        description="API keys of tenants. With --admin, or $GATEWAY_ADMIN_URL and no --store, through the admin API of "
        "a running gateway: the keys hold on every gateway of its fleet. Otherwise in the key store next to the "
        "ledger: the gateway that uses the same store follows every change within 5 seconds, without a restart.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    create = verbs.add_parser(
        "create",
        help="make a key and print it once",
        description="Makes a key. The key alone goes to stdout, so it can be piped; it is not kept and cannot be shown "
        "again. Through the admin API, or when a configuration is given, the tenant and the models have to be there.",
    )
    create.add_argument("tenant", metavar="TENANT", help="who pays for what the key does")
    create.add_argument("--name", default="", help="what the key is for, for your own lists")
    create.add_argument(
        "--models", type=_names, metavar="A,B", help="public models it may use (default: all of the policy)"
    )
    create.add_argument(
        "--endpoints", type=_doors, metavar="A,B", help="endpoints it may use: chat, embeddings, … (default: all)"
    )
    create.add_argument("--expires", type=_date, metavar="DATE", help="first day (UTC) on which it no longer works")
    create.add_argument("--config", action="append", type=Path, metavar="PATH", help=CONFIG_HELP)
    create.set_defaults(run=_create)

    listing = verbs.add_parser(
        "list",
        help="show every key, without its secret",
        description="Shows every key, revoked ones too. Those of the configuration are shown through the admin API "
        "only.",
    )
    listing.set_defaults(run=_list)

    rotate = verbs.add_parser(
        "rotate",
        help="make a key's successor and print it once",
        description="Makes a key like this one, which goes on working for the overlap and then no longer. Through the "
        "admin API, for keys that were made through it.",
    )
    rotate.add_argument(
        "--overlap", type=float, default=3600.0, metavar="SECONDS", help="how long both work (default: %(default)s)"
    )
    rotate.set_defaults(run=_rotate)

    revoke = verbs.add_parser("revoke", help="refuse a key from now on, for good")
    revoke.set_defaults(run=_revoke)

    for verb in (rotate, revoke):
        verb.add_argument("public_id", metavar="PUBLIC_ID", help="as `keys list` shows it: sk-gw-<public id>-…")
    for verb in (create, listing, rotate, revoke):
        verb.add_argument("--admin", metavar="URL", help=ADMIN_HELP)
        verb.add_argument("--store", metavar="URL", help=STORE_HELP)
        verb.add_argument("--journal", type=Path, metavar="PATH", help=JOURNAL_HELP)
        add_json(verb)


def _is_remote(arguments: argparse.Namespace) -> bool:
    """Whether the admin API is meant. What the command line says goes before the environment."""
    from gateway.config.settings import has_admin_url

    has_store = arguments.store is not None or arguments.journal is not None
    if arguments.admin is not None and has_store:
        raise CommandError("keys are either in a store or asked of an admin API; leave --admin or --store out")
    return arguments.admin is not None or (not has_store and has_admin_url())


def _create(arguments: argparse.Namespace) -> int:
    if _is_remote(arguments):
        return _create_remote(arguments)
    import secrets

    from gateway.auth.keys import SECRET_BYTES
    from gateway.control import keys
    from gateway.control.shown import KeyMade

    store = key_store_path(arguments)
    config = config_paths(arguments)
    with _refusals():
        new = keys.create(
            store,
            arguments.tenant,
            random_bytes=secrets.token_bytes(SECRET_BYTES),
            now=time.time(),
            name=arguments.name,
            models=arguments.models,
            endpoints=arguments.endpoints,
            expires=arguments.expires,
            book=configuration(config) if config else None,
        )
    if not config:
        print("no configuration was given, so the tenant's name was not checked", file=sys.stderr)
    print(f"key {new.key.public_id} for {new.key.tenant}; kept as a digest in {store}", file=sys.stderr)
    return _show_once(arguments, KeyMade(id=new.key.public_id, secret=new.secret))


def _create_remote(arguments: argparse.Namespace) -> int:
    from gateway.control.remote import step
    from gateway.control.shown import KeyMade, KeyWanted
    from gateway.control.verbs import midnight

    if arguments.config is not None:
        raise CommandError("the gateway knows its configuration: leave --config out, or name the key store by --store")
    wanted = KeyWanted(
        name=arguments.name,
        models=None if arguments.models is None else tuple(arguments.models),
        endpoints=arguments.endpoints,
        expires_at=None if arguments.expires is None else midnight(arguments.expires),
    )
    with connected(arguments) as api:
        made = api.post(f"/tenants{step(arguments.tenant)}/keys", wanted).read(KeyMade)
    print(f"key {made.id} for {arguments.tenant}, on every gateway of the fleet", file=sys.stderr)
    return _show_once(arguments, made)


def _show_once(arguments: argparse.Namespace, made: "KeyMade") -> int:
    print("This is the only time it is shown. Running gateways honour it within 5 seconds.", file=sys.stderr)
    if arguments.json:
        print_json(made)
    else:
        print(made.secret)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from gateway.control import keys
    from gateway.control.shown import KeyShown, key_shown

    is_remote = _is_remote(arguments)
    if is_remote:
        with connected(arguments) as api:
            found = api.all("/keys", KeyShown)
    else:
        with _refusals():
            found = [
                key_shown(row.key, source="store", created_at=row.created_at, revoked_at=row.revoked_at)
                for row in keys.listed(key_store_path(arguments))
            ]
    if arguments.json:
        print_json(found)
        return 0
    now = time.time()
    # Where a key was made is worth a column where it can be more than one place; a key store knows nothing of use.
    elsewhere = ["USED", "FROM"] * is_remote
    lines = [("PUBLIC ID", "TENANT", "NAME", "MODELS", "ENDPOINTS", "CREATED", "EXPIRES", *elsewhere, "STATE")]
    for key in found:
        models, endpoints = ("all" if each is None else ",".join(each) for each in (key.models, key.endpoints))
        created = "" if key.created_at is None else _day(key.created_at)
        expires = "never" if key.expires_at is None else _day(key.expires_at)
        used = "never" if key.last_used_at is None else _day(key.last_used_at)
        place = [used, key.source] * is_remote
        lines.append((key.id, key.tenant, key.name, models, endpoints, created, expires, *place, _state(key, now)))
    print_table(lines)
    return 0


def _rotate(arguments: argparse.Namespace) -> int:
    from gateway.control.remote import step
    from gateway.control.shown import KeyMade, Rotation

    if not _is_remote(arguments):
        raise CommandError(
            "keys of the key store have no successors: make another key and revoke this one, or use --admin URL"
        )
    with connected(arguments) as api:
        place = f"/tenants{step(_tenant_of(api, arguments.public_id))}/keys{step(arguments.public_id)}"
        made = api.post(f"{place}/rotate", Rotation(overlap_s=arguments.overlap)).read(KeyMade)
    print(
        f"key {made.id} takes the place of {arguments.public_id}, which works for {arguments.overlap:g} s more",
        file=sys.stderr,
    )
    return _show_once(arguments, made)


def _revoke(arguments: argparse.Namespace) -> int:
    from gateway.control import keys
    from gateway.control.remote import step

    if _is_remote(arguments):
        with connected(arguments) as api:
            tenant = _tenant_of(api, arguments.public_id)
            api.delete(f"/tenants{step(tenant)}/keys{step(arguments.public_id)}")
    else:
        with _refusals():
            tenant = keys.revoke(key_store_path(arguments), arguments.public_id, now=time.time()).key.tenant
    tell_done(
        arguments,
        {"id": arguments.public_id, "tenant": tenant, "revoked": True},
        f"key {arguments.public_id} of {tenant} is revoked",
        "Running gateways refuse it within 5 seconds; answers under way are finished.",
    )
    return 0


def _tenant_of(api: "AdminApi", public_id: str) -> str:
    from gateway.control.shown import KeyShown

    for key in api.all("/keys", KeyShown):
        if key.id == public_id:
            return key.tenant
    raise CommandError(f"there is no key `{public_id}`")


def _state(key: "KeyShown", now: float) -> str:
    if key.revoked_at is not None:
        return f"revoked {_day(key.revoked_at)}"
    return "expired" if key.expires_at is not None and now >= key.expires_at else "active"


@contextmanager
def _refusals() -> Iterator[None]:
    """Turns what the key store refuses into messages."""
    import sqlite3

    from gateway.auth.store import KeyStoreUnreadable
    from gateway.control.keys import KeyRefused

    try:
        yield
    except (KeyRefused, KeyStoreUnreadable) as error:
        raise CommandError(str(error)) from error
    except (sqlite3.Error, OSError) as error:
        raise CommandError(f"the key store cannot be used: {error}") from error


def _day(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).date().isoformat()


def _doors(text: str) -> "tuple[Door, ...]":
    from gateway.domain.tenant import DOORS

    names = _names(text)
    for name in names:
        if name not in DOORS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(DOORS)}")
    return tuple(door for door in DOORS if door in names)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date such as 2030-01-31") from error
