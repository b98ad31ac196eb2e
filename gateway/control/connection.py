"""What the commands share that work through the admin API: their options, the way to it, how they print.

The API's address and the owner's key come from the command line and the environment; `remote` does the talking.
"""

# ruff: noqa: T201  # printing is the job

import argparse
import datetime as dt
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from gateway.control.commands import CommandError

if TYPE_CHECKING:
    from gateway.control.remote import AdminApi

ADMIN_HELP: Final = (
    "the gateway's admin API (default: $GATEWAY_ADMIN_URL, or http://127.0.0.1:8081); its key is in $GATEWAY_ADMIN_KEY"
)


def add_connection(parser: argparse.ArgumentParser, *, is_part: bool = False) -> None:
    """Add `--admin` and `--json`. A part of a command that has them too leaves that one's values."""
    absent = argparse.SUPPRESS if is_part else None
    parser.add_argument("--admin", metavar="URL", help=ADMIN_HELP, default=absent)
    add_json(parser, is_part=is_part)


def add_json(parser: argparse.ArgumentParser, *, is_part: bool = False) -> None:
    """Add `--json`: what is told then is one document on stdout."""
    absent = argparse.SUPPRESS if is_part else False
    parser.add_argument("--json", action="store_true", default=absent, help="one JSON document, for programs")


@contextmanager
def connected(arguments: argparse.Namespace) -> Iterator["AdminApi"]:
    """The admin API that the command line or the environment names. Raises CommandError."""
    from gateway.config import settings
    from gateway.control.remote import AdminApi

    try:
        place = settings.admin_place(arguments.admin)
    except settings.SettingsError as error:
        raise CommandError(str(error)) from error
    with AdminApi(place) as api:
        yield api


def print_json(value: object) -> None:
    """One JSON document, indented, that ends with a line break. `bytes` are JSON already."""
    import msgspec

    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    sys.stdout.buffer.write(msgspec.json.format(body, indent=2) + b"\n")


def tell_done(arguments: argparse.Namespace, done: object, *said: str) -> None:
    """What was done: a document for programs, else sentences for people."""
    if arguments.json:
        print_json(done)
        return
    for sentence in said:
        print(sentence, file=sys.stderr)


def moment(at: float | None) -> str:
    """Seconds since the epoch as people read them, in UTC."""
    return "" if at is None else dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
