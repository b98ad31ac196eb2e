"""OpenAI's reply bodies, for both endpoints: whole, streamed, and errors. Does no I/O."""

from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from workers.trainium.errors import RequestError

DONE: Final = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request."""

    prompt: int
    completion: int
    """The end token included, as it was computed."""

    def wire(self) -> dict[str, Any]:
        """OpenAI's usage object; nothing is cached between requests yet."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": 0},
        }


@dataclass(frozen=True, slots=True)
class Replies:
    """Builds the bodies of one request's reply."""

    endpoint: Literal["chat", "completion"]
    id: str
    created: int
    """Unix seconds."""
    model: str
    include_usage: bool

    def whole(self, text: str, finish: str, usage: Usage) -> bytes:
        """The body of a reply that is not streamed."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None}
        if self.endpoint == "chat":
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        kind = "chat.completion" if self.endpoint == "chat" else "text_completion"
        return msgspec.json.encode(self._head(kind) | {"choices": [choice], "usage": usage.wire()})

    def opening(self) -> bytes:
        """The first event: the role, for chats; nothing for completions."""
        if self.endpoint == "completion":
            return b""
        return self._event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])

    def piece(self, text: str) -> bytes:
        """An event with more text."""
        return self._event([self._choice(text, None)])

    def closing(self, text: str, finish: str, usage: Usage) -> bytes:
        """The last events: remaining text, finish reason, usage if wanted, and the end mark."""
        events = self.piece(text) if text else b""
        events += self._event([self._choice("", finish)])
        if self.include_usage:
            events += self._event([], usage.wire())
        return events + DONE

    def _choice(self, text: str, finish: str | None) -> dict[str, Any]:
        content: dict[str, Any] = {"text": text, "logprobs": None}
        if self.endpoint == "chat":
            content = {"delta": {"content": text} if finish is None else {}}
        return {"index": 0, **content, "finish_reason": finish}

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        kind = "chat.completion.chunk" if self.endpoint == "chat" else "text_completion"
        body = self._head(kind) | {"choices": choices}
        if self.include_usage:
            body["usage"] = usage
        return b"data: " + msgspec.json.encode(body) + b"\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def error_body(error: RequestError) -> bytes:
    """OpenAI's error object."""
    fields = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return msgspec.json.encode({"error": fields})


def error_event(error: RequestError) -> bytes:
    """An error inside a stream that has begun; no end mark follows it."""
    return b"data: " + error_body(error) + b"\n\n"
