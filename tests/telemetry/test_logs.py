import io
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import httpx
import pytest
import structlog

from gateway.domain.fault import Fault, FaultKind
from gateway.telemetry.logs import LogWriter, configure_logging
from tests.telemetry import records

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def stream() -> io.BytesIO:
    return io.BytesIO()


@pytest.fixture
def writer(stream: io.BytesIO) -> LogWriter:
    """A writer that is never started: `close` writes what is queued."""
    return LogWriter(stream)


@pytest.fixture
def lines(writer: LogWriter, stream: io.BytesIO) -> Lines:
    """Close the writer and read back what it wrote."""

    def read() -> list[dict[str, Any]]:
        writer.close()
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    return read


@pytest.fixture
def logging_to(writer: LogWriter) -> Iterator[LogWriter]:
    """The process's logging, sent to the writer and put back afterwards."""
    root = logging.getLogger()
    names = ("httpx", "httpcore", "urllib3", "uvicorn", "uvicorn.error", "uvicorn.access", "litestar")
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in names}
    configure_logging(writer)
    yield writer
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def test_an_event_is_one_json_line(logging_to: LogWriter, lines: Lines) -> None:
    """Time, level and event first, then the fields as they were given."""
    structlog.get_logger().warning("attempt.failed", target="worker/m", wait_s=0.5, tries=2, tags=["a"], gone=None)
    (line,) = lines()
    assert list(line)[:3] == ["time", "level", "event"]
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "event": "attempt.failed",
        "target": "worker/m",
        "wait_s": 0.5,
        "tries": 2,
        "tags": ["a"],
        "gone": None,
    }


def test_facts_bound_at_the_edge_stand_in_every_line(logging_to: LogWriter, lines: Lines) -> None:
    with structlog.contextvars.bound_contextvars(request_id="req-1"):
        structlog.get_logger().info("something.happened")
    assert lines()[0]["request_id"] == "req-1"


def test_the_standard_librarys_records_come_out_alike(logging_to: LogWriter, lines: Lines) -> None:
    """Messages of uvicorn and of any other library are lines of the same shape."""
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
    logging.getLogger("some.library").debug("not worth a line")
    (line,) = lines()
    assert (line["level"], line["event"], line["logger"]) == ("info", "Started server process [7]", "uvicorn.error")


def test_arguments_that_do_not_fit_lose_no_message(logging_to: LogWriter, lines: Lines) -> None:
    record = logging.makeLogRecord({"msg": "broken %d", "args": ("format",), "levelname": "WARNING"})
    logging.getLogger().handlers[0].handle(record)  # not through the logger: pytest's own handler would raise
    assert lines()[0]["event"] == "broken %d"


async def test_httpx_does_not_log_urls(logging_to: LogWriter, lines: Lines) -> None:
    """At INFO httpx tells every URL, keys in the query included (security K2)."""
    transport = httpx.MockTransport(lambda _: httpx.Response(200))
    async with httpx.AsyncClient(transport=transport) as client:
        await client.get("http://host/?key=canarycanary")
    assert lines() == []


def test_an_exception_is_told_by_type_and_place_without_its_text(
    logging_to: LogWriter, lines: Lines, stream: io.BytesIO
) -> None:
    """An exception's text may quote a prompt; its type, its causes and the lines it passed are enough to find it."""
    log = structlog.get_logger()
    try:
        try:
            json.loads("canary-prompt")
        except ValueError as error:
            raise KeyError("canary-prompt") from error
    except KeyError as error:
        log.exception("worker.crashed")
        log.warning("worker.crashed", error=error)
        logging.getLogger("library").warning("Task failed\nfuture: %r", error, exc_info=True)
    first, second, third = lines()
    assert [told["type"] for told in first["exception"]] == ["KeyError", "JSONDecodeError"]
    assert "test_logs:" in first["exception"][0]["stack"][-1]
    assert second["error"] == "KeyError"
    assert third["event"] == "Task failed"
    assert third["exception"] == first["exception"]
    assert b"canary" not in stream.getvalue()


@pytest.mark.parametrize("hostile", ["a\r\nb", "\x1b[2J", "a\u2028b", "\x00", "\x7f\x9b", "\ud800", "m" * 1_000_000])
def test_hostile_strings_stay_inside_their_line(
    logging_to: LogWriter, lines: Lines, stream: io.BytesIO, hostile: str
) -> None:
    """Security K1: whatever is in a value, a key or a message, there is one printable line of bounded length."""
    structlog.get_logger().info("event", value=hostile, nested={hostile: [hostile]})
    # pytest keeps what passes the standard library's logging, and its own pipe takes no surrogates.
    logging.getLogger("library").warning("%s", hostile.encode(errors="replace").decode())
    record = records.succeeded(None)
    record.model = hostile
    logging_to.request_log(record)
    assert len(lines()) == 3
    text = stream.getvalue().decode()
    assert text.replace("\n", "").isprintable()
    assert max(map(len, text.split("\n"))) < 2_000


def test_a_value_that_cannot_be_shown_does_not_end_logging(logging_to: LogWriter, lines: Lines) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

    structlog.get_logger().info("first", value=Broken(), huge=1 << 90, nan=float("nan"))
    structlog.get_logger().info("second", huge=1 << 90, nan=float("nan"), secret=b"bytes")
    assert [line["event"] for line in lines()] == ["log.unrenderable", "second"]


def test_a_request_is_one_line(writer: LogWriter, lines: Lines) -> None:
    """The access log says who asked for what, where it went, how it ended and how long it took."""
    context = records.trace()
    writer.request_log(records.succeeded(context))
    (line,) = lines()
    assert line == {
        "time": "2027-01-15T08:00:00.750000Z",
        "level": "info",
        "event": "request.finished",
        "request_id": "req-12345678",
        "trace_id": context.trace_id_hex,
        "tenant": "acme",
        "key_id": "k1",
        "method": "POST",
        "route": "/v1/chat/completions",
        "model": "assistant",
        "policy": "standard@3",
        "stream": True,
        "status": 200,
        "outcome": "ok",
        "backend": "backend-1",
        "attempts": 1,
        "input_tokens": 100,
        "output_tokens": 35,
        "ms": 500.0,
        "ttft_ms": 50.0,
    }


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        ("ok", "info"),
        ("rejected", "info"),
        ("client_gone", "info"),
        ("upstream_error", "warning"),
        ("internal", "error"),
    ],
)
def test_only_failures_of_ours_and_of_backends_stand_out(
    writer: LogWriter, lines: Lines, outcome: Any, level: str
) -> None:
    record = records.succeeded(None)
    record.outcome = outcome
    writer.request_log(record)
    assert lines()[0]["level"] == level


def test_a_failed_request_names_the_kind_of_its_last_fault(writer: LogWriter, lines: Lines, stream: io.BytesIO) -> None:
    """The kind is of a closed list; the backend's own message is not told."""
    record = records.succeeded(records.trace(sampled=False))
    record.outcome, record.status, record.error_code = "upstream_error", 502, "upstream_error"
    record.attempts = [records.attempt(failed=Fault(kind=FaultKind.LOST, message="canary"))]
    writer.request_log(record)
    (line,) = lines()
    assert (line["error"], line["fault"], line["backend"]) == ("upstream_error", "lost", "backend-1")
    assert "trace_id" not in line
    assert b"canary" not in stream.getvalue()


def test_a_full_queue_drops_new_lines_and_says_how_many(stream: io.BytesIO) -> None:
    """Logging never grows without bound nor waits: what does not fit is counted and the count is logged."""
    writer = LogWriter(stream, capacity=3)
    for number in range(5):
        writer.put({"event": str(number)})
    writer.close()
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in told] == ["0", "1", "2", "log.dropped"]
    assert told[-1]["lines"] == writer.dropped == 2


def test_what_others_write_too_is_written_in_parts_that_no_pipe_tears() -> None:
    """Whole lines, as many as fit; a longer one is by itself."""

    class Pipe(io.BytesIO):
        parts: ClassVar[list[bytes]] = []

        def write(self, part: Any, /) -> int:
            self.parts.append(part)
            return len(part)

    stream = Pipe()
    writer = LogWriter(stream, whole_bytes=100)
    for event in ("a" * 30, "b" * 30, "c" * 30, "d" * 200, "e"):
        writer.put({"event": event})
    writer.close()
    assert [[json.loads(line)["event"][0] for line in part.splitlines()] for part in stream.parts] == [
        ["a", "b"], ["c"], ["d"], ["e"]
    ]  # fmt: skip


def test_the_writers_own_thread_writes_without_being_closed() -> None:
    """Lines appear while the process runs."""
    source, sink = os.pipe()
    with os.fdopen(source, "rb") as reader, os.fdopen(sink, "wb") as stream:
        writer = LogWriter(stream, interval_s=0.01)
        writer.start()
        writer.put({"event": "here"})
        assert json.loads(reader.readline()) == {"event": "here"}
        writer.close()


def test_a_pipe_that_nobody_reads_holds_nobody_up() -> None:
    """A blocked stderr costs lines, not time: `put` returns, and `close` gives up at its deadline."""
    source, sink = os.pipe()
    stream = os.fdopen(sink, "wb", buffering=0)
    writer = LogWriter(stream, capacity=2_000, interval_s=0.001)
    writer.start()
    for _ in range(10_000):
        writer.put({"event": "x" * 200})
    writer.close(deadline_s=0.05)
    assert writer.dropped > 0
    with os.fdopen(source, "rb") as reader:  # let the writer's thread end
        threading.Thread(target=reader.read, daemon=True).start()
        writer.close(deadline_s=10)
        stream.close()


def test_a_broken_pipe_is_counted_and_survived() -> None:
    source, sink = os.pipe()
    os.close(source)
    with os.fdopen(sink, "wb", buffering=0) as stream:
        writer = LogWriter(stream)
        writer.put({"event": "lost"})
        writer.close()
    assert writer.dropped == 1
