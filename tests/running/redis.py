"""Real redis-server processes for tests: one alone, three as a cluster, one behind a sentinel. They end with the block.

with redis_server(folder) as server:
    redis_place(server.url)
"""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

START_S = 20.0
SLOTS = 16_384


@dataclass(slots=True)
class RedisServer:
    """A running server."""

    port: int
    process: "subprocess.Popen[bytes]"
    folder: Path
    words: tuple[str, ...]

    @property
    def url(self) -> str:
        """As `--store` takes it."""
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> "redis.Redis":
        """A plain client, for looking inside and for breaking things."""
        return redis.Redis(port=self.port, decode_responses=True, protocol=2)

    def kill(self) -> None:
        """End it without a chance to say goodbye."""
        self.process.kill()
        self.process.wait()

    def again(self) -> None:
        """Start it again on the same port, with what it had on disk."""
        self.process = _start(self.port, self.folder, self.words)


@contextmanager
def redis_server(folder: Path, *words: str) -> Iterator[RedisServer]:
    """A server that keeps nothing, unless the words of its configuration say otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    server = RedisServer(port, _start(port, folder, words), folder, words)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def redis_cluster(folder: Path, nodes: int = 3) -> Iterator[list[RedisServer]]:
    """Masters that share the slots."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                redis_server(folder / str(n), "--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")
            )
            for n in range(nodes)
        ]
        each = -(-SLOTS // nodes)
        for n, server in enumerate(servers):
            with server.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", n * each, min(SLOTS, (n + 1) * each) - 1)
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
                if n:
                    client.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port)
        deadline = time.monotonic() + START_S
        while not all(_knows_all(server, nodes) for server in servers):
            assert time.monotonic() < deadline, "the cluster's nodes do not find one another"
            time.sleep(0.02)
        yield servers


def _knows_all(server: RedisServer, nodes: int) -> bool:
    with server.client() as client:
        info = client.execute_command("CLUSTER", "INFO")
        text = str(info)
        slots = client.execute_command("CLUSTER", "SLOTS")
    return ("cluster_state:ok" in text or "'cluster_state': 'ok'" in text) and len(slots) == nodes


def _start(port: int, folder: Path, words: tuple[str, ...]) -> "subprocess.Popen[bytes]":
    program = shutil.which("redis-server")
    if program is None:
        pytest.fail(
            "redis-server is not installed; the tests of the Redis store need it (apt-get install redis-server)"
        )
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *words]
    with (folder / "redis.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(redis.RedisError, OSError), redis.Redis(port=port, protocol=2) as client:
            client.ping()
            return process
        assert process.poll() is None, f"redis-server ended: {(folder / 'redis.log').read_text()}"
        assert time.monotonic() < deadline, "redis-server did not answer"
        time.sleep(0.01)


def free_port() -> int:
    """A free port, and far enough down that a cluster's second port (ten thousand up) exists."""
    while True:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            port: int = holder.getsockname()[1]
        if port < 50_000:
            return port


@contextmanager
def redis_sentinel(folder: Path, master: RedisServer, service: str = "limits") -> Iterator[int]:
    """A sentinel that watches `master` and gives it up after half a second; its port."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    file = folder / "sentinel.conf"
    file.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor {service} 127.0.0.1 {master.port} 1\n"
        f"sentinel down-after-milliseconds {service} 500\nsentinel failover-timeout {service} 5000\n"
    )
    program = shutil.which("redis-server")
    assert program is not None
    with (folder / "sentinel.log").open("ab") as log:
        process = subprocess.Popen([program, str(file), "--sentinel"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_S
        while not _knows_replica(port, service):
            assert process.poll() is None, (folder / "sentinel.log").read_text()
            assert time.monotonic() < deadline, "the sentinel does not find the replica"
            time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()


def _knows_replica(port: int, service: str) -> bool:
    with contextlib.suppress(redis.RedisError, OSError), redis.Redis(port=port, protocol=2) as client:
        return bool(client.execute_command("SENTINEL", "REPLICAS", service))
    return False
