"""The command `gateway import`: reads the foreign file, prints ours, and says what was lost. Decides nothing."""

# ruff: noqa: T201  # printing is the job

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.control.commands import CommandError, Commands

if TYPE_CHECKING:
    from gateway.config.problems import Report
    from gateway.control.imports.draft import Draft
    from gateway.control.imports.reading import Foreign

_MOST_BYTES: Final = 4 << 20


def add_import(commands: Commands) -> None:
    """Add `gateway import litellm | portkey`."""
    parser = commands.add_parser(
        "import",
        help="turn another gateway's configuration into ours",
        description="Prints a configuration of ours made from another gateway's, and says on stderr, place by place, "
        "what could not be carried. No secret is carried or shown: keys become references to variables. Exits with 1 "
        "when nothing came of it, or when what came of it has mistakes.",
    )
    kinds = parser.add_subparsers(metavar="KIND", required=True)
    litellm = kinds.add_parser(
        "litellm",
        help="a config.yaml of LiteLLM's proxy",
        description="Reads model_list, router_settings, litellm_settings and general_settings. Addresses that the file "
        "takes from the environment are filled in from this one.",
    )
    litellm.add_argument(
        "--keys",
        type=Path,
        metavar="FILE",
        help="virtual keys, as /key/list?return_full_object=true answers: clients keep their keys, as digests",
    )
    litellm.set_defaults(run=_litellm)
    portkey = kinds.add_parser(
        "portkey",
        help="a config of Portkey's gateway (JSON)",
        description="Reads strategy, targets (nested too), weights, retry and request_timeout.",
    )
    portkey.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="a model that clients ask for, may be repeated; needed where the config leaves it to them",
    )
    portkey.set_defaults(run=_portkey)
    for kind in (litellm, portkey):
        kind.add_argument("file", type=Path, metavar="FILE")
        kind.add_argument("--output", type=Path, metavar="FILE", help="where to write (default: stdout)")


def _litellm(arguments: argparse.Namespace) -> int:
    from gateway.config.problems import Report
    from gateway.control.imports import litellm
    from gateway.control.imports.reading import Node

    report = Report()
    keys = None if arguments.keys is None else Node(_read(arguments.keys), str(arguments.keys), report)
    draft = litellm.convert(_read(arguments.file), str(arguments.file), report, os.environ, keys)
    return _deliver(draft, report, "LiteLLM's configuration by `gateway import litellm`", arguments)


def _portkey(arguments: argparse.Namespace) -> int:
    from gateway.config.problems import Report
    from gateway.control.imports import portkey

    report = Report()
    try:
        draft = portkey.convert(_read(arguments.file), str(arguments.file), report, arguments.model)
    except portkey.ModelsUntold:
        message = "the config leaves the model to the client; say what clients ask for: --model NAME, repeated"
        raise CommandError(message) from None
    return _deliver(draft, report, "a config of Portkey's by `gateway import portkey`", arguments)


def _read(path: Path) -> "Foreign":
    """What the file holds, read as its own gateway reads it: JSON, else YAML with all that YAML can do."""
    import yaml

    try:
        with path.open("rb") as file:
            source = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise CommandError(f"{path} cannot be read ({error.strerror})") from error
    if len(source) > _MOST_BYTES:
        raise CommandError(f"{path} is larger than {_MOST_BYTES >> 20} MiB")
    try:
        tree: Foreign = json.loads(source) if source.lstrip()[:1] in {b"{", b"["} else yaml.safe_load(source)
    except (ValueError, RecursionError):
        # Not the library's own message: it quotes the file, secrets included.
        raise CommandError(f"{path} is neither JSON nor YAML") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        raise CommandError(f"{path} is not valid YAML{place}") from None
    if not isinstance(tree, dict | list):
        raise CommandError(f"{path} holds no configuration")
    return tree


def _deliver(draft: "Draft", report: "Report", source: str, arguments: argparse.Namespace) -> int:
    """Print the file and the notes. The file has been read as `gateway check` would read it."""
    for note in report.warnings:
        print(note, file=sys.stderr)
    if not draft.models:
        raise CommandError(f"nothing of {arguments.file} can be carried")
    if alone := [*draft.acknowledge()]:
        print(
            f"hang on one provider, as they did, and say so (`single_provider_ack`): {', '.join(alone)}",
            file=sys.stderr,
        )
    text = draft.yaml(source)
    mistakes = _mistakes(text)
    for mistake in mistakes:
        print(f"the result: {mistake}", file=sys.stderr)
    if arguments.output is None:
        print(text, end="")
    else:
        try:
            arguments.output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{arguments.output} cannot be written ({error.strerror})") from error
    return 1 if mistakes else 0


def _mistakes(text: str) -> list[str]:
    from gateway.config import policies
    from gateway.config.problems import ConfigurationError

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "imported.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            policies.load([file])
        except ConfigurationError as error:
            return [f"{problem.path}: {problem.message}" for problem in error.problems]
    return []
