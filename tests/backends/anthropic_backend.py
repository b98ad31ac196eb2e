"""A scripted backend that speaks Anthropic's Messages: ready answers, and a sensible one for requests without a script.

    async with anthropic_backend() as backend:
        backend.script(error_reply(529), message_stream([text("Hel", "lo")], cut_after=4))

Framing, stalls and cuts are those of `tests.backends.scripted`: a script's steps are the bytes that are written.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.backends.openai_backend import EVENT_STREAM, JSON
from tests.backends.scripted import End, Request, Script, ScriptedBackend, scripted_backend

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

Json = dict[str, Any]
Block = tuple[Json, Sequence[Json]]
"""A content block as it begins, and the deltas that it comes in."""


def text(*pieces: str) -> Block:
    """A block of text in these pieces."""
    return {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces]


def thinking(*pieces: str, signature: str = "sig==") -> Block:
    """A block of reasoning, signed at its end."""
    deltas: list[Json] = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
    return (
        {"type": "thinking", "thinking": "", "signature": ""},
        [*deltas, {"type": "signature_delta", "signature": signature}],
    )


def tool_use(call_id: str, name: str, *pieces: str) -> Block:
    """A tool's call, its input in pieces of JSON."""
    begun = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
    return begun, [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *pieces)]


def whole(block: Block) -> Json:
    """The block as it stands in an unstreamed answer."""
    begun, deltas = block
    put: Json = dict(begun)
    arguments = ""
    for delta in deltas:
        for name in ("text", "thinking", "signature"):
            if name in delta:
                put[name] += delta[name]
        arguments += delta.get("partial_json", "")
    if begun["type"] == "tool_use":
        put["input"] = json.loads(arguments or "{}")
    return put


def message(
    blocks: Sequence[Block] = (), *, model: str = "small", stop_reason: str | None = "end_turn", **usage: int
) -> Json:
    """A message with these blocks; `usage` besides 9 tokens in and 2 out."""
    return {
        "id": "msg_scripted",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [whole(block) for block in blocks],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 2} | usage,
    }


def message_reply(
    blocks: Sequence[Block] = (text("Hello there"),),
    *,
    model: str = "small",
    stop_reason: str = "end_turn",
    headers: Sequence[tuple[str, str]] = (),
    **usage: int,
) -> Script:
    """A whole answer. Like the real ones it carries `retry-after` although nothing is wrong."""
    body = json.dumps(message(blocks, model=model, stop_reason=stop_reason, **usage)).encode()
    return Script(headers=[JSON, ("retry-after", "30"), ("request-id", "req_scripted"), *headers], steps=[(0, body)])


def event(kind: str, **fields: Any) -> bytes:
    """One event."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def stream_events(
    blocks: Sequence[Block] = (text("Hello", " there"),),
    *,
    model: str = "small",
    stop_reason: str = "end_turn",
    final: Json | None = None,
    **usage: int,
) -> list[bytes]:
    """The events of a whole streamed answer. `usage` is what the first one reports, `final` what the last one does."""
    begun = message((), model=model, stop_reason=None, **{"output_tokens": 1, **usage})
    events = [event("message_start", message=begun)]
    for index, (first, deltas) in enumerate(blocks):
        events.append(event("content_block_start", index=index, content_block=first))
        if index == 0:
            events.append(PING)
        events += [event("content_block_delta", index=index, delta=delta) for delta in deltas]
        events.append(event("content_block_stop", index=index))
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    events += [event("message_delta", delta=delta, usage=final or {"output_tokens": 2}), STOP]
    return events


def message_stream(
    blocks: Sequence[Block] = (text("Hello", " there"),),
    *,
    cut_after: int | None = None,
    end: End | None = None,
    gap_s: float = 0.0,
    **more: Any,
) -> Script:
    """A streamed answer. `cut_after=k` breaks off after k events, as `end` says (`fin` unless told)."""
    events = stream_events(blocks, **more)
    return Script(
        headers=[EVENT_STREAM, ("retry-after", "30")],
        steps=[(gap_s, each) for each in (events if cut_after is None else events[:cut_after])],
        framing="chunked",
        terminated=cut_after is None,
        end=end or ("keep" if cut_after is None else "fin"),
    )


def error_body(kind: str, message: str = "The scripted backend was told to fail.", *, code: str | None = None) -> Json:
    """Anthropic's error envelope."""
    error: Json = {"type": kind, "message": message}
    if code is not None:
        error["details"] = {"error_code": code}
    return {"type": "error", "error": error, "request_id": "req_scripted"}


def error_reply(
    status: int,
    kind: str,
    message: str = "The scripted backend was told to fail.",
    *,
    code: str | None = None,
    headers: Sequence[tuple[str, str]] = (),
) -> Script:
    """An error with its status."""
    body = json.dumps(error_body(kind, message, code=code)).encode()
    return Script(status=status, headers=[JSON, *headers], steps=[(0, body)])


@asynccontextmanager
async def anthropic_backend(*, models: Sequence[str] = ("small",)) -> AsyncIterator[ScriptedBackend]:
    """Run a backend that answers every request sensibly unless a script is queued."""
    async with scripted_backend() as backend:
        backend.default = lambda request: answer_sensibly(request, models=models)
        yield backend


def answer_sensibly(request: Request, *, models: Sequence[str] = ("small",)) -> Script:
    """What the API says: to a request without key, version or limit, for an unknown model, or to one that is right."""
    if request.method != "POST" or request.path.partition("?")[0] not in {"/v1/messages", "/messages"}:
        return error_reply(404, "not_found_error", "Not found")
    if "anthropic-version" not in request.headers:
        return error_reply(400, "invalid_request_error", "anthropic-version: header is required")
    asked = request.json()
    if not isinstance(asked.get("max_tokens"), int):
        return error_reply(400, "invalid_request_error", "max_tokens: Field required")
    if asked["model"] not in models:
        return error_reply(404, "not_found_error", f"model: {asked['model']}")
    return message_stream() if asked.get("stream") else message_reply()
