"""`gateway serve --workers N`: one parent that keeps N processes serving behind one port. Knows nothing of requests.

    parent:   sockets · signals · restarts          worker 1:   requests · the admin API
              └── fork, from what is imported ──▶   worker 2…N: requests

The parent opens the ports, reads the configuration once and forks; it serves nothing itself, so nothing of a request
can end it. A worker that dies is replaced, at once if it had lived for a while; its siblings go on meanwhile and take
all connections from the one socket. Workers end when the parent does, however it ends: they hold a pipe that nobody
writes.
"""

import asyncio
import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Final, NoReturn

import structlog

from gateway import __version__
from gateway.accounting.database import JournalUnusable
from gateway.admission.cells import Slab
from gateway.admission.limits import LimitsUnusable
from gateway.api.turnstile import Loads, Turnstile
from gateway.config.policies import Sources, assemble, read
from gateway.config.problems import ConfigurationError
from gateway.config.settings import Settings
from gateway.control.workers_folder import clear_up, folder_of
from gateway.serve import listen, serve_as_worker
from gateway.telemetry.logs import DirectWriter, configure_logging

_LONG_S: Final = 5.0
"""A worker that lived so long is replaced at once."""
_FIRST_WAIT_S, _MOST_WAIT_S = 0.25, 10.0
_HUNG_S: Final = 60.0
"""A worker whose event loop did not turn for so long is killed."""
_LOOK_S: Final = 1.0
_CLOSE_S: Final = 15.0
"""What a worker may take beyond the time for running requests, until its books are closed."""
_READY: Final = b"\0"
_STOPS: Final = (signal.SIGTERM, signal.SIGINT)

log = structlog.get_logger()


class StartFailed(Exception):
    """Raised when a worker cannot start; the message says why, as that of a gateway alone would."""


@dataclass(slots=True)
class _Worker:
    """A place for a process, and what became of it so far."""

    number: int
    pid: int = 0
    """0 while there is none."""
    started_at: float = 0.0
    reports: int = -1
    """The descriptor on which the process tells that it serves, or why it cannot; -1 when it has."""
    said: bytearray = field(default_factory=bytearray)
    code: int | None = None
    """How the last one ended, below 0 by which signal."""
    is_ready: bool = False
    """Whether one of them has ever served."""
    wants_reload: bool = False
    wait_s: float = 0.0
    again_at: float = 0.0
    """When the next one is to start."""

    @property
    def is_wanted(self) -> bool:
        """Whether another one is to take the place of one that has ended: not if it could not even begin."""
        return self.is_ready or (self.code or 0) < 0


def serve(settings: Settings, sources: Sources, *, drain_s: float) -> int:
    """Serve with `settings.workers` processes until SIGTERM or SIGINT; the exit code: 1 when one did not end well.

    SIGHUP reads the configuration's files anew, in all of them. Raises ConfigurationError, PortTaken, StartFailed.
    """
    assemble(sources)  # So that mistakes are told once, and as for a gateway alone.
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(settings.host, settings.port))
        admin_listener = stack.enter_context(listen(settings.admin_host, settings.admin_port))
        folder = stack.enter_context(folder_of(settings.store))
        group = _Group(replace(settings, group=folder), sources, listener, admin_listener, drain_s=drain_s)
        stack.callback(group.close)
        return group.run()


class _Group:
    """The workers, as the parent sees them."""

    def __init__(
        self,
        settings: Settings,
        sources: Sources,
        listener: socket.socket,
        admin_listener: socket.socket,
        *,
        drain_s: float,
    ) -> None:
        self._settings = settings
        self._sources = sources
        self._listener = listener
        self._admin_listener = admin_listener
        self._drain_s = drain_s
        self._loads = Loads(settings.workers)
        self._limits = Slab(settings.workers)
        self._workers = [_Worker(number) for number in range(1, settings.workers + 1)]
        self._life = os.pipe()
        self._signals = socket.socketpair()
        for end in self._signals:
            end.setblocking(False)
        self._stops = 0
        self._kill_at = float("inf")
        self._code = 0

    def run(self) -> int:
        """Start all, and look after them until they are to end and have."""
        configure_logging(DirectWriter(sys.stderr.buffer))
        signal.set_wakeup_fd(self._signals[1].fileno())
        for number in (*_STOPS, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, _heed)
        gc.collect()
        gc.enable()
        gc.freeze()  # What is here by now is shared by all, as long as nobody's collector touches it.
        try:
            self._start_all()
            while self._stops == 0 or any(worker.pid for worker in self._workers):
                self._turn()
        except StartFailed:
            self._stop()
            while any(worker.pid for worker in self._workers):
                self._turn()
            raise
        return self._code

    def close(self) -> None:
        """Let go of pipes; whoever still lives ends."""
        signal.set_wakeup_fd(-1)
        for end in self._life:
            os.close(end)
        for other in self._signals:
            other.close()

    def _start_all(self) -> None:
        """The first one by itself, since it makes what all use; then the others. Raises StartFailed."""
        for some in (self._workers[:1], self._workers[1:]):
            for worker in some:
                self._start(worker)
            while self._stops == 0 and not all(worker.is_ready for worker in some):
                self._turn()
                for worker in some:
                    if worker.code is not None and not worker.is_wanted and self._stops == 0:
                        reason = worker.said.decode(errors="replace")
                        raise StartFailed(reason or f"worker {worker.number} cannot start")
        if self._stops == 0:
            log.info("gateway.started", version=__version__, workers=len(self._workers))
            clear_up(self._settings.store, but=self._settings.group)

    def _turn(self) -> None:
        """Wait for what comes next, and do what it asks for."""
        reports = {worker.reports: worker for worker in self._workers if worker.reports >= 0}
        readable, _, _ = select.select([self._signals[0].fileno(), *reports], [], [], self._wait_s())
        for descriptor in readable:
            if descriptor in reports:
                self._hear(reports[descriptor])
        self._heed_signals()
        self._bury()
        now = time.monotonic()
        for worker in self._workers:
            if self._stops == 0 and worker.code is not None and worker.is_wanted and now >= worker.again_at:
                self._start(worker)
            elif worker.pid and (now >= self._kill_at or self._hangs(worker, now)):
                log.error("worker.killed", worker=worker.number, pid=worker.pid)
                self._send(worker, signal.SIGKILL)
            elif worker.pid and self._stops:
                self._send(worker, signal.SIGTERM)  # Again: one that was just starting did not heed the first.

    def _wait_s(self) -> float:
        due = [worker.again_at for worker in self._workers if worker.code is not None and not self._stops]
        return max(0.0, min([_LOOK_S, *(at - time.monotonic() for at in due)]))

    def _hangs(self, worker: _Worker, now: float) -> bool:
        return worker.reports < 0 and self._loads.silent_s(worker.number, now) > _HUNG_S

    def _heed_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in self._signals[0].recv(1024):
                if number in _STOPS:
                    self._stop()
                    if number == signal.SIGINT and self._stops > 1:
                        self._send_all(signal.SIGINT)  # Once more is at once, as for a gateway alone.
                elif number == signal.SIGHUP:
                    self._reload()

    def _stop(self) -> None:
        """All together, within one time."""
        self._stops += 1
        if self._stops == 1:
            self._kill_at = time.monotonic() + self._drain_s + _CLOSE_S
            self._send_all(signal.SIGTERM)

    def _reload(self) -> None:
        """Have the files read anew, also by workers that are still to start."""
        with contextlib.suppress(ConfigurationError):  # Each worker tells of it, and goes on with what it had.
            sources = read(self._settings.config)
            assemble(sources)
            self._sources = sources
        for worker in self._workers:
            if worker.reports < 0:
                self._send(worker, signal.SIGHUP)
            else:
                worker.wants_reload = True

    def _send_all(self, number: signal.Signals) -> None:
        for worker in self._workers:
            self._send(worker, number)

    def _send(self, worker: _Worker, number: signal.Signals) -> None:
        if worker.pid:  # Not buried yet, so nobody else can have its number.
            os.kill(worker.pid, number)

    def _hear(self, worker: _Worker) -> None:
        """It serves, or says why it cannot, or died without a word."""
        said = os.read(worker.reports, 65536)
        worker.said += said
        if said and not worker.said.startswith(_READY):
            return
        os.close(worker.reports)
        worker.reports = -1
        if said:
            worker.is_ready = True
            if worker.wants_reload:
                worker.wants_reload = False
                self._send(worker, signal.SIGHUP)

    def _bury(self) -> None:
        """Take leave of those that have ended, and say when others take their place."""
        by_pid = {worker.pid: worker for worker in self._workers if worker.pid}
        while by_pid:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            # As the first process of a container this one is given the children of dead workers, too.
            if (worker := by_pid.pop(pid, None)) is not None:
                self._lost(worker, os.waitstatus_to_exitcode(status), time.monotonic())

    def _lost(self, worker: _Worker, code: int, now: float) -> None:
        worker.pid, worker.code = 0, code
        self._loads.leave(worker.number)
        while worker.reports >= 0:
            self._hear(worker)
        if self._stops:
            self._code |= code not in {0, -signal.SIGTERM}
            return
        has_lived = now - worker.started_at >= _LONG_S
        worker.wait_s = 0.0 if has_lived else min(max(2 * worker.wait_s, _FIRST_WAIT_S), _MOST_WAIT_S)
        worker.again_at = now + worker.wait_s
        if worker.is_wanted:
            reason = worker.said.removeprefix(_READY).decode(errors="replace")
            log.error("worker.ended", worker=worker.number, code=code, again_s=worker.wait_s, reason=reason or None)

    def _start(self, worker: _Worker) -> None:
        worker.started_at, worker.code = time.monotonic(), None
        worker.said.clear()
        worker.reports, tells = os.pipe()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*_STOPS, signal.SIGHUP, signal.SIGCHLD))
        worker.pid = os.fork()
        if worker.pid == 0:
            self._become(worker, tells, mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(tells)

    def _become(self, worker: _Worker, tells: int, mask: Collection[int]) -> NoReturn:
        """What the forked process does from here to its end."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (*_STOPS, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # Until it is listened to; the parent sends it again then.
            os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, and it stops all in order.
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(self._life[1])
            for other in self._workers:
                if other.reports >= 0:
                    os.close(other.reports)
            for end in self._signals:
                end.close()
            if worker.number != 1:
                self._admin_listener.close()
            code = self._work(worker.number, tells)
        except BaseException:  # noqa: BLE001  # the edge of a process: nothing may go on into the parent's frames
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _work(self, number: int, tells: int) -> int:
        """Serve as that worker; the exit code."""

        def opened() -> None:
            asyncio.get_running_loop().add_reader(self._life[0], _end_with_parent, self._life[0])
            os.write(tells, _READY)
            os.close(tells)

        try:
            serve_as_worker(
                replace(self._settings, worker=number, is_first=not any(each.is_ready for each in self._workers)),
                self._sources,
                turnstile=Turnstile(self._loads, number, self._listener),
                slab=self._limits,
                listener=self._listener,
                admin_listener=self._admin_listener if number == 1 else None,
                drain_s=self._drain_s,
                opened=opened,
            )
        except (ConfigurationError, JournalUnusable, LimitsUnusable) as error:
            os.write(tells, str(error).encode())
            return 1
        return 0


def _end_with_parent(life: int) -> None:
    """The parent is gone: nobody would start another worker, or tell this one to stop."""
    asyncio.get_running_loop().remove_reader(life)
    os.kill(os.getpid(), signal.SIGTERM)


def _heed(_signal: int, _frame: FrameType | None) -> None:
    """Signals are read from the wakeup descriptor."""
