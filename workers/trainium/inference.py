"""The two endpoints that run the model, as an ASGI callable of our own.

A framework's streaming response notices a client that hangs up only when it next writes. Here a second task watches
`receive()` from the moment the body is read, so that leaving aborts at once, streaming or not, queued or running.
"""

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream
from litestar.types import Receive, Scope, Send

from workers.trainium.conversation import Conversation
from workers.trainium.engine.sequences import Emitted, Sequence
from workers.trainium.errors import (
    EngineFailed,
    InvalidRequest,
    MethodNotAllowed,
    Overloaded,
    RequestError,
    RequestTooLarge,
    UnknownModel,
)
from workers.trainium.loading import Loaded
from workers.trainium.prepare import prepare
from workers.trainium.replies import Answer, Replies, Usage, end_of, error_body, error_event
from workers.trainium.tools import Call, CallReader, Part, PlainReader, format_of
from workers.trainium.tracing import Span
from workers.trainium.wire import Generate, parse_chat, parse_completion
from workers.trainium.worker import Worker

_MAX_BODY: Final = 4 << 20
_BODY_S: Final = 30.0
"""How long a client may take to send its body."""
_WRITE_S: Final = 30.0
"""How long one write may be blocked by a client that does not read."""
_REQUEST_S: Final = 600.0
_MAX_ID: Final = 128

log = structlog.get_logger()


class _ClientGone(Exception):  # the client's right, not an error
    """Raised when nobody is there to read the reply."""


@dataclass(slots=True)
class _Exchange:
    """One request's connection: what has been sent, and whether the client is still there."""

    worker: Worker
    receive: Receive
    send: Send
    request_id: str
    status: int = 0
    """What was answered; 0 before that."""
    is_finished: bool = False
    is_gone: bool = False

    @property
    def is_started(self) -> bool:
        """Whether status and headers are out, so that an error can only come as an event."""
        return self.status != 0

    async def read_body(self) -> bytes:
        """The request's body. Raises `RequestTooLarge`, `InvalidRequest` when it is too slow, or `_ClientGone`."""
        body = bytearray()
        try:
            with anyio.fail_after(_BODY_S):
                while True:
                    message = await self.receive()
                    if message["type"] != "http.request":
                        raise _ClientGone
                    body += message["body"]
                    if len(body) > _MAX_BODY:
                        raise RequestTooLarge(f"the body is longer than {_MAX_BODY} bytes")
                    if not message["more_body"]:
                        return bytes(body)
        except TimeoutError as error:
            raise InvalidRequest(f"the body did not arrive within {_BODY_S:.0f} s") from error

    async def watch(self, scope: anyio.CancelScope) -> None:
        """Cancel `scope` when the client hangs up before the reply is finished."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
        if not self.is_finished:
            self.is_gone = True
            scope.cancel()

    async def begin(self, status: int, content_type: bytes, extra: list[tuple[bytes, bytes]]) -> None:
        """Send status and headers."""
        headers = [(b"content-type", content_type), (b"x-request-id", self.request_id.encode("latin-1"))]
        headers += self.worker.load_headers() + extra
        self.status = status
        await self._write({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, *, more: bool) -> None:
        """Send a part of the body."""
        self.is_finished = not more
        await self._write({"type": "http.response.body", "body": body, "more_body": more})

    async def reply(self, status: int, body: bytes, extra: list[tuple[bytes, bytes]]) -> None:
        """Send a whole JSON reply."""
        await self.begin(status, b"application/json", [(b"content-length", b"%d" % len(body)), *extra])
        await self.write(body, more=False)

    async def refuse(self, error: RequestError) -> None:
        """Send an error, in whichever way is still possible."""
        if self.is_started:
            await self.write(error_event(error), more=False)
            return
        extra = [] if error.retry_after_s is None else [(b"retry-after", b"%d" % error.retry_after_s)]
        extra += [(b"allow", b"POST")] if isinstance(error, MethodNotAllowed) else []
        await self.reply(error.status, error_body(error), extra)

    async def _write(self, message: dict[str, object]) -> None:
        try:
            with anyio.fail_after(_WRITE_S):
                await self.send(message)  # type: ignore[arg-type]  # the union of Litestar's message types, spelled as a dict
        except (OSError, TimeoutError) as error:
            self.is_gone = True
            raise _ClientGone from error


class Inference:
    """`POST /v1/chat/completions` or `/v1/completions`."""

    def __init__(self, worker: Worker, endpoint: Literal["chat", "completion"], path: str) -> None:
        self._worker = worker
        self._endpoint = endpoint
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; everything it opened is closed when this returns."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        exchange = _Exchange(self._worker, receive, send, _request_id(headers.get("x-request-id")))
        structlog.contextvars.bind_contextvars(request_id=exchange.request_id)
        with self._worker.tracing.server(self._path, headers) as span, suppress(_ClientGone):
            try:
                if scope.get("method") != "POST":
                    raise MethodNotAllowed(f"{self._path} takes POST only")
                body = await exchange.read_body()
            except RequestError as error:
                await exchange.refuse(error)
                return
            async with anyio.create_task_group() as group:
                group.start_soon(exchange.watch, group.cancel_scope)
                await self._serve(exchange, body, headers.get("authorization", ""))
                group.cancel_scope.cancel()
            if exchange.is_gone:
                self._worker.metrics.aborted += 1
                log.info("request.aborted")
            else:
                span.set("http.response.status_code", exchange.status)

    async def _serve(self, exchange: _Exchange, body: bytes, salt: str) -> None:
        """Answer, whatever happens; never raises into the task group, which would wrap it."""
        with suppress(_ClientGone):
            try:
                await self._generate(exchange, body, salt)
            except RequestError as error:
                await exchange.refuse(error)
            except _ClientGone:
                raise
            except Exception:
                # The edge of the process: an unknown exception is logged with its trace and answered as a bare 500.
                log.exception("request.failed")
                await exchange.refuse(RequestError("internal error"))

    async def _generate(self, exchange: _Exchange, body: bytes, salt: str) -> None:
        started = time.monotonic()
        request = parse_chat(body) if self._endpoint == "chat" else parse_completion(body)
        serving = self._worker.require_serving()
        if request.model != serving.loaded.model:
            raise UnknownModel(f"no model `{request.model}` here; it serves `{serving.loaded.model}`", param="model")
        loaded = serving.loaded
        if request.needs_grammar:
            # In a thread: a schema can be as hard to compile as its author likes.
            sequences = await anyio.to_thread.run_sync(partial(prepare, request, loaded, default_salt=salt))
        else:
            sequences = prepare(request, loaded, default_salt=salt)
        if len(sequences) > serving.driver.limit:
            raise InvalidRequest(f"`n` must be at most {serving.driver.limit} here", param="n")
        replies = Replies(
            endpoint=self._endpoint,
            id=f"{'chatcmpl' if self._endpoint == 'chat' else 'cmpl'}-{sequences[0].id}",
            created=int(time.time()),
            model=serving.loaded.model,
            include_usage=request.include_usage,
            bytes_of=serving.loaded.vocabulary.bytes_of,
        )
        with self._worker.tracing.generate() as span, serving.driver.stream(*sequences) as items:
            span.set("gen_ai.request.model", serving.loaded.model)
            span.set("gen_ai.usage.input_tokens", len(sequences[0].prompt))
            answer = _stream if request.is_stream else _whole
            finished = _until_finished(items, span, len(sequences))
            await answer(exchange, replies, sequences, _read(finished, _readers(request, sequences, loaded)))
            produced = sum(sequence.produced for sequence in sequences)
            span.set("gen_ai.usage.output_tokens", produced)
            log.info(
                "request.finished",
                endpoint=self._path,
                prompt_tokens=len(sequences[0].prompt),
                completion_tokens=produced,
                seconds=round(time.monotonic() - started, 3),
            )


def _usage(sequences: list[Sequence]) -> Usage:
    first = sequences[0]
    return Usage(len(first.prompt), sum(sequence.produced for sequence in sequences), first.cached)


async def _whole(
    exchange: _Exchange, replies: Replies, sequences: list[Sequence], items: AsyncIterator[tuple[Emitted, list[Part]]]
) -> None:
    answers = {sequence.id: Answer() for sequence in sequences}
    async for item, parts in items:
        answer = answers[item.id]
        answer.take(parts)
        answer.picked += [item.picked] if item.picked is not None else []
        answer.finish = item.finish or ""
    await exchange.reply(200, replies.whole(list(answers.values()), _usage(sequences)), [])


async def _stream(
    exchange: _Exchange, replies: Replies, sequences: list[Sequence], items: AsyncIterator[tuple[Emitted, list[Part]]]
) -> None:
    """Begin with the first token, not before: until then a failure can still have its own status."""
    places = {sequence.id: index for index, sequence in enumerate(sequences)}
    answers = [Answer() for _ in sequences]
    async for item, parts in items:
        out, index = b"", places[item.id]
        if not exchange.is_started:
            await exchange.begin(200, b"text/event-stream; charset=utf-8", [(b"cache-control", b"no-cache")])
            out = b"".join(replies.opening(index) for index in range(len(sequences)))
        answer = answers[index]
        picked = [item.picked] if item.picked is not None and item.picked.logprobs is not None else []
        text = "".join(part for part in parts if isinstance(part, str))
        if text or picked:
            out += replies.piece(index, text, picked, answer.length)
        calls = [part for part in parts if isinstance(part, Call)]
        for place, call in enumerate(calls, start=len(answer.calls)):
            out += replies.call(index, place, call)
        answer.take(parts)
        if item.finish is not None:
            out += replies.finish(index, end_of(item.finish, answer.calls))
        if out:
            await exchange.write(out, more=True)
    await exchange.write(replies.closing(_usage(sequences)), more=False)


async def _read(
    items: AsyncIterator[Emitted], readers: dict[str, PlainReader | CallReader]
) -> AsyncIterator[tuple[Emitted, list[Part]]]:
    """Each item with the text and the calls that became certain with it."""
    async for item in items:
        reader = readers[item.id]
        parts = reader.push(item.text)
        yield item, parts + (reader.close() if item.finish is not None else [])


def _readers(request: Generate, sequences: list[Sequence], loaded: Loaded) -> dict[str, PlainReader | CallReader]:
    use = request.prompt.tools if isinstance(request.prompt, Conversation) else None
    if use is None or loaded.template is None:
        return {sequence.id: PlainReader() for sequence in sequences}
    form, names = format_of(loaded.template), [tool.name for tool in use.tools]
    return {sequence.id: CallReader(form, names) for sequence in sequences}


async def _until_finished(items: MemoryObjectReceiveStream[Emitted], span: Span, count: int) -> AsyncIterator[Emitted]:
    """The items up to the last one of `count` sequences.

    Raises `Overloaded` or `EngineFailed` when a sequence did not end by itself.
    """
    deadline = anyio.current_time() + _REQUEST_S
    while count:
        try:
            with anyio.fail_after(deadline - anyio.current_time()):
                item = await items.receive()
        except TimeoutError as error:
            raise EngineFailed(f"no answer within {_REQUEST_S:.0f} s") from error
        if item.finish is not None:
            count -= 1
            span.set("gen_ai.response.finish_reason", item.finish)
        if item.finish == "abort":
            raise Overloaded("the worker is shutting down", retry_after_s=1)
        if item.finish == "error":
            raise EngineFailed("the device failed while the request was running")
        yield item


def _request_id(given: str | None) -> str:
    """The caller's id when it is a plain one, else a new one."""
    if given and len(given) <= _MAX_ID and given.isascii() and given.isprintable():
        return given
    return uuid.uuid4().hex
