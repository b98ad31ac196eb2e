"""The processes of a benchmark: started, waited for, measured and ended by their own ids. Loopback only.

CPU is read from each process's own clock, which counts its threads, living and dead, in nanoseconds; /proc/PID/stat
shows the same number rounded to 10 ms. Linux only.
"""

import contextlib
import functools
import http.client
import os
import shutil
import site
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_PATIENCE_S = 60.0
_STOP_PATIENCE_S = 15.0
_POLL_S = 0.002

_NGINX = """\
daemon off; worker_processes 1; pid nginx.pid; error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
    client_body_buffer_size 256k;  # no prompt of ours goes through a file
    keepalive_requests 100000000;
    upstream backend {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port};
        location = /healthz {{ return 200; }}
        location / {{
            proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header connection ""; proxy_buffering off;
        }}
    }}
}}
"""

CONFIGURATION = """\
version: 1
backends:
  fake:
    dialect: openai
    base_url: http://127.0.0.1:{upstream}/v1
    allow_private: true
    models:
      fake-plain: {{context: 1000000, prices: {{input: 0.02, cached_input: 0.01, output: 0.04}}}}
      fake-burst: {{context: 1000000, prices: {{input: 0.02, cached_input: 0.01, output: 0.04}}}}
      fake-paced: {{context: 1000000, prices: {{input: 0.02, cached_input: 0.01, output: 0.04}}}}
      fake-slow: {{context: 1000000, prices: {{input: 0.02, cached_input: 0.01, output: 0.04}}}}
      fake-embed: {{context: 1000000, accepts: [embeddings], prices: {{input: 0.02, output: 0}}}}
policies:
  bench:
    models:
      bench-plain: {{targets: [{{backend: fake, model: fake-plain}}]}}
      bench-burst: {{targets: [{{backend: fake, model: fake-burst}}]}}
      bench-paced: {{targets: [{{backend: fake, model: fake-paced}}]}}
      bench-slow: {{targets: [{{backend: fake, model: fake-slow}}]}}
      bench-embed: {{targets: [{{backend: fake, model: fake-embed}}]}}
    limits: {{requests_per_minute: 100000000, tokens_per_minute: 1000000000, concurrency: 10000}}
tenants:
  bench: {{policy: bench}}
"""


class StartFailed(Exception):
    """Raised when a process did not come up; the message ends with what it had to say."""


class Process:
    """A running process. `ready_s` is the time from its spawn, at `began`, to its first good answer."""

    def __init__(self, popen: subprocess.Popen[bytes], said: Path, began: float) -> None:
        self._popen = popen
        self._said = said
        self.began = began
        self.ready_s = 0.0

    @property
    def pid(self) -> int:
        """The id of the process we started; it may have children."""
        return self._popen.pid

    def cpu_s(self) -> float:
        """User and system CPU that the process and its living descendants have used so far."""
        total = 0.0
        for pid in _tree(self.pid):
            with contextlib.suppress(OSError):  # gone meanwhile
                # The clock id of another process's CPU time, as clock_getcpuclockid(3) makes it.
                total += time.clock_gettime((~pid << 3) | 2)
        return total

    def rss_mib(self) -> float:
        """Resident memory of the process and its descendants; pages they share count for each."""
        total = 0
        for pid in _tree(self.pid):
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return total * os.sysconf("SC_PAGE_SIZE") / 2**20

    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        return self._said.read_bytes()[-2000:].decode(errors="replace")

    def wait_until_ready(self, port: int, *, path: str = "/healthz") -> None:
        """Ask for that path until it is 200. Raises StartFailed."""
        self.wait_until(functools.partial(_answers, port, path))

    def wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Ask again and again; a network error is a no. Raises StartFailed."""
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if is_ready():
                    self.ready_s = time.perf_counter() - self.began
                    return
            if self._popen.poll() is not None:
                raise StartFailed(f"{self._popen.args!r} ended with {self._popen.returncode}: {self.last_words()}")
            if time.perf_counter() - self.began > START_PATIENCE_S:
                raise StartFailed(
                    f"{self._popen.args!r} was not ready in {START_PATIENCE_S:.0f} s: {self.last_words()}"
                )
            time.sleep(_POLL_S)

    def read_line(self) -> str:
        """The first line of its stdout."""
        line = self._popen.stdout.readline() if self._popen.stdout is not None else b""
        if not line:
            raise StartFailed(f"{self._popen.args!r} said nothing: {self.last_words()}")
        return line.decode().strip()

    def stop(self) -> None:
        """End it, politely first. Children of nginx end with their master."""
        if self._popen.poll() is None:
            self._popen.terminate()
        try:
            self._popen.wait(_STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        for stream in (self._popen.stdin, self._popen.stdout):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def fake_upstream(folder: Path, name: str) -> Iterator[tuple[Process, int]]:
    """A fake model server (which is a trace collector too), and its port."""
    with running([sys.executable, "-m", "tests.bench.upstream"], folder, name, pipes=True) as process:
        yield process, int(process.read_line())


@contextlib.contextmanager
def nginx(folder: Path, *, upstream: int) -> Iterator[tuple[Process, int] | None]:
    """The plain proxy to compare with: nginx with one worker, and its port; None where it is not installed."""
    binary = nginx_binary()
    if binary is None:
        yield None
        return
    port = free_port()
    folder = folder / "nginx"
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(port=port, upstream=upstream), encoding="ascii")
    with running([binary, "-p", str(folder), "-e", "stderr", "-c", str(config)], folder, "nginx") as process:
        process.wait_until_ready(port)
        yield process, port


@contextlib.contextmanager
def gateway(
    folder: Path,
    *,
    upstream: int,
    collector: int | None = None,
    traced: float = 0.1,
    redis: int | None = None,
    workers: int = 1,
    python: tuple[str, ...] = (sys.executable,),
) -> Iterator[tuple[Process, int, str]]:
    """Our gateway with a store of its own, its port and a key.

    It traces that part of requests to the port `collector`, and has its limits in the Redis at the port `redis`, where
    there are such. It is so many `workers`. `python` is what runs the module `gateway`: another interpreter of the same
    version, or one under a profiler.
    """
    folder.mkdir()
    config = folder / "bench.yaml"
    config.write_text(CONFIGURATION.format(upstream=upstream), encoding="ascii")
    told: tuple[str, ...] = ("--config", str(config), "--store", f"sqlite://{folder}/gateway.sqlite")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *site.getsitepackages()]),
    }
    made = subprocess.run(
        [sys.executable, "-m", "gateway", "keys", "create", "bench", *told],
        cwd=folder, env=environ, capture_output=True, text=True, timeout=START_PATIENCE_S, check=False,
    )  # fmt: skip
    if made.returncode:
        raise StartFailed(f"no key could be made: {made.stderr}")
    if collector is not None:
        environ |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector}",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(traced),
        }
    if redis is not None:
        store = f"redis://127.0.0.1:{redis}"
        told = ("--config", str(config), "--store", store, "--journal", f"{folder}/gateway.sqlite")
    if workers > 1:
        told += ("--workers", str(workers))
    port = free_port()
    command = [*python, "-m", "gateway", "serve", *told, "--port", str(port), "--admin-port", "0", "--drain", "5"]
    with running(command, folder, "gateway", environ=environ) as process:
        process.wait_until_ready(port)
        yield process, port, made.stdout.strip()


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[tuple[Process, int] | None]:
    """A Redis that keeps nothing on disk, and its port; None where there is no redis-server."""
    binary = shutil.which("redis-server")
    if binary is None:
        yield None
        return
    port = free_port()
    words = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with running([binary, *words], folder, "redis") as process:
        process.wait_until(functools.partial(_pongs, port))
        yield process, port


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    finally:
        connection.close()


def _pongs(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(16) == b"+PONG\r\n"


def nginx_binary() -> str | None:
    """nginx, where it is installed: often in a folder that only root's PATH has."""
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    command: list[str], folder: Path, name: str, *, environ: Mapping[str, str] | None = None, pipes: bool = False
) -> Iterator[Process]:
    """The process, ended when the block is left. Its stderr goes to a file, as a service's would."""
    said = folder / f"{name}.log"
    pipe = subprocess.PIPE if pipes else subprocess.DEVNULL
    began = time.perf_counter()
    with said.open("wb") as log:
        popen = subprocess.Popen(
            command, cwd=ROOT if pipes else folder, env=environ, stdin=pipe, stdout=pipe, stderr=log
        )
    process = Process(popen, said, began)
    try:
        yield process
    finally:
        process.stop()


def _tree(pid: int) -> list[int]:
    """The process and its living descendants."""
    pids = [pid]
    for parent in pids:  # grows while we walk it
        for thread in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                pids += map(int, thread.read_text(encoding="ascii").split())
    return pids
