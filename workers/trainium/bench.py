"""`bench`: what this worker does per CPU-second, beside a llama.cpp server on the same weights in the same run.

Both run as processes of their own and are asked over HTTP by the same client; their CPU time is read from `/proc`, so a
busy machine slows the clock and not the figures. Speeds are differences of two runs that differ in nothing but the
tokens in question. Needs Linux; llama.cpp is compared when the package `xllamacpp` is installed.
"""

import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import httpx

from workers.trainium.errors import WorkerError

_START_S: Final = 600.0
_REPLY_S: Final = 300.0
_SLOTS: Final = 8
_CONTEXT: Final = 1024
_PROMPT: Final = 24
"""Tokens before an answer whose decoding is measured."""
_PREFILL: Final = 256
_FIELDS: Final = {
    "kind": {"enum": ["person", "place", "thing"]},
    "amounts": {"type": "array", "items": {"type": "integer"}, "minItems": 200},
}
_HELD: Final = {
    "type": "json_schema",
    "json_schema": {"name": "held", "schema": {"type": "object", "properties": _FIELDS, "required": list(_FIELDS)}},
}
"""An answer of this kind is longer than any that is asked for."""


@dataclass(frozen=True, slots=True)
class Server:
    """An engine that listens."""

    name: str
    url: str
    pid: int
    model: str
    extra: dict[str, Any]
    """What its requests carry besides, so that no prompt comes from a cache."""
    start_s: float

    def cpu_s(self) -> float:
        """CPU seconds the process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mb(self) -> float:
        """The most memory it has held."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    tokens: int = 64
    """Tokens of each answer."""
    rounds: int = 3
    """Of which the best counts: noise only ever takes."""
    short: int = 12
    """Short chats whose first token is waited for while long ones run."""


@dataclass(slots=True)
class Figures:
    """What was measured of one engine."""

    engine: str
    decode: dict[int, float] = field(default_factory=dict)
    """Batch → tokens per CPU-second."""
    held: float = 0.0
    """The same of the largest batch, when each answer is held to a JSON schema."""
    prefill: float = 0.0
    """Tokens per CPU-second."""
    first_token_ms: tuple[float, float] = (0.0, 0.0)
    """Median and worst, while six long answers run."""
    peak_mb: float = 0.0
    start_s: float = 0.0
    compile_s: float | None = None
    """Of all executables; None where nothing is compiled."""


def run(model: str, path: Path, cache_dir: Path, plan: Plan, *, against_llama: bool | None) -> list[Figures]:
    """Measure this worker, and llama.cpp unless told not to. Raises `WorkerError` when an engine does not come up.

    `against_llama` None compares when `xllamacpp` is installed.
    """
    if not Path("/proc/self/stat").exists():
        raise WorkerError("bench reads CPU times from /proc, which only Linux has")
    found = []
    with _worker(model, cache_dir) as server:
        found.append(measure(server, plan))
    if against_llama or (against_llama is None and find_spec("xllamacpp") is not None):
        with _llama(path) as server:
            found.append(measure(server, plan))
    return found


def measure(server: Server, plan: Plan) -> Figures:
    """All figures of one engine."""
    figures = Figures(server.name, start_s=server.start_s)
    # A connection for each request: llama.cpp ends one after a hundred, and may do so while the next is sent.
    limits = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=server.url, timeout=_REPLY_S, limits=limits) as client:
        ask = _Asking(server, client)
        ask.answer(_PROMPT, 2)
        for batch in (1, _SLOTS):
            figures.decode[batch] = max(_decode_speed(ask.answer, ask, batch, plan.tokens) for _ in range(plan.rounds))
        figures.held = max(_decode_speed(ask.held_answer, ask, _SLOTS, plan.tokens) for _ in range(plan.rounds))
        figures.prefill = max(_prefill_speed(ask) for _ in range(plan.rounds))
        waits = _first_tokens(ask, plan)
        figures.first_token_ms = (statistics.median(waits) * 1e3, max(waits) * 1e3)
        figures.compile_s = _compile_seconds(client)
    figures.peak_mb = server.peak_mb()
    return figures


class _Asking:
    """Sends prompts that nobody has sent before, so none comes from a cache."""

    def __init__(self, server: Server, client: httpx.Client) -> None:
        self.server = server
        self._client = client
        self._random = random.Random(7)  # noqa: S311  # token ids, not secrets

    def body(self, size: int, tokens: int) -> dict[str, Any]:
        """A completion of exactly so many tokens."""
        prompt = [self._random.randrange(100, 500) for _ in range(size)]
        wanted = {"model": self.server.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        return wanted | {"ignore_eos": True} | self.server.extra

    def answer(self, size: int, tokens: int) -> None:
        """Ask and wait."""
        self._client.post("/v1/completions", json=self.body(size, tokens)).raise_for_status()

    def held_answer(self, size: int, tokens: int) -> None:
        """Ask for JSON of a schema, which is longer than so many tokens, and wait."""
        letters = "".join(self._random.choices("abcdefgh ", k=size))
        wanted: dict[str, Any] = {"model": self.server.model, "messages": [{"role": "user", "content": letters}]}
        wanted |= {"response_format": _HELD, "max_tokens": tokens, "temperature": 0}
        self._client.post("/v1/chat/completions", json=wanted | self.server.extra).raise_for_status()

    def first_token_s(self, size: int, tokens: int) -> float:
        """Seconds until the first event of a streamed answer, which is read to its end."""
        started = time.monotonic()
        with self._client.stream("POST", "/v1/completions", json=self.body(size, tokens) | {"stream": True}) as reply:
            lines = reply.iter_lines()
            next(lines)
            first = time.monotonic() - started
            for _ in lines:
                pass
        return first

    def cpu_of(self, work: Callable[[], object]) -> float:
        """CPU seconds the engine needs for it."""
        before = self.server.cpu_s()
        work()
        return self.server.cpu_s() - before


def _decode_speed(answer: Callable[[int, int], None], ask: _Asking, batch: int, tokens: int) -> float:
    def together(count: int) -> None:
        with ThreadPoolExecutor(batch) as pool:
            list(pool.map(lambda _: answer(_PROMPT, count), range(batch)))

    short = ask.cpu_of(lambda: together(1))
    whole = ask.cpu_of(lambda: together(1 + tokens))
    return batch * tokens / max(whole - short, 1e-3)


def _prefill_speed(ask: _Asking) -> float:
    short = ask.cpu_of(lambda: ask.answer(1, 1))
    whole = ask.cpu_of(lambda: ask.answer(_PREFILL, 1))
    return _PREFILL / max(whole - short, 1e-3)


def _first_tokens(ask: _Asking, plan: Plan) -> list[float]:
    """Seconds that short prompts wait, one after the other, while long ones are read and answered."""
    with ThreadPoolExecutor(6) as pool:
        long = [pool.submit(ask.answer, _PREFILL + 44, plan.tokens * 3) for _ in range(6)]
        waits = [ask.first_token_s(_PROMPT, 4) for _ in range(plan.short)]
        for one in long:
            one.result()
    return waits


def _compile_seconds(client: httpx.Client) -> float | None:
    found = re.findall(r"^trn_worker_compile_seconds\{.*\} ([0-9.e+-]+)$", client.get("/metrics").text, re.MULTILINE)
    return sum(map(float, found)) if found else None


@contextmanager
def _worker(model: str, cache_dir: Path) -> Iterator[Server]:
    command = [sys.executable, "-m", "workers.trainium", "serve", "--model", model, "--cache-dir", str(cache_dir)]
    command += ["--port", "0", "--device", "cpu", "--slots", str(_SLOTS), "--max-model-len", str(_CONTEXT)]
    with _listening("this worker", command, _ours, {"cache_salt": f"bench {os.getpid()}"}) as server:
        # Everything compiled, or the compiler's work would count as the model's.
        _until(lambda: not httpx.get(f"{server.url}/v1/worker").json()["executables"]["pending"])
        yield server


@contextmanager
def _llama(path: Path) -> Iterator[Server]:
    command = [sys.executable, "-m", "workers.trainium.bench_llama", str(path), str(_SLOTS), str(_SLOTS * _CONTEXT)]
    with _listening("llama.cpp", command, _theirs, {"cache_prompt": False}) as server:
        yield server


def _ours(line: str) -> str | None:
    """The address in a line of the worker's log."""
    if "server.listening" not in line:
        return None
    event = json.loads(line)
    return f"http://{event['host']}:{event['port']}"


def _theirs(line: str) -> str | None:
    """The address that `bench_llama` prints."""
    return line.removeprefix("listening ").strip() if line.startswith("listening ") else None


@contextmanager
def _listening(
    name: str, command: Sequence[str], address: Callable[[str], str | None], extra: dict[str, Any]
) -> Iterator[Server]:
    """Start a server and wait until it is ready; it ends with the block."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # noqa: S603  # our own commands
    try:
        assert process.stdout is not None  # noqa: S101  # it was asked for above
        said = []
        for line in process.stdout:
            said.append(line)
            url = address(line)
            if url is not None:
                break
        else:
            raise WorkerError(f"{name} did not start: {''.join(said[-5:])}")
        # Its further lines must be read, or it stands still when the pipe is full; they end with the process.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        _until(lambda: _is_ready(url))
        model = httpx.get(f"{url}/v1/models", timeout=_REPLY_S).json()["data"][0]["id"]
        yield Server(name, url, process.pid, model, extra, time.monotonic() - started)
    finally:
        process.kill()
        process.wait()


def _is_ready(url: str) -> bool:
    try:
        # llama.cpp has no /ready: 404 says that it listens, and /health that its model is there.
        status = httpx.get(f"{url}/ready", timeout=_REPLY_S).status_code
        return status == 200 or (status == 404 and httpx.get(f"{url}/health").status_code == 200)  # noqa: PLR2004  # HTTP
    except httpx.TransportError:
        return False


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_S
    while not holds():
        if time.monotonic() > deadline:
            raise WorkerError(f"an engine was not ready within {_START_S:.0f} s")
        time.sleep(0.1)


def table(found: Sequence[Figures]) -> str:
    """The figures for people, with the ratios that matter."""
    rows: list[tuple[str, Callable[[Figures], str]]] = [
        ("decode, batch 1, tokens per CPU-second", lambda one: f"{one.decode[1]:.0f}"),
        (f"decode, batch {_SLOTS}", lambda one: f"{one.decode[_SLOTS]:.0f}"),
        (f"decode, batch {_SLOTS}, held to a JSON schema", lambda one: f"{one.held:.0f}"),
        (f"prefill, {_PREFILL} tokens", lambda one: f"{one.prefill:.0f}"),
        ("first token beside 6 long answers, median ms", lambda one: f"{one.first_token_ms[0]:.0f}"),
        ("  worst ms", lambda one: f"{one.first_token_ms[1]:.0f}"),
        ("peak memory, MB", lambda one: f"{one.peak_mb:.0f}"),
        ("start to ready, s", lambda one: f"{one.start_s:.1f}"),
        ("compiling all executables, s", lambda one: "-" if one.compile_s is None else f"{one.compile_s:.1f}"),
    ]
    lines = [f"{'':48}" + "".join(f"{one.engine:>14}" for one in found)]
    lines += [f"{name:48}" + "".join(f"{show(one):>14}" for one in found) for name, show in rows]
    first = found[0]
    lines.append(f"batch {_SLOTS} against batch 1: {first.decode[_SLOTS] / first.decode[1]:.2f}")
    for other in found[1:]:
        lines.append(
            f"against {other.engine}: decode {first.decode[1] / other.decode[1]:.2f} at batch 1, "
            f"{first.decode[_SLOTS] / other.decode[_SLOTS]:.2f} at batch {_SLOTS}, "
            f"{first.held / max(other.held, 1e-3):.2f} held to a schema; prefill {first.prefill / other.prefill:.2f}"
        )
    return "\n".join(lines)
