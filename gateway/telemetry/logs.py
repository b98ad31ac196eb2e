"""JSON lines on stderr: events of structlog, the standard library's logging, and one line per finished request.

Callers hand over values and go on; a thread of the writer's own renders and writes them, so neither rendering nor a
blocked pipe ever holds up a request. The queue is bounded: when it is full, new lines are dropped and counted, and the
count is logged once there is room. Every string goes through `clean`. Exceptions are told by type and place only:
their texts may quote a prompt.
"""

import contextlib
import datetime as dt
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Final

import msgspec
import structlog

from gateway.telemetry.record import RequestRecord
from gateway.telemetry.request_line import request_line
from gateway.telemetry.text import clean

MAX_ITEMS: Final = 32
"""Elements of a list or a mapping that a line shows, and frames of a traceback."""
_MAX_CAUSES: Final = 4
_QUIET: Final = ("azure", "botocore", "google", "httpx", "httpcore", "msal", "urllib3", "uvicorn.access")
"""Loggers that tell URLs at INFO, or what `request.finished` tells better."""

_encode = msgspec.json.Encoder().encode


class LogWriter:
    """Takes events from any thread, writes them as JSON lines from its own. Made, started and closed by the app.

    Of its process, this writer alone writes to `stream`. Events put before `start` wait in the queue.
    """

    def __init__(
        self,
        stream: BinaryIO,
        *,
        capacity: int = 16_384,
        interval_s: float = 0.05,
        whole_bytes: int | None = None,
    ) -> None:
        """`whole_bytes` is what one write may have where other processes write too, so that no line is torn."""
        self._stream = stream
        self._whole_bytes = whole_bytes
        self._capacity = capacity
        self._interval_s = interval_s
        self._queue: deque[RequestRecord | dict[str, Any]] = deque()
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._told = 0
        self.dropped = 0
        """Lines lost so far, because the queue was full or the stream broke."""

    def start(self) -> None:
        """Start writing. Call it in the process that serves, after any fork."""
        self._writer.start()

    def close(self, deadline_s: float = 2.0) -> None:
        """Write what is queued and stop, within `deadline_s`: a stream that takes nothing must not delay the exit."""
        self._closing.set()
        if self._writer.ident is None:
            self._drain()
        else:
            self._writer.join(deadline_s)

    def put(self, event: dict[str, Any]) -> None:
        """Queue one event; the writer owns the dictionary from here on."""
        self._append(event)

    def request_log(self, record: RequestRecord) -> None:
        """Queue the `request.finished` line of a request whose record changes no more."""
        if len(self._queue) >= self._capacity:  # As below, without a call more for each request.
            self.dropped += 1
        else:
            self._queue.append(record)

    def _append(self, item: RequestRecord | dict[str, Any]) -> None:
        if len(self._queue) >= self._capacity:  # may be off by a few between threads, which the bound can bear
            self.dropped += 1
        else:
            self._queue.append(item)

    def _run(self) -> None:
        # A timer, not a wake-up per line: waking a thread for each would make it fight for the interpreter lock.
        while not self._closing.wait(self._interval_s):
            self._drain()
        self._drain()

    def _drain(self) -> None:
        queue = self._queue
        while queue:
            lines = [_line(queue.popleft()) for _ in range(min(len(queue), 64))]
            if (dropped := self.dropped) > self._told:
                lines.append(_line(_event("warning", "log.dropped", lines=dropped - self._told)))
                self._told = dropped
            try:
                for part in _parts(lines, self._whole_bytes):
                    self._stream.write(part)
                    self._stream.flush()
            except (OSError, ValueError):  # broken pipe, full disk; ValueError: the stream was closed under us
                self.dropped += len(lines)


def _parts(lines: Sequence[bytes], most: int | None) -> Iterator[bytes]:
    """The lines together, or in parts of so many bytes at most, each of whole lines; a longer line is one by itself."""
    if most is None:
        yield b"".join(lines)
        return
    part = b""
    for line in lines:
        if part and len(part) + len(line) > most:
            yield part
            part = b""
        part += line
    yield part


class DirectWriter:
    """Writes each event at once, from the thread that tells it: for a process that has few, and forks."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def put(self, event: dict[str, Any]) -> None:
        """Write one event. One that cannot be written is lost."""
        with contextlib.suppress(OSError, ValueError):  # as in `LogWriter`
            self._stream.write(_line(event))
            self._stream.flush()


def configure_logging(writer: LogWriter | DirectWriter, *, level: int = logging.INFO) -> None:
    """Send structlog and the standard library's logging, for the whole process, to `writer`.

    Start uvicorn with `log_config=None` and Litestar with `logging_config=None`, else they install handlers again.
    """
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, _stamp],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _WriterLogger(writer),
        cache_logger_on_first_use=False,  # loggers are module globals, made before this call
    )
    root = logging.getLogger()
    root.handlers[:] = [_WriterHandler(writer)]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "litestar"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


class _WriterLogger:
    """What structlog calls with a finished event: the method is named after the level, which the event has already."""

    __slots__ = ("_writer",)

    def __init__(self, writer: LogWriter | DirectWriter) -> None:
        self._writer = writer

    def msg(self, **event: Any) -> None:
        self._writer.put(event)

    debug = info = warning = warn = error = err = critical = fatal = exception = log = msg


class _WriterHandler(logging.Handler):
    """The standard library's records as events of the same shape."""

    def __init__(self, writer: LogWriter | DirectWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit the format: a library's mistake, not worth a crash
            message = str(record.msg)
        # The first line only: asyncio and others add a dump with the text of the exception.
        message = message.lstrip().partition("\n")[0]
        event = _event(record.levelname.lower(), message, at=record.created, logger=record.name)
        if record.exc_info and record.exc_info[1] is not None:
            event["exception"] = _exception(record.exc_info[1])
        self._writer.put(event)


def _stamp(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Order the fields of a structlog event, and turn its exception into plain values while it is at hand."""
    exc_info = event.pop("exc_info", None)
    if exc_info is True:
        exc_info = sys.exc_info()
    stamped = _event(str(event.pop("level")), str(event.pop("event")))
    stamped.update(event)
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if isinstance(error, BaseException):
        stamped["exception"] = _exception(error)
    return stamped


def _event(level: str, event: str, /, *, at: float | None = None, **fields: Any) -> dict[str, Any]:
    return {"time": _utc(time.time() if at is None else at), "level": level, "event": event, **fields}


def _utc(at: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(at, dt.UTC)


def _exception(error: BaseException) -> list[dict[str, object]]:
    """The error and what caused it, outermost first: type names and `module:line function`, innermost frame last."""
    told: list[dict[str, object]] = []
    current: BaseException | None = error
    while current is not None and len(told) < _MAX_CAUSES:
        told.append({"type": type(current).__qualname__, "stack": _stack(current.__traceback__)})
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return told


def _stack(traceback: TracebackType | None) -> list[str]:
    frames = []
    while traceback is not None:
        frame = traceback.tb_frame
        frames.append(f"{frame.f_globals.get('__name__')}:{traceback.tb_lineno} {frame.f_code.co_name}")
        traceback = traceback.tb_next
    return frames[-MAX_ITEMS:]


def _line(item: RequestRecord | dict[str, Any]) -> bytes:
    try:
        if isinstance(item, RequestRecord):
            return request_line(item)
        return _encode({clean(name): _plain(value) for name, value in item.items()}) + b"\n"
    except Exception as error:  # noqa: BLE001 - a value's own __str__ may raise anything; it must not end all logging
        return _encode(_event("error", "log.unrenderable", exception=_exception(error))) + b"\n"


def _plain(value: Any) -> Any:
    """`value` as something JSON has, every string cleaned. Objects show their `str`, so it must be fit to be shown."""
    if isinstance(value, str):
        return clean(value)
    if value is None or isinstance(value, bool | float | dt.datetime):
        return value
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 64 else str(value)  # what the encoder takes
    if isinstance(value, Mapping):
        return {clean(str(name)): _plain(item) for name, item in list(value.items())[:MAX_ITEMS]}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in list(value)[:MAX_ITEMS]]
    if isinstance(value, BaseException):
        return type(value).__qualname__
    return clean(str(value))
