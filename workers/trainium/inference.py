"""Chats and completions: from a request's body to the model's answer, whole or streamed."""

import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Literal

import anyio
import msgspec
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream

from workers.trainium.caller import Caller, caller_of, in_time
from workers.trainium.conversation import Conversation
from workers.trainium.engine.sequences import Emitted, Sequence
from workers.trainium.errors import EngineFailed, InvalidRequest, Overloaded, UnknownModel
from workers.trainium.exchange import Exchange
from workers.trainium.loading import Loaded
from workers.trainium.prepare import prepare, tokenize
from workers.trainium.replies import Answer, Replies, Usage, end_of
from workers.trainium.tools import Call, CallReader, Part, PlainReader, format_of
from workers.trainium.tracing import Span
from workers.trainium.wire import Generate, parse_chat, parse_completion, parse_tokenize
from workers.trainium.worker import Worker

log = structlog.get_logger()


def require_model(asked: str, served: str) -> None:
    """Raises `UnknownModel` when the request names another model than this worker serves."""
    if asked != served:
        raise UnknownModel(f"no model `{asked}` here; it serves `{served}`", param="model")


class Inference:
    """`POST /v1/chat/completions` or `/v1/completions`."""

    def __init__(self, worker: Worker, endpoint: Literal["chat", "completion"]) -> None:
        self._worker = worker
        self._endpoint: Literal["chat", "completion"] = endpoint

    async def answer(self, exchange: Exchange, body: bytes, headers: Mapping[str, str]) -> None:
        """Answer one request. Raises `RequestError`."""
        started, caller = time.monotonic(), caller_of(headers)
        request = parse_chat(body) if self._endpoint == "chat" else parse_completion(body)
        serving = self._worker.require_serving()
        loaded = serving.loaded
        require_model(request.model, loaded.model)
        if request.needs_grammar:
            # In a thread: a schema can be as hard to compile as its author likes.
            sequences = await anyio.to_thread.run_sync(partial(prepare, request, loaded, caller))
        else:
            sequences = prepare(request, loaded, caller)
        if len(sequences) > serving.engine.limit:
            raise InvalidRequest(f"`n` must be at most {serving.engine.limit} here", param="n")
        replies = Replies(
            endpoint=self._endpoint,
            id=f"{'chatcmpl' if self._endpoint == 'chat' else 'cmpl'}-{sequences[0].id}",
            created=int(time.time()),
            model=serving.loaded.model,
            include_usage=request.include_usage,
            bytes_of=serving.loaded.vocabulary.bytes_of,
        )
        with self._worker.tracing.generate() as span, serving.engine.stream(*sequences) as items:
            span.set("gen_ai.request.model", serving.loaded.model)
            span.set("gen_ai.usage.input_tokens", len(sequences[0].prompt))
            answer = _stream if request.is_stream else _whole
            finished = _until_finished(items, span, len(sequences), caller)
            await answer(exchange, replies, sequences, _read(finished, _readers(request, sequences, loaded)))
            produced = sum(sequence.produced for sequence in sequences)
            span.set("gen_ai.usage.output_tokens", produced)
            log.info(
                "request.finished",
                endpoint=self._endpoint,
                prompt_tokens=len(sequences[0].prompt),
                completion_tokens=produced,
                seconds=round(time.monotonic() - started, 3),
            )


def _usage(sequences: list[Sequence]) -> Usage:
    first = sequences[0]
    return Usage(len(first.prompt), sum(sequence.produced for sequence in sequences), first.cached)


async def _whole(
    exchange: Exchange, replies: Replies, sequences: list[Sequence], items: AsyncIterator[tuple[Emitted, list[Part]]]
) -> None:
    answers = {sequence.id: Answer() for sequence in sequences}
    async for item, parts in items:
        answer = answers[item.id]
        answer.take(parts)
        answer.picked += [item.picked] if item.picked is not None else []
        answer.finish = item.finish or ""
    await exchange.reply(200, replies.whole(list(answers.values()), _usage(sequences)), [])


async def _stream(
    exchange: Exchange, replies: Replies, sequences: list[Sequence], items: AsyncIterator[tuple[Emitted, list[Part]]]
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


async def _until_finished(
    items: MemoryObjectReceiveStream[Emitted], span: Span, count: int, caller: Caller
) -> AsyncIterator[Emitted]:
    """The items up to the last one of `count` sequences.

    Raises `DeadlineExceeded`, or `Overloaded` or `EngineFailed` when a sequence did not end by itself.
    """
    while count:
        with in_time(caller):
            item = await items.receive()
        if item.finish is not None:
            count -= 1
            span.set("gen_ai.response.finish_reason", item.finish)
        if item.finish == "abort":
            raise Overloaded("the worker is shutting down", retry_after_s=1)
        if item.finish == "error":
            raise EngineFailed("the device failed while the request was running")
        yield item


class Tokenize:
    """`POST /tokenize`, as vLLM has it: the tokens of a text or of a conversation."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def answer(self, exchange: Exchange, body: bytes, headers: Mapping[str, str]) -> None:  # noqa: ARG002  # an `Answer`
        """Answer one request. Raises `RequestError`."""
        model, prompt = parse_tokenize(body)
        loaded = self._worker.require_serving().loaded
        if model is not None:
            require_model(model, loaded.model)
        tokens = tokenize(prompt, loaded)
        reply = {"count": len(tokens), "max_model_len": loaded.runner.capacity.max_len, "tokens": tokens}
        await exchange.reply(200, msgspec.json.encode(reply), [])
