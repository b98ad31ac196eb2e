"""The operator's commands that need no running gateway: `keys …`, and what all commands share.

Parses and prints; what is done stands in `keys` and in the rooms below. Imports them when a command runs.
"""

# ruff: noqa: T201  # printing is the job

import argparse
import datetime as dt
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from gateway.auth.store import StoredKey
    from gateway.config.policies import PolicyBook
    from gateway.domain.store import RedisPlace

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001  # argparse gives it no public name
"""Where a command adds itself."""

CONFIG_HELP: Final = "configuration: a YAML file or a folder of them, may be repeated (default: $GATEWAY_CONFIG)"
STORE_HELP: Final = (
    "sqlite:///path of the ledger, keys lie next to it; or redis://host, which a fleet shares for its limits "
    "(default: $GATEWAY_STORE, or your state folder)"
)
LIMITS_HELP: Final = (
    "sqlite:///path of a file in which the gateways of this machine share their limits "
    "(default: $GATEWAY_LIMITS, or the memory of each)"
)
JOURNAL_HELP: Final = (
    "file of the ledger where the store is a Redis, keys lie next to it "
    "(default: $GATEWAY_JOURNAL, or your state folder)"
)


class CommandError(Exception):
    """Raised when a command cannot do what was asked; the message is for the person who typed it."""


def add_keys(commands: Commands) -> None:
    """Add `gateway keys create | list | revoke`."""
    parser = commands.add_parser(
        "keys",
        help="make, list and revoke API keys",
        description="API keys of tenants, in the key store next to the ledger. Running gateways that use the same "
        "store follow every change within 5 seconds, without a restart. Keys in the configuration are not shown.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    create = verbs.add_parser(
        "create",
        help="make a key and print it once",
        description="Makes a key. The key alone goes to stdout, so it can be piped; it is not kept and cannot be shown "
        "again. When a configuration is given, the tenant and the models have to be in it.",
    )
    create.add_argument("tenant", metavar="TENANT", help="who pays for what the key does")
    create.add_argument("--name", default="", help="what the key is for, for your own lists")
    create.add_argument(
        "--models", type=_names, metavar="A,B", help="public models it may use (default: all of the policy)"
    )
    create.add_argument("--expires", type=_date, metavar="DATE", help="first day (UTC) on which it no longer works")
    create.add_argument("--config", action="append", type=Path, metavar="PATH", help=CONFIG_HELP)
    create.set_defaults(run=_keys_create)

    listing = verbs.add_parser("list", help="show every key, without its secret")
    listing.set_defaults(run=_keys_list)

    revoke = verbs.add_parser("revoke", help="refuse a key from now on, for good")
    revoke.add_argument("public_id", metavar="PUBLIC_ID", help="as `keys list` shows it: sk-gw-<public id>-…")
    revoke.set_defaults(run=_keys_revoke)

    for verb in (create, listing, revoke):
        verb.add_argument("--store", metavar="URL", help=STORE_HELP)
        verb.add_argument("--journal", type=Path, metavar="PATH", help=JOURNAL_HELP)


def _keys_create(arguments: argparse.Namespace) -> int:
    import secrets
    import time

    from gateway.auth.keys import SECRET_BYTES
    from gateway.control import keys

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
            expires=arguments.expires,
            book=configuration(config) if config else None,
        )
    if not config:
        print("no configuration was given, so the tenant's name was not checked", file=sys.stderr)
    print(f"key {new.key.public_id} for {new.key.tenant}; kept as a digest in {store}", file=sys.stderr)
    print("This is the only time it is shown. Running gateways honour it within 5 seconds.", file=sys.stderr)
    print(new.secret)
    return 0


def _keys_list(arguments: argparse.Namespace) -> int:
    import time

    from gateway.control import keys

    with _refusals():
        rows = keys.listed(key_store_path(arguments))
    now = time.time()
    lines = [("PUBLIC ID", "TENANT", "NAME", "MODELS", "CREATED", "EXPIRES", "STATE")]
    for row in rows:
        models = "all" if row.key.models is None else ",".join(row.key.models)
        created, expires = _day(row.created_at), "never" if row.key.expires_at is None else _day(row.key.expires_at)
        lines.append((row.key.public_id, row.key.tenant, row.key.name, models, created, expires, _state(row, now)))
    print_table(lines)
    return 0


def _keys_revoke(arguments: argparse.Namespace) -> int:
    import time

    from gateway.control import keys

    with _refusals():
        row = keys.revoke(key_store_path(arguments), arguments.public_id, now=time.time())
    print(f"key {row.key.public_id} of {row.key.tenant} is revoked", file=sys.stderr)
    print("Running gateways refuse it within 5 seconds; answers under way are finished.", file=sys.stderr)
    return 0


def _state(row: "StoredKey", now: float) -> str:
    if row.revoked_at is not None:
        return f"revoked {_day(row.revoked_at)}"
    return "expired" if row.key.expires_at is not None and now >= row.key.expires_at else "active"


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


def print_table(lines: Sequence[Sequence[str]], *, right: int = 0) -> None:
    """Cells in columns, the last `right` of them to the right, as numbers are read."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.rjust(width) if index >= len(widths) - right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def configuration(paths: Sequence[Path]) -> "PolicyBook":
    """The configuration; its mistakes are the command's failure."""
    from gateway.config import policies
    from gateway.config.problems import ConfigurationError

    try:
        return policies.load(paths)
    except ConfigurationError as error:
        raise CommandError(f"the configuration has mistakes:\n{error}") from error


def config_paths(arguments: argparse.Namespace) -> tuple[Path, ...]:
    """The configuration that the command line names, else the environment; empty when neither does."""
    from gateway.config import settings

    return settings.config_paths(arguments.config or ())


def places(arguments: argparse.Namespace) -> "tuple[Path, RedisPlace | None]":
    """The ledger's file, and the Redis that the fleet shares if there is one."""
    from gateway.config import settings

    try:
        told = settings.read(store=arguments.store, journal=arguments.journal)
    except settings.SettingsError as error:
        raise CommandError(str(error)) from error
    return told.store, None if isinstance(told.limits, Path) else told.limits


def ledger_path(arguments: argparse.Namespace) -> Path:
    """The ledger's file."""
    return places(arguments)[0]


def key_store_path(arguments: argparse.Namespace) -> Path:
    """The key store's file, next to the ledger."""
    from gateway.config import settings

    return settings.key_store_beside(ledger_path(arguments))


def _day(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).date().isoformat()


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date such as 2030-01-31") from error
