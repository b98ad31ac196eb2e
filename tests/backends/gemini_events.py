"""Gemini's answers as a server writes them, whole and as a stream. Knows nothing of the gateway.

body = b"".join(events(texts=["Hel", "lo"]))
"""

import json
from collections.abc import Sequence
from typing import Any

USAGE = {"promptTokenCount": 9, "candidatesTokenCount": 2, "totalTokenCount": 11}


def called(name: str, args: Any, *, signature: str | None = None, call_id: str | None = None) -> dict[str, Any]:
    """A part that is a call."""
    call = {"name": name, "args": args} | ({} if call_id is None else {"id": call_id})
    return {"functionCall": call} | ({} if signature is None else {"thoughtSignature": signature})


def answer(
    parts: Sequence[dict[str, Any]], *, finish: str | None = "STOP", usage: dict[str, Any] | None = None, index: int = 0
) -> dict[str, Any]:
    """A GenerateContentResponse of one candidate; an event of a stream where it does not finish."""
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": index}
    if finish is not None:
        candidate["finishReason"] = finish
    named = {"modelVersion": "gemini-3.8-flash", "responseId": "r-1"}
    return {"candidates": [candidate], "usageMetadata": USAGE if usage is None else usage, **named}


def event(value: Any) -> bytes:
    """One event of the stream; Google ends lines with CRLF."""
    return b"data: " + json.dumps(value).encode() + b"\r\n\r\n"


def events(
    texts: Sequence[str] = (),
    *,
    thoughts: Sequence[str] = (),
    calls: Sequence[dict[str, Any]] = (),
    signature: str | None = None,
    finish: str = "STOP",
    usage: dict[str, Any] | None = None,
) -> list[bytes]:
    """A whole stream: thoughts, texts, calls each in an event of its own, and a last event with the end."""
    parts: list[dict[str, Any]] = [{"text": text, "thought": True} for text in thoughts]
    parts += [*({"text": text} for text in texts), *calls]
    last = {"text": ""} if signature is None else {"text": "", "thoughtSignature": signature}
    growing = {"promptTokenCount": 9, "totalTokenCount": 9}
    return [*(event(answer([part], finish=None, usage=growing)) for part in parts),
            event(answer([last], finish=finish, usage=usage))]  # fmt: skip
