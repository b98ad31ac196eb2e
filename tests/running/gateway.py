"""A gateway as its users run it: `gateway serve` in a process of its own, its store and keys in a temporary folder.

    with gateway(folder, configuration(…)) as running:
        httpx.post(f"{running.base_url}/chat/completions", headers=running.headers("acme"), …)

Leaving the block ends the process as an operator would, and fails the test when it did not end well or when it crashed
over a request meanwhile.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gateway.config.settings import HttpWay, key_store_beside
from gateway.control.keys import NewKey, create
from gateway.domain.ledger import LedgerEntry
from tests.running.configuration import Tree
from tests.running.ledgers import settled_rows

HTTP: HttpWay = "edge"
"""How gateways serve inference in this run of the tests: pytest's option `--http`."""
ROOT = Path(__file__).parents[2]
CLEAN = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONWARNINGS": "error"}
START_S = 30.0
"""By when a gateway must answer; it takes half a second where nobody else computes."""
END_S = 20.0
FORGETFUL = {
    "gateway.routing.health.FAILURES_IN_ROW": 10**9,
    "gateway.routing.health.LOCAL_IN_ROW": 10**9,
    "gateway.routing.health.WINDOW_TRIES": 10**9,
    "gateway.routing.health.COOL_LEAST_S": 0.0,
    "gateway.routing.health.COOL_MOST_S": 0.0,
    "gateway.routing.health.COOL_UNTOLD_MOST_S": 0.0,
    "gateway.routing.health.EJECTED_S": 0.0,
    "gateway.routing.concurrency.BACKOFF": 1.0,
    "gateway.routing.budget.RESERVE_PER_S": 10**6,
    "gateway.routing.peers.ENOUGH": 10**9,
}
"""As `patience`: a gateway that holds no failure against a backend or a tenant, so that each test begins anew."""
CRASHES = (
    "exchange.crashed",
    "request.crashed",
    "journal.failed",
    "journal.refused",
    "ledger.overdue",
    "log.unrenderable",
)
"""Events that mean a mistake of the gateway's own."""


@dataclass(slots=True, kw_only=True, repr=False)
class RunningGateway:
    """A gateway process and what a test wants to know of it."""

    port: int
    store: Path
    """The ledger's file."""
    config: Path
    stderr: Path
    """Where its log goes."""
    keys: dict[str, str]
    """Tenant → a key of that tenant."""
    process: subprocess.Popen[bytes]
    holders: tuple[socket.socket, ...]
    """Keep the ports from being given to anybody else before the gateway listens on them."""
    admin_port: int = 0
    """The admin API's; 0 where the test did not ask for one."""
    expected_code: int = 0
    """What `gateway` expects the process to end with."""

    def __repr__(self) -> str:
        return f"RunningGateway({self.url}, log in {self.stderr})"

    @property
    def url(self) -> str:
        """Without `/v1`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """As the SDKs take it: with `/v1`."""
        return f"{self.url}/v1"

    @property
    def admin_url(self) -> str:
        """Where the admin API is."""
        return f"http://127.0.0.1:{self.admin_port}/admin/v1"

    @property
    def store_url(self) -> str:
        """As `--store` takes it."""
        return f"sqlite:///{self.store}"

    def headers(self, tenant: str, **more: str) -> dict[str, str]:
        """Request headers with this tenant's key; an underscore in a name stands for a dash."""
        named = {name.replace("_", "-"): value for name, value in more.items()}
        return {"authorization": f"Bearer {self.keys[tenant]}", **named}

    def new_key(self, tenant: str) -> NewKey:
        """A further key, made as `gateway keys create` does. A running gateway honours it a little later."""
        return make_key(self.store, tenant)

    def ledger(self, request_id: str | None = None, *, tenant: str | None = None) -> list[LedgerEntry]:
        """The rows of what is settled, those of one request in the order of its attempts."""
        return settled_rows(self.store, request_id=request_id, tenant=tenant)

    def log(self) -> list[dict[str, Any]]:
        """The log's lines so far. Lines of a process that is still running may come a little later."""
        return [json.loads(line) for line in self.stderr.read_bytes().splitlines() if line.startswith(b"{")]

    def terminate(self) -> None:
        """Ask it to stop, as an orchestrator does."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a chance to clean up."""
        self.expected_code = -signal.SIGKILL
        self.process.kill()
        self.process.wait(END_S)

    def wait(self, deadline_s: float = END_S) -> int:
        """The exit code, once it has ended; fails with the log when it does not."""
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the gateway did not end within {deadline_s} s; it said:\n{self.said()}") from None

    def said(self) -> str:
        """The end of its log, for a test's message."""
        return "\n".join(self.stderr.read_text("utf-8", "replace").splitlines()[-40:])

    def resident_bytes(self) -> int:
        """Memory the process holds now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGESIZE")


@contextmanager
def gateway(
    folder: Path,
    configuration: Tree,
    *,
    drain_s: float = 10.0,
    environ: Mapping[str, str] | None = None,
    patience: Mapping[str, float] | None = None,
    redis: str | None = None,
    limits: Path | None = None,
    admin_key: str | None = None,
    workers: int = 1,
) -> Iterator[RunningGateway]:
    """Run a gateway until the block is left. `folder` may hold the store of an earlier one.

    `redis` is the URL of the store of its limits, `limits` a
    file of them. `admin_key` is that of its admin API, which has a port of its own then. `patience` changes constants:
    of `gateway.api.stream`, or of the module that a dotted name begins with.
    """
    running = start(
        folder,
        configuration,
        drain_s=drain_s,
        environ=environ,
        patience=patience,
        redis=redis,
        limits=limits,
        admin_key=admin_key,
        workers=workers,
    )
    try:
        wait_until(lambda: answers(f"{running.url}/healthz"), START_S, running, "answer /healthz")
        if workers > 1:  # The first one serves before the others do.
            wait_until(lambda: b'"gateway.started"' in running.stderr.read_bytes(), START_S, running, "start all")
        yield running
    except BaseException:
        running.process.kill()
        running.process.wait()
        raise
    finally:
        for holder in running.holders:
            holder.close()
    if running.process.poll() is None:
        running.terminate()
    code = running.wait()
    assert code == running.expected_code, f"the gateway ended with {code}; it said:\n{running.said()}"
    crashes = [line for line in running.log() if line["event"] in CRASHES]
    assert not crashes, f"the gateway crashed: {crashes}"


def start(
    folder: Path,
    configuration: Tree,
    *,
    drain_s: float = 10.0,
    environ: Mapping[str, str] | None = None,
    patience: Mapping[str, float] | None = None,
    redis: str | None = None,
    limits: Path | None = None,
    admin_key: str | None = None,
    workers: int = 1,
) -> RunningGateway:
    """Start the process; returns before it answers. Whoever calls this ends it."""
    config = folder / "gateway.yaml"
    config.write_text(json.dumps(configuration), "utf-8")  # JSON is YAML
    store = folder / "gateway.sqlite"
    made = {tenant: make_key(store, tenant).secret for tenant in configuration["tenants"]}
    holders = [held_port()]
    port = holders[0].getsockname()[1]
    admin_port = 0
    if admin_key is not None:
        holders.append(held_port())
        admin_port = holders[1].getsockname()[1]
        environ = {"GATEWAY_ADMIN_KEY": admin_key} | dict(environ or {})
    stderr = folder / f"gateway-{port}.log"
    where: tuple[object, ...] = (
        ("--store", f"sqlite:///{store}") if redis is None else ("--store", redis, "--journal", store)
    )
    where += () if limits is None else ("--limits", f"sqlite://{limits}")
    where += () if workers == 1 else ("--workers", workers)
    process = serve("--config", config, "--port", port, "--admin-port", admin_port, *where, "--drain", drain_s,
                    stderr=stderr, environ=environ, patience=patience)  # fmt: skip
    return RunningGateway(
        port=port,
        store=store,
        config=config,
        stderr=stderr,
        keys=made,
        process=process,
        holders=tuple(holders),
        admin_port=admin_port,
    )


def serve(
    *arguments: object,
    stderr: Path,
    environ: Mapping[str, str] | None = None,
    patience: Mapping[str, float] | None = None,
) -> subprocess.Popen[bytes]:
    """`gateway serve` with these arguments, in an environment without anything of ours or the developer's."""
    begin = ["-m", "gateway"]
    if patience is not None:
        full = {name if "." in name else f"gateway.api.stream.{name}": value for name, value in patience.items()}
        changes = "".join(f"import {name.rpartition('.')[0]}\n{name} = {value}\n" for name, value in full.items())
        begin = ["-c", f"import gc\ngc.disable()\n{changes}from gateway.__main__ import main\nraise SystemExit(main())"]
    with stderr.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, *begin, "serve", "--http", HTTP, *map(str, arguments)],
            cwd=ROOT,
            env=CLEAN | dict(environ or {}),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )


def command(*arguments: object, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """One of the other commands, run to its end."""
    words = [sys.executable, "-m", "gateway", *map(str, arguments)]
    env = CLEAN | dict(environ or {})
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


def make_key(store: Path, tenant: str, **more: Any) -> NewKey:
    """A key in the store next to the ledger."""
    now = time.time()
    return create(key_store_beside(store), tenant, random_bytes=secrets.token_bytes(32), now=now, **more)


def held_port() -> socket.socket:
    """A socket bound to a free port, so that nobody else is given it; `gateway serve` can still listen there.

    Linux lets a second socket bind where the first one does not listen, when both set SO_REUSEADDR.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


def free_port() -> int:
    """A port that nobody listens on now."""
    with held_port() as holder:
        port: int = holder.getsockname()[1]
        return port


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses connections and that nobody else can take meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def answers(url: str) -> bool:
    """Whether a GET brings 200 now."""
    with suppress(httpx.TransportError):
        return httpx.get(url, trust_env=False).status_code == 200
    return False


def wait_until(condition: Callable[[], bool], deadline_s: float, running: RunningGateway, what: str) -> None:
    """Poll until `condition` holds; fails at once when the process has ended, in the end anyway."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if (code := running.process.poll()) is not None:
            raise AssertionError(f"the gateway ended with {code} before it could {what}; it said:\n{running.said()}")
        if time.monotonic() > deadline:
            raise AssertionError(f"the gateway did not {what} within {deadline_s} s; it said:\n{running.said()}")
        time.sleep(0.02)
