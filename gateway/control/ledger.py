"""The operator's commands on the ledger: `ledger export | totals | verify`. Reads; may run beside a gateway."""

# ruff: noqa: T201  # printing is the job

import argparse
import csv
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from gateway.control.arguments import instant
from gateway.control.commands import JOURNAL_HELP, STORE_HELP, CommandError, Commands, ledger_path, places, print_table

if TYPE_CHECKING:
    from gateway.accounting.statement import By, Filter, Total
    from gateway.domain.store import RedisPlace


def add_ledger(commands: Commands) -> None:
    """Add `gateway ledger export | totals | verify`."""
    parser = commands.add_parser("ledger", help="read what was used and what it cost, and check the books")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    export = verbs.add_parser(
        "export",
        help="print entries as JSON lines or CSV",
        description="Prints the ledger, one JSON object or line for each attempt, in the order in which attempts "
        "ended. May run beside a gateway.",
    )
    export.add_argument("--request-id", metavar="ID", help="only this request's attempts")
    export.add_argument("--format", choices=["jsonl", "csv"], default="jsonl", help="default: %(default)s")
    export.set_defaults(run=_export)

    totals = verbs.add_parser(
        "totals",
        help="print sums by tenant, key, model, backend or day",
        description="Prints what the entries add up to. Charges are what tenants pay, costs what backends bill us.",
    )
    add_grouping(totals)
    totals.add_argument(
        "--fleet", action="store_true", help="of all gateways that ship to the same Redis store, for 400 days"
    )
    totals.add_argument("--json", action="store_true", help="one JSON object for each sum, money in nano-dollars")
    totals.set_defaults(run=_totals)

    for verb in (export, totals):
        add_selection(verb)

    verify = verbs.add_parser(
        "verify",
        help="check that the books are right",
        description="Checks the file, that each request has all its attempts and one charge, and that each row's money "
        "follows from its tokens and the prices that it names; where the store is a Redis, also that its totals are "
        "what the ledger's rows come to. Names everything that is wrong; exits with 1 then.",
    )
    verify.set_defaults(run=_verify)

    for verb in (export, totals, verify):
        verb.add_argument("--store", metavar="URL", help=STORE_HELP)
        verb.add_argument("--journal", type=Path, metavar="PATH", help=JOURNAL_HELP)


def add_grouping(parser: argparse.ArgumentParser) -> None:
    """Add `--by`: what sums are told apart by."""
    parser.add_argument(
        "--by",
        type=_dimensions,
        default=["tenant", "model"],
        metavar="A,B",
        help="any of tenant, key, model, backend, day (default: tenant,model); a day is one of UTC",
    )


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add `--tenant`, `--since` and `--before`: which rows are meant, the times in seconds since the epoch."""
    parser.add_argument("--tenant", metavar="NAME", help="only this tenant's")
    parser.add_argument("--since", type=instant, metavar="TIME", help="only from this date or time on (ISO 8601, UTC)")
    parser.add_argument("--before", type=instant, metavar="TIME", help="only before this date or time")


def print_totals(by: Sequence[str], totals: "Iterable[Total]") -> None:
    """Sums as a table, money in dollars."""
    heads = (*by, "requests", "attempts", "prompt", "cached", "completion", "reasoning", "charge USD", "cost USD")
    lines = [(*total.by, *_cells(total)) for total in totals]
    print_table([tuple(head.upper() for head in heads), *lines], right=len(heads) - len(by))


def usd(nano_usd: int) -> str:
    """Nano-dollars as dollars, exact: nine places are a nano-dollar."""
    return f"{Decimal(nano_usd).scaleb(-9):.9f}"


def _export(arguments: argparse.Namespace) -> int:
    from gateway.accounting import books, statement
    from gateway.accounting.rows import SHOWN
    from gateway.config.settings import of_workers

    with _readable():
        found = books.rows(books.written(of_workers(ledger_path(arguments))), _filter(arguments, arguments.request_id))
        if arguments.format == "csv":
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(SHOWN)
            writer.writerows(row[1:] for row in found)
        else:
            for row in found:
                sys.stdout.buffer.write(statement.as_json_line(row))
    return 0


def _totals(arguments: argparse.Namespace) -> int:
    import msgspec

    from gateway.accounting import books
    from gateway.config.settings import of_workers

    by: Sequence[By] = arguments.by
    path, fleet = places(arguments)
    with _readable():
        if arguments.fleet:
            found = _of_fleet(fleet, by, _filter(arguments))
        else:
            found = books.totals(books.written(of_workers(path)), by, _filter(arguments))
    if arguments.json:
        for total in found:
            named = dict(zip(by, total.by, strict=True)) | msgspec.structs.asdict(total)
            del named["by"]
            sys.stdout.buffer.write(msgspec.json.encode(named) + b"\n")
        return 0
    print_totals(by, found)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from gateway.accounting import books, intents, statement
    from gateway.accounting.audit import findings
    from gateway.config.settings import of_workers

    path, fleet = places(arguments)
    exchanges = attempts = wrong = open_ = 0
    with _readable():
        for ledger in of_workers(path):
            for finding in statement.check_file(ledger):
                print(f"{ledger}: {finding}")
                wrong += 1
            for rows in statement.exchanges(ledger):
                exchanges += 1
                attempts += len(rows)
                for finding in findings(rows):
                    print(finding)
                    wrong += 1
            for finding in _compared(fleet, ledger) if fleet is not None else ():
                print(finding)
                wrong += 1
            open_ += len(intents.read(ledger.with_name(ledger.name + intents.SUFFIX)))
        (whole,) = books.totals(of_workers(path), [])
    if open_:
        print(f"{open_} in flight, or left by a gateway that died: the next one closes them", file=sys.stderr)
    print(
        f"{'wrong' if wrong else 'right'}: {exchanges} requests in {attempts} attempts, {wrong} findings; "
        f"charged {usd(whole.charge_nano_usd)} USD, cost {usd(whole.cost_nano_usd)} USD",
        file=sys.stderr,
    )
    return 1 if wrong else 0


def _compared(fleet: "RedisPlace", path: Path) -> Sequence[str]:
    """Where the fleet's totals are not what the rows come to that were shipped."""
    import redis

    from gateway.accounting import shipping, statement

    try:
        return shipping.compare(fleet, path, statement.name_of(path), wall=time.time())
    except redis.RedisError as error:
        raise CommandError(f"the store's totals cannot be read ({type(error).__name__})") from error


def _of_fleet(fleet: "RedisPlace | None", by: Sequence["By"], wanted: "Filter") -> list["Total"]:
    """What all ledgers of the fleet come to."""
    if fleet is None:
        raise CommandError("--fleet needs the store that the fleet shares: --store redis://…")
    import redis

    from gateway.accounting import shipping

    try:
        return shipping.of_fleet(fleet, by, wanted, wall=time.time())
    except redis.RedisError as error:
        raise CommandError(f"the store's totals cannot be read ({type(error).__name__})") from error
    except ValueError as error:
        raise CommandError(str(error)) from error


@contextmanager
def _readable() -> Iterator[None]:
    """Turns what keeps the ledger from being read into messages."""
    from gateway.accounting.database import JournalUnusable
    from gateway.accounting.intents import IntentsUnreadable

    try:
        yield
    except (JournalUnusable, IntentsUnreadable, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise CommandError(str(error)) from error


def _filter(arguments: argparse.Namespace, request_id: str | None = None) -> "Filter":
    from gateway.accounting.statement import Filter

    return Filter(tenant=arguments.tenant, request_id=request_id, since=arguments.since, before=arguments.before)


def _cells(total: "Total") -> tuple[str, ...]:
    prompt = total.input_tokens + total.cached_input_tokens + total.cache_write_tokens
    completion = total.output_tokens + total.reasoning_tokens
    counts = (total.requests, total.attempts, prompt, total.cached_input_tokens, completion, total.reasoning_tokens)
    return (*map(str, counts), usd(total.charge_nano_usd), usd(total.cost_nano_usd))


def _dimensions(text: str) -> list[str]:
    from gateway.accounting.statement import By

    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in get_args(By) or names.count(name) > 1:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of {', '.join(get_args(By))}, each once at most")
    return names
