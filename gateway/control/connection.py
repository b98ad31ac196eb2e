"""What the commands share that work through the admin API: their options, the way to it, how they print.

The API's address and the owner's key come from the command line and the environment; `remote` does the talking.
"""

# printing is the job

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


def add_connection(parser: argparse.ArgumentParser, *, reads: bool = False, is_part: bool = False) -> None:
    """Add `--admin`, and `--json` to what reads. A part of a command that has them too leaves that one's values."""
    parser.add_argument("--admin", metavar="URL", help=ADMIN_HELP, default=argparse.SUPPRESS if is_part else None)
    if reads:
        parser.add_argument("--json", action="store_true", help="the API's own answer, for programs")


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


def moment(at: float | None) -> str:
    """Seconds since the epoch as people read them, in UTC."""
    return "" if at is None else dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
