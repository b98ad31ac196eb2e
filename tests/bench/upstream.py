"""A model server that costs next to nothing, so that a benchmark measures what stands in front of it.

Speaks just enough of OpenAI's API: the first word of an answer is decided by the last part of the model's name.
`…-plain` answers JSON at once; `…-burst` streams 64 chunks in a single write, as a backend does that was ahead of us;
`…-paced` streams them 5 ms apart, as a backend does that thinks, `…-slow` 40 ms apart, so that many streams are open at
once. Whatever is asked of /embeddings gets one vector. Every byte is made before the first request.

Also receives OTLP traces (any POST to /v1/traces) and tells at GET /taken how many came, how large they were and how
many spans were in them, so that a run with tracing can prove how much it traced. No faults, no pipelining, loopback
only: `tests.backends` has servers that misbehave.

    python -m tests.bench.upstream          # prints its port; ends when its stdin does
"""

import asyncio
import json
import sys
from typing import cast

import httptools
import uvloop

CHUNKS = 64
"""Chunks with text in a streamed answer. A role, a finish reason and the usage come on top, as at OpenAI."""
EVENTS = CHUNKS + 4
"""Events of a streamed answer, `[DONE]` included, when usage was asked for, as our requests do."""
GAP_S = 0.005
"""Between two chunks of a paced stream."""
SLOW_GAP_S = 0.04
"""Between two chunks of a slow stream."""
DIMENSIONS = 384
"""Numbers in an embedding."""

_TEXT = "The river rose in the night and by morning the lower road was gone. " * 4
_USAGE = {"prompt_tokens": 350, "completion_tokens": CHUNKS, "total_tokens": 350 + CHUNKS}
_ID = "chatcmpl-BenchBenchBenchBenchBenchBe"


def _dumps(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _whole(kind: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (kind, len(body), body)


def _framed(data: bytes) -> bytes:
    """One HTTP chunk: model servers write each event by itself."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(choices: list[object], **more: object) -> bytes:
    value = {
        "id": _ID,
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "fake",
        "choices": choices,
    }
    return _framed(b"data: " + _dumps(value | more) + b"\n\n")


def _choice(delta: dict[str, str], finish_reason: str | None = None) -> list[object]:
    return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]


PLAIN = _whole(
    b"application/json",
    _dumps(
        {
            "id": _ID,
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": "fake",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": _TEXT, "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": _USAGE,
        }
    ),
)
EMBEDDING = _whole(
    b"application/json",
    _dumps(
        {
            "object": "list",
            "model": "fake",
            "data": [
                {
                    "object": "embedding",
                    "index": 0,
                    "embedding": [(number * 7919 % 1999 - 999) / 16384 for number in range(DIMENSIONS)],
                }
            ],
            "usage": {"prompt_tokens": 350, "total_tokens": 350},
        }
    ),
)
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + _event(
    _choice({"role": "assistant"})
)
_STREAM_CHUNKS = [_event(_choice({"content": f" word{number:02d}"})) for number in range(CHUNKS)]
_STREAM_TAIL = (
    _event(_choice({}, "stop")) + _event([], usage=_USAGE) + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
)  # The last write of a stream goes out with its last chunk.
_PACED = [*_STREAM_CHUNKS[:-1], _STREAM_CHUNKS[-1] + _STREAM_TAIL]
PIECES = [_STREAM_HEAD, *_PACED]
"""A stream in the pieces in which a model's pace brings it."""
BURST = _STREAM_HEAD + b"".join(_STREAM_CHUNKS) + _STREAM_TAIL
_ASKED_BEFORE = frozenset(
    {b"/health", b"/v1/models", b"/get_server_info", b"/server_info", b"/get_model_info", b"/model_info"}
)
"""Paths that routers look at before they send anything."""
_KNOWN = _whole(
    b"application/json",
    _dumps({"object": "list", "data": [{"id": "fake", "object": "model", "owned_by": "nobody"}], "model_path": "fake"}),
)
_ACCEPTED = _whole(b"application/x-protobuf", b"")


class Exports:
    """What came to /v1/traces."""

    def __init__(self) -> None:
        self.posts = 0
        self.bytes = 0
        self.bodies: list[bytes] = []

    def traced(self) -> tuple[int, int]:
        """Spans in all of them, and requests, each of which has one span of a server's.

        Read when somebody asks, so that receiving costs the run nothing.
        """
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
        from opentelemetry.proto.trace.v1.trace_pb2 import Span

        kinds = [
            span.kind
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        return len(kinds), kinds.count(Span.SPAN_KIND_SERVER)


class Connection(asyncio.Protocol):
    """One kept-alive connection; answers each request as soon as it is whole."""

    def __init__(self, exports: Exports) -> None:
        self._exports = exports
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._parts: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the parser go: it holds our methods."""
        del self._parser

    def data_received(self, data: bytes) -> None:
        """Parse; anything but HTTP ends the connection."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self._url += url

    def on_body(self, body: bytes) -> None:
        """A piece of the request's body."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        url, body = self._url, b"".join(self._parts)
        self._url = b""
        self._parts.clear()
        if url.endswith(b"/chat/completions"):
            self._answer(body)
        elif url.endswith(b"/embeddings"):
            self._transport.write(EMBEDDING)
        elif url == b"/v1/traces":
            self._exports.posts += 1
            self._exports.bytes += len(body)
            self._exports.bodies.append(body)
            self._transport.write(_ACCEPTED)
        elif url == b"/taken":
            exports = self._exports
            spans, requests = exports.traced()
            taken = {"posts": exports.posts, "bytes": exports.bytes, "spans": spans, "requests": requests}
            self._transport.write(_whole(b"application/json", _dumps(taken)))
        elif url in _ASKED_BEFORE:
            self._transport.write(_KNOWN)
        else:
            self._transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    def _answer(self, body: bytes) -> None:
        if b'-plain"' in body:
            self._transport.write(PLAIN)
        elif b'-burst"' in body:
            self._transport.write(BURST)
        elif b'-paced"' in body:
            self._transport.write(_STREAM_HEAD)
            self._next(0, self._loop.time(), GAP_S)
        elif b'-slow"' in body:
            self._transport.write(_STREAM_HEAD)
            self._next(0, self._loop.time(), SLOW_GAP_S)
        else:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    def _next(self, number: int, began: float, gap_s: float) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(_PACED[number])
        number += 1
        if number < CHUNKS:  # Timed from the beginning: a late chunk does not delay the others.
            self._loop.call_at(began + number * gap_s, self._next, number, began, gap_s)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    exports = Exports()
    server = await loop.create_server(lambda: Connection(exports), "127.0.0.1", 0, backlog=1024)
    async with server:
        print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201  # whoever started us waits for it
        await loop.run_in_executor(None, sys.stdin.read)  # Whoever started us is gone, however it ended.


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())
