"""`gateway demo`: the worker and the gateway on this machine, as two processes, with a ready key.

Knows how to start, watch and stop them; everything else is theirs. Both run as anybody would run them: the same
commands, the same configuration file.
"""

# ruff: noqa: T201  # printing is the job

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self

import httpx
import msgspec

from gateway.config import policies
from gateway.config.settings import read_secret
from gateway.control import keys
from gateway.upstream.credentials.static import CredentialUnusable, credential_headers

CONFIGURATION: Final = Path(__file__).parents[1] / "policies" / "demo.yaml"
WORKER_PORT: Final = 8090
"""Where `policies/demo.yaml` says the worker is."""
TENANT: Final = "demo"
MODEL: Final = "assistant"
_POLL_S = 0.15
_STOP_S = 4.0
_DRAIN_S = 2.0
_TAIL_LINES = 15


class DemoFailed(Exception):
    """Raised when the demo cannot start or go on; the message says why and what to do."""


class _Progress(msgspec.Struct):
    """What we read of the worker's `/ready`."""

    status: str
    stage: str
    done: int
    total: int
    unit: str
    detail: str


def run(*, port: int, admin_port: int | None, worker_port: int, state: Path) -> None:
    """Start both, print how to use them, and stop both on Ctrl-C. Raises DemoFailed.

    Without an `admin_port`, the one after `port`. `state` is a folder for the ledger, the keys and the logs; it stays
    when the demo ends.
    """
    state.mkdir(parents=True, exist_ok=True)
    require_free(port, f"make demo uses it for the gateway; try: gateway demo --port {port + 1}")
    beside = port + 1 if admin_port is None else admin_port
    require_free(beside, f"make demo uses it for the admin API; try: gateway demo --admin-port {beside + 1}")
    require_free(worker_port, f"make demo uses it for the worker; try: gateway demo --worker-port {worker_port + 1}")
    store = state / "gateway.sqlite"
    key = _fresh_key(store.with_name("gateway-keys.sqlite"))
    serve = [
        *("-m", "gateway", "serve", "--config", str(_configuration(worker_port, state))),
        *("--port", str(port), "--admin-port", str(beside)),
        *("--store", f"sqlite://{store.resolve()}", "--drain", str(_DRAIN_S)),
    ]
    work = ["-m", "workers.trainium", "serve", "--port", str(worker_port), "--drain-timeout", str(_DRAIN_S)]
    for number in (signal.SIGTERM, signal.SIGINT):  # A shell lets its background jobs ignore Ctrl-C: the demo does not.
        signal.signal(number, _interrupt)
    with contextlib.suppress(KeyboardInterrupt), _children() as start:
        gateway = start("gateway", serve, state / "gateway.log")
        worker = start("worker", work, state / "worker.log")
        began = time.monotonic()
        _await_gateway(gateway, f"http://127.0.0.1:{port}", began)
        _await_worker(worker, f"http://127.0.0.1:{worker_port}", began)
        print(_welcome(port, key, state), flush=True)
        _watch(gateway, worker)
    print("\nstopped; the ledger is kept: gateway ledger export --store sqlite://" + str(store.resolve()))


def require_free(port: int, advice: str) -> None:
    """Raise DemoFailed when something listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise DemoFailed(f"port {port} is taken ({error.strerror}); {advice}") from error


class _Child:
    """A process of ours and its log file."""

    def __init__(self, name: str, arguments: list[str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            # A session of its own: Ctrl-C reaches us alone, and we stop both in order.
            self.process = subprocess.Popen(  # noqa: S603  # our own modules, by our own interpreter
                [sys.executable, *arguments],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise DemoFailed, with the log's end, when the process is gone."""
        code = self.process.poll()
        if code is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
            raise DemoFailed(f"the {self.name} ended with code {code}; the end of {self.log}:\n{tail}")


@contextlib.contextmanager
def _children() -> Iterator[Callable[[str, list[str], Path], _Child]]:
    """Starts processes; on the way out asks all to stop, waits, and ends by force what does not."""
    started: list[_Child] = []

    def start(name: str, arguments: list[str], log: Path) -> _Child:
        child = _Child(name, arguments, log)
        started.append(child)
        return child

    try:
        yield start
    finally:
        for child in started:  # The gateway first: its streams get their error event while the worker still answers.
            child.process.terminate()
        stop_by = time.monotonic() + _STOP_S
        for child in started:
            try:
                child.process.wait(max(0.1, stop_by - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _configuration(worker_port: int, state: Path) -> Path:
    """The demo's configuration; with another worker port, a copy that says so."""
    if worker_port == WORKER_PORT:
        return CONFIGURATION
    copy = state / "demo.yaml"
    text = CONFIGURATION.read_text(encoding="utf-8")
    copy.write_text(text.replace(f"127.0.0.1:{WORKER_PORT}", f"127.0.0.1:{worker_port}"), encoding="utf-8")
    return copy


def _fresh_key(key_store: Path) -> str:
    """A new key for the demo's tenant; those of earlier demos stop working, since nobody can see them any more."""
    now = time.time()
    if key_store.exists():
        for stored in keys.listed(key_store):
            if stored.key.tenant == TENANT and stored.revoked_at is None:
                keys.revoke(key_store, stored.key.public_id, now=now)
    return keys.create(key_store, TENANT, name="demo", random_bytes=os.urandom(32), now=now).secret


def _await_gateway(gateway: _Child, url: str, began: float) -> None:
    while True:
        gateway.check()
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/healthz", timeout=1.0).status_code == httpx.codes.OK:
                print(f"gateway  answers on {url} after {time.monotonic() - began:.1f} s", flush=True)
                return
        time.sleep(_POLL_S)


def _await_worker(worker: _Child, url: str, began: float) -> None:
    """Show what the worker does until it serves."""
    shown = ""
    with _Line() as line:
        while True:
            worker.check()
            try:
                progress = msgspec.json.decode(httpx.get(f"{url}/ready", timeout=2.0).content, type=_Progress)
            except (httpx.TransportError, msgspec.DecodeError):
                progress = _Progress("loading", "starting", 0, 0, "", "importing")
            if progress.status == "failed":
                raise DemoFailed(f"the worker cannot serve: {progress.detail}\nIts log is {worker.log}")
            if progress.status == "ready":
                break
            text = _describe(progress)
            if text != shown or line.is_live:
                shown = text
                line.show(f"worker   {text} ({time.monotonic() - began:.0f} s)")
            time.sleep(_POLL_S)
    print(f"worker   serves on {url} after {time.monotonic() - began:.1f} s", flush=True)


def _describe(progress: _Progress) -> str:
    amount = ""
    if progress.total:
        scale, unit = (1e6, "MB") if progress.unit == "bytes" else (1, progress.unit)
        amount = f" {progress.done / scale:.0f}/{progress.total / scale:.0f} {unit}"
    return f"{progress.stage}{amount}: {progress.detail}"


class _Line:
    """One line of the terminal that is written over; elsewhere each state is a line of its own."""

    def __init__(self) -> None:
        self.is_live = sys.stdout.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_live:
            print("\r\x1b[K", end="")

    def show(self, text: str) -> None:
        if self.is_live:
            print(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
        else:
            print(text, flush=True)


def _watch(*children: _Child) -> None:
    while True:
        for child in children:
            child.check()
        time.sleep(_POLL_S * 4)


def _fallbacks() -> list[str]:
    """The backends whose provider key is in the environment."""
    backends = policies.load([CONFIGURATION]).backends
    alive = []
    for name, backend in backends.items():
        if backend.credential is not None:
            with contextlib.suppress(CredentialUnusable):
                credential_headers(name, backend, read_secret)
                alive.append(name)
    return alive


def _welcome(port: int, key: str, state: Path) -> str:
    base = f"http://127.0.0.1:{port}/v1"
    alive = _fallbacks()
    second = (
        f"{' and '.join(alive)} answers too, since its key is set: end the worker and ask again"
        if alive
        else f"with OPENAI_API_KEY or NVIDIA_API_KEY set, a second backend of `{MODEL}` comes alive"
    )
    return f"""
  base URL  {base}
  key       {key}
  model     {MODEL}

  curl {base}/chat/completions -H 'authorization: Bearer {key}' \\
    -H 'content-type: application/json' \\
    -d '{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "What is gravity?"}}]}}'

  # pip install openai, then in Python:
  from openai import OpenAI
  client = OpenAI(base_url="{base}", api_key="{key}")
  messages = [{{"role": "user", "content": "What is gravity?"}}]
  for chunk in client.chat.completions.create(model="{MODEL}", messages=messages, max_tokens=80, stream=True):
      print(chunk.choices[0].delta.content or "", end="", flush=True)

  Next: {second};
  policies/demo.yaml is what runs here: change it and start again;
  OTEL_EXPORTER_OTLP_ENDPOINT sends traces to Jaeger; `gateway ledger export --store sqlite://{state.resolve()}/gateway.sqlite`
  shows what was charged. Logs are in {state}. Ctrl-C stops both.
"""
