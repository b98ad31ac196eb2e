"""What the operator's commands share: how they fail, print, and find the configuration and the stores.

Imports the rooms below when a command runs, so that `--help` stays quick.
"""

# ruff: noqa: T201  # printing is the job

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
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
