"""A scripted backend that speaks the OpenAI API: ready answers, and a sensible one for every request without a script.

async with openai_backend() as backend:
    backend.script(error_reply(503), chat_stream(["Hel", "lo"], usage=(9, 2), cut_after=1))
    ...                                   # the third request and all later ones get the default answer
"""

import base64
import json
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.backends.scripted import End, Request, Script, ScriptedBackend, scripted_backend

CREATED = 1_700_000_000
JSON = ("content-type", "application/json")
EVENT_STREAM = ("content-type", "text/event-stream; charset=utf-8")

Tokens = tuple[int, int]
"""Prompt tokens, completion tokens."""


def usage_object(tokens: Tokens, *, cached: int = 0) -> dict[str, Any]:
    """OpenAI's `usage` for this many prompt and completion tokens."""
    prompt, completion = tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def json_reply(
    value: Any, *, status: int = 200, headers: Sequence[tuple[str, str]] = (), delay_s: float = 0.0, end: End = "keep"
) -> Script:
    """Any value as a JSON answer, after `delay_s` seconds."""
    body = json.dumps(value).encode()
    return Script(status=status, headers=[JSON, *headers], steps=[(0, body)], head_delay_s=delay_s, end=end)


def chat_reply(
    text: str = "Hello there",
    *,
    model: str = "small",
    usage: Tokens | None = (9, 2),
    finish_reason: str | None = "stop",
    tool_calls: Sequence[dict[str, Any]] = (),
    choices: int = 1,
    delay_s: float = 0.0,
    headers: Sequence[tuple[str, str]] = (),
) -> Script:
    """A whole chat completion. `usage=None` leaves the usage out."""
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if tool_calls:
        message["tool_calls"] = list(tool_calls)
    value = _envelope("chat.completion", model) | {
        "choices": [
            {"index": index, "message": message, "logprobs": None, "finish_reason": finish_reason}
            for index in range(choices)
        ]
    }
    if usage is not None:
        value["usage"] = usage_object(usage)
    return json_reply(value, delay_s=delay_s, headers=headers)


def completion_reply(
    text: str = "Hello there",
    *,
    model: str = "small",
    usage: Tokens | None = (9, 2),
    finish_reason: str | None = "stop",
    delay_s: float = 0.0,
) -> Script:
    """A whole text completion."""
    value = _envelope("text_completion", model) | {
        "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}]
    }
    if usage is not None:
        value["usage"] = usage_object(usage)
    return json_reply(value, delay_s=delay_s)


def chat_stream(
    chunks: Sequence[str] = ("Hello", " there"),
    *,
    model: str = "small",
    usage: Tokens | None = None,
    finish_reason: str | None = "stop",
    include_done: bool = True,
    cut_after: int | None = None,
    end: End | None = None,
    gap_s: float = 0.0,
    first_delay_s: float = 0.0,
    pings: int = 0,
) -> Script:
    """A streamed chat completion: a role-only chunk, one chunk for each text, the finish reason, usage, `[DONE]`.

    `usage=None` sends no usage chunk. `cut_after=k` breaks off after k texts: the body gets no terminal chunk and the
    connection ends as `end` says (`fin` unless told). `first_delay_s` is the wait before the first event, `gap_s` the
    one before each text. `pings` comments go before the first text.
    """
    role = chat_chunk({"role": "assistant", "content": ""}, model=model)
    texts = [chat_chunk({"content": text}, model=model) for text in chunks]
    tail = [] if finish_reason is None else [chat_chunk({}, model=model, finish_reason=finish_reason)]
    if usage is not None:
        tail.append(event(_envelope("chat.completion.chunk", model) | {"choices": [], "usage": usage_object(usage)}))
    steps = [(first_delay_s, role), *[(gap_s, b": ping\n\n")] * pings]
    return _stream(steps, texts, tail, include_done=include_done, cut_after=cut_after, end=end, gap_s=gap_s)


def completion_stream(
    chunks: Sequence[str] = ("Hello", " there"),
    *,
    model: str = "small",
    usage: Tokens | None = None,
    finish_reason: str | None = "stop",
    include_done: bool = True,
    cut_after: int | None = None,
    end: End | None = None,
    gap_s: float = 0.0,
    first_delay_s: float = 0.0,
) -> Script:
    """A streamed text completion; the arguments are those of `chat_stream`."""

    def chunk(text: str, reason: str | None) -> bytes:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        return event(_envelope("text_completion", model) | {"choices": [choice]})

    tail = [] if finish_reason is None else [chunk("", finish_reason)]
    if usage is not None:
        tail.append(event(_envelope("text_completion", model) | {"choices": [], "usage": usage_object(usage)}))
    texts = [chunk(text, None) for text in chunks]
    script = _stream([], texts, tail, include_done=include_done, cut_after=cut_after, end=end, gap_s=gap_s)
    return Script(
        headers=script.headers,
        steps=script.steps,
        framing="chunked",
        terminated=script.terminated,
        end=script.end,
        head_delay_s=first_delay_s,
    )


def embeddings_reply(body: dict[str, Any], *, model: str = "small") -> Script:
    """Two numbers for each input: its place and its length; as floats, or in base64 if the request says so."""
    given = body["input"]
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    vectors = [[float(place), float(len(each))] for place, each in enumerate(given)]
    packed = [
        base64.b64encode(struct.pack("<2f", *vector)).decode() if body.get("encoding_format") == "base64" else vector
        for vector in vectors
    ]
    data = [{"object": "embedding", "index": place, "embedding": each} for place, each in enumerate(packed)]
    prompt = sum(len(each.split()) if isinstance(each, str) else len(each) for each in given)
    usage = {"prompt_tokens": prompt, "total_tokens": prompt}
    return json_reply({"object": "list", "data": data, "model": model, "usage": usage})


def error_reply(
    status: int,
    *,
    code: str | None = None,
    message: str = "The scripted backend was told to fail.",
    error_type: str = "server_error",
    param: str | None = None,
    retry_after: str | None = None,
    delay_s: float = 0.0,
) -> Script:
    """An OpenAI error object with this status; `retry_after` is the header's text, sent as it is."""
    headers = [] if retry_after is None else [("retry-after", retry_after)]
    error = {"message": message, "type": error_type, "param": param, "code": code}
    return json_reply({"error": error}, status=status, headers=headers, delay_s=delay_s)


def event(value: Any) -> bytes:
    """One server-sent event with JSON data."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def chat_chunk(delta: dict[str, Any], *, model: str = "small", finish_reason: str | None = None) -> bytes:
    """One `chat.completion.chunk` event."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return event(_envelope("chat.completion.chunk", model) | {"choices": [choice]})


def raw_stream(*steps: bytes, gap_s: float = 0.0, terminated: bool = True, end: End = "keep") -> Script:
    """An event stream of exactly these bytes, each one an HTTP chunk: for malformed and odd events."""
    return Script(
        headers=[EVENT_STREAM],
        steps=[(gap_s, data) for data in steps],
        framing="chunked",
        terminated=terminated,
        end=end,
    )


@asynccontextmanager
async def openai_backend(
    *, models: Sequence[str] = ("small",), text: str = "Hello there"
) -> AsyncIterator[ScriptedBackend]:
    """Run a backend that answers every request sensibly with `text` unless a script is queued."""
    async with scripted_backend() as backend:
        backend.default = lambda request: answer_sensibly(request, models=models, text=text)
        yield backend


def answer_sensibly(request: Request, *, models: Sequence[str] = ("small",), text: str = "Hello there") -> Script:
    """What a healthy server says: chat and text completions (streamed or not), the model list, else 404.

    A token is a word here. A stream ends with usage only when `stream_options.include_usage` asks for it.
    """
    path = request.path.partition("?")[0].removeprefix("/v1")
    if request.method == "GET" and path == "/models":
        listed = [{"id": name, "object": "model", "created": CREATED, "owned_by": "tests"} for name in models]
        return json_reply({"object": "list", "data": listed})
    if request.method != "POST" or path not in {"/chat/completions", "/completions", "/embeddings"}:
        return error_reply(404, message=f"no route for {request.method} {path}", error_type="invalid_request_error")
    body = request.json()
    model = body["model"]
    if model not in models:
        return error_reply(404, code="model_not_found", message=f"no model {model}", error_type="invalid_request_error")
    if path == "/embeddings":
        return embeddings_reply(body, model=model)
    pieces = [word if index == 0 else f" {word}" for index, word in enumerate(text.split())]
    usage = (_prompt_tokens(body), len(pieces))
    chat = path == "/chat/completions"
    if not body.get("stream"):
        return chat_reply(text, model=model, usage=usage) if chat else completion_reply(text, model=model, usage=usage)
    wanted = usage if (body.get("stream_options") or {}).get("include_usage") else None
    return (chat_stream if chat else completion_stream)(pieces, model=model, usage=wanted)


def _prompt_tokens(body: dict[str, Any]) -> int:
    parts = [body.get("prompt"), *(message.get("content") for message in body.get("messages", ()))]
    return sum(len(part.split()) if isinstance(part, str) else 1 for part in parts if part is not None)


def _envelope(kind: str, model: str) -> dict[str, Any]:
    return {"id": "cmpl-scripted", "object": kind, "created": CREATED, "model": model}


def _stream(
    opening: Sequence[tuple[float, bytes]],
    texts: Sequence[bytes],
    tail: Sequence[bytes],
    *,
    include_done: bool,
    cut_after: int | None,
    end: End | None,
    gap_s: float,
) -> Script:
    kept = texts if cut_after is None else texts[:cut_after]
    steps = [*opening, *((gap_s, data) for data in kept)]
    if cut_after is None:
        steps += [(0.0, data) for data in tail]
        if include_done:
            steps.append((0.0, b"data: [DONE]\n\n"))
    return Script(
        headers=[EVENT_STREAM],
        steps=steps,
        framing="chunked",
        terminated=cut_after is None,
        end=end or ("keep" if cut_after is None else "fin"),
    )
