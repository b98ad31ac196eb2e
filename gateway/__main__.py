"""The command line: a thin face on the rooms below. Parses, calls, prints; decides nothing.

Exit codes: 0 done; 1 what was asked cannot be done (why: on stderr; the mistakes that `check` finds: on stdout);
2 wrong usage. What a program may read goes to stdout, what a person should know to stderr. Every command imports what
it needs when it runs, so that `--help` and `check` stay quick.
"""

# ruff: noqa: T201  # printing is the job

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import __version__
from gateway.control import (
    completion,
    drill_commands,
    key_commands,
    ledger,
    policy_commands,
    remote_commands,
    tenant_commands,
)
from gateway.control.commands import (
    CONFIG_HELP,
    JOURNAL_HELP,
    LIMITS_HELP,
    STORE_HELP,
    CommandError,
    Commands,
    config_paths,
)
from gateway.control.connection import add_json, print_json
from gateway.control.imports.command import add_import

if TYPE_CHECKING:
    from gateway.config.policies import Sources
    from gateway.config.problems import Problem
    from gateway.config.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parsed = build_parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = parsed.run
    try:
        code = run(parsed)
        sys.stdout.flush()
    except CommandError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python would complain again while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="gateway", description="A router gateway for language models: one OpenAI-compatible door to many backends."
    )
    parser.add_argument("--version", action="version", version=f"gateway {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_serve(commands)
    _add_check(commands)
    _add_schema(commands)
    key_commands.add_keys(commands)
    tenant_commands.add_tenants(commands)
    policy_commands.add_policy(commands)
    remote_commands.add_remote(commands)
    drill_commands.add_drill(commands)
    ledger.add_ledger(commands)
    add_import(commands)
    completion.add_completion(commands, parser)
    return parser


def _add_demo(commands: Commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="worker and gateway on this machine, with a ready key",
        description="Starts the inference worker of this repository on the CPU with a real small model, and the "
        "gateway in front of it with policies/demo.yaml; prints a key, a curl line and a Python snippet. Ctrl-C stops "
        "both.",
    )
    parser.add_argument("--port", type=int, default=8080, help="the gateway's port (default: %(default)s)")
    parser.add_argument("--admin-port", type=int, help="the admin API's port (default: the one after --port)")
    parser.add_argument("--worker-port", type=int, default=8090, help="the worker's port (default: %(default)s)")
    parser.add_argument(
        "--state", type=Path, default=Path(".demo"), help="folder for ledger, keys and logs (default: %(default)s)"
    )
    parser.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from gateway import demo

    try:
        demo.run(
            port=arguments.port,
            admin_port=arguments.admin_port,
            worker_port=arguments.worker_port,
            state=arguments.state,
        )
    except demo.DemoFailed as error:
        raise CommandError(str(error)) from error
    return 0


def _add_serve(commands: Commands) -> None:
    parser = commands.add_parser(
        "serve",
        help="run the gateway",
        description="Runs the gateway until SIGTERM or Ctrl-C. Then it takes no new connections, lets running requests "
        "finish within the drain time, ends the others with an error event, and leaves when every ledger row is "
        "written. Traces go out over OTLP when OTEL_EXPORTER_OTLP_ENDPOINT is set.",
    )
    parser.add_argument("--config", action="append", type=Path, metavar="PATH", help=CONFIG_HELP)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (default: %(default)s)")
    parser.add_argument("--admin-host", default="127.0.0.1", help="address of the admin API (default: %(default)s)")
    parser.add_argument(
        "--admin-port", type=int, default=8081, help="port of the admin API and of metrics (default: %(default)s)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes that serve together behind the one port, 1 to 64; one for each core that is free is right "
        "(default: %(default)s, without a further process). They are one gateway: limits, budgets and idempotency keys "
        "hold over all of them exactly, usage and metrics are told as sums, changes reach all within a second, and one "
        "that dies is replaced. Each writes a ledger of its own beside the first one's; all are read together. What a "
        "worker learns of backends (health, how much they bear), its queue and GATEWAY_PEER_CONNECTIONS are its own",
    )
    parser.add_argument("--store", metavar="URL", help=STORE_HELP)
    parser.add_argument("--journal", type=Path, metavar="PATH", help=JOURNAL_HELP)
    parser.add_argument("--limits", metavar="URL", help=LIMITS_HELP)
    parser.add_argument(
        "--drain", type=float, default=30.0, metavar="SECONDS", help="time for running requests (default: %(default)s)"
    )
    parser.add_argument(
        "--durability",
        choices=["normal", "full"],
        default="normal",
        help="what the ledger has of an answer that its client has: `normal`, whatever kills the gateway; `full`, also "
        "if the machine loses power, for which every answer waits until the disk has it (default: %(default)s)",
    )
    parser.add_argument(
        "--http",
        choices=["edge", "asgi"],
        default="edge",
        help="how inference requests are served: `edge`, below ASGI; `asgi`, through it, slower, to find out where a "
        "problem lies (default: %(default)s)",
    )
    parser.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    # What a start makes stays: looking for garbage in it takes a fifth of the start. Who serves switches it on again.
    gc.disable()
    from gateway.accounting.database import JournalUnusable
    from gateway.admission.limits import LimitsUnusable
    from gateway.config import policies, settings
    from gateway.config.problems import ConfigurationError
    from gateway.serve import PortTaken, serve

    try:
        told = settings.read(
            config=config_paths(arguments),
            store=arguments.store,
            journal=arguments.journal,
            limits=arguments.limits,
            host=arguments.host,
            port=arguments.port,
            http=arguments.http,
            durability=arguments.durability,
            admin_host=arguments.admin_host,
            admin_port=arguments.admin_port,
            workers=arguments.workers,
        )
        sources = policies.read(told.config)
        if told.workers > 1:
            return _serve_together(told, sources, arguments.drain)
        serve(told, sources, drain_s=arguments.drain)
    except ConfigurationError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        raise CommandError(f"the configuration has {_count(len(error.problems), 'mistake')}") from error
    except (settings.SettingsError, PortTaken, JournalUnusable, LimitsUnusable) as error:
        raise CommandError(str(error)) from error
    return 0


def _serve_together(told: "Settings", sources: "Sources", drain_s: float) -> int:
    from gateway import supervise

    try:
        return supervise.serve(told, sources, drain_s=drain_s)
    except supervise.StartFailed as error:
        raise CommandError(str(error)) from error


def _add_check(commands: Commands) -> None:
    parser = commands.add_parser(
        "check",
        help="validate configuration",
        description="Reads the configuration as `serve` would and names every mistake at once, each with its file and "
        "place. Exits with 1 when there is one. A model that one provider alone serves counts as one, until it says "
        "`single_provider_ack: true`; `serve` would serve it. Contacts no backend. What is only worth a warning, such "
        "as a secret that is not set in this environment, does not count.",
    )
    parser.add_argument("config", nargs="*", type=Path, metavar="PATH", help=CONFIG_HELP)
    parser.add_argument("--strict", action="store_true", help="exit with 1 when there is a warning, too")
    add_json(parser)
    parser.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    from gateway.config import policies
    from gateway.config.problems import ConfigurationError

    try:
        book = policies.load(config_paths(arguments))
    except ConfigurationError as error:
        return _refused(arguments, (*error.problems, *error.objections))
    if book.objections:
        return _refused(arguments, book.objections)
    if arguments.json:
        print_json({"revision": book.revision, "mistakes": [], "warnings": book.warnings})
        return int(arguments.strict and bool(book.warnings))
    for problem in book.warnings:
        print(f"warning: {problem}")
    sizes = [(book.backends, "backend"), (book.policies, "policy"), (book.tenants, "tenant")]
    found = f"{', '.join(_count(len(entries), noun) for entries, noun in sizes)} (revision {book.revision})"
    if arguments.strict and book.warnings:
        print(f"{_count(len(book.warnings), 'warning')} in {found}")
        return 1
    print(f"ok: {found}")
    return 0


def _refused(arguments: argparse.Namespace, mistakes: "Sequence[Problem]") -> int:
    if arguments.json:
        print_json({"revision": None, "mistakes": mistakes, "warnings": []})
        return 1
    for problem in mistakes:
        print(problem)
    print(_count(len(mistakes), "mistake"))
    return 1


def _add_schema(commands: Commands) -> None:
    parser = commands.add_parser(
        "schema",
        help="print the configuration's JSON Schema",
        description="Prints the JSON Schema of a configuration file, which editors use to complete and explain fields.",
    )
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with FILE instead; exit 1 when it is stale")
    parser.set_defaults(run=_schema)


def _schema(arguments: argparse.Namespace) -> int:
    from gateway.config import schema

    rendered = schema.render()
    if arguments.check is None:
        print(rendered, end="")
        return 0
    try:
        found = arguments.check.read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{arguments.check} cannot be read ({error.strerror}); run: make schema") from error
    if found != rendered:
        raise CommandError(f"{arguments.check} is stale; run: make schema")
    return 0


def _count(number: int, noun: str) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


if __name__ == "__main__":
    sys.exit(main())
