"""OpenAI's reply bodies, for both endpoints: whole, streamed, and errors. Does no I/O."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from workers.trainium.engine.sequences import Picked
from workers.trainium.errors import RequestError
from workers.trainium.tools import Call, Part

DONE: Final = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request."""

    prompt: int
    completion: int
    """Of all answers; the end tokens included, as they were computed."""
    cached: int
    """Of the prompt's tokens, those whose keys and values were found in the cache."""

    def wire(self) -> dict[str, Any]:
        """OpenAI's usage object."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


def end_of(finish: str, calls: Sequence[Call]) -> str:
    """OpenAI's reason for the end of an answer: calls that were made whole are a reason of their own."""
    return "tool_calls" if finish == "stop" and calls else finish


@dataclass(slots=True)
class Answer:
    """One of a request's answers, as far as it has come."""

    pieces: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    picked: list[Picked] = field(default_factory=list)
    """Tokens whose log-probabilities were asked for."""
    finish: str = ""
    length: int = 0
    """Characters of text so far."""

    def take(self, parts: Sequence[Part]) -> None:
        """Add what came."""
        for part in parts:
            if isinstance(part, Call):
                self.calls.append(part)
            else:
                self.pieces.append(part)
                self.length += len(part)


@dataclass(frozen=True, slots=True)
class Replies:
    """Builds the bodies of one request's reply."""

    endpoint: Literal["chat", "completion"]
    id: str
    created: int
    """Unix seconds."""
    model: str
    include_usage: bool
    bytes_of: Callable[[int], bytes]
    """A token's part of the text."""

    def whole(self, answers: Sequence[Answer], usage: Usage) -> bytes:
        """The body of a reply that is not streamed."""
        choices = []
        for index, answer in enumerate(answers):
            text = "".join(answer.pieces)
            choice: dict[str, Any] = {"index": index, "finish_reason": end_of(answer.finish, answer.calls)}
            if self.endpoint == "chat":
                message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
                if answer.calls:
                    message |= {"content": text or None, "tool_calls": [_call(call) for call in answer.calls]}
                choice["message"] = message
            else:
                choice["text"] = text
            choices.append(choice | {"logprobs": self._logprobs(answer.picked, 0)})
        kind = "chat.completion" if self.endpoint == "chat" else "text_completion"
        return msgspec.json.encode(self._head(kind) | {"choices": choices, "usage": usage.wire()})

    def opening(self, index: int) -> bytes:
        """The first event of an answer: the role, for chats; nothing for completions."""
        if self.endpoint == "completion":
            return b""
        return self._event([{"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])

    def piece(self, index: int, text: str, picked: Sequence[Picked], offset: int) -> bytes:
        """An event with more text, which may be empty; `offset` characters of the answer came before."""
        choice: dict[str, Any] = {"index": index, "finish_reason": None}
        logprobs = self._logprobs(picked, offset)
        if self.endpoint == "chat":
            choice["delta"] = {"content": text}
            return self._event([choice if logprobs is None else choice | {"logprobs": logprobs}])
        return self._event([choice | {"text": text, "logprobs": logprobs}])

    def call(self, index: int, place: int, call: Call) -> bytes:
        """An event with a whole call, the answer's `place`-th."""
        delta = {"tool_calls": [{"index": place, **_call(call)}]}
        return self._event([{"index": index, "delta": delta, "finish_reason": None}])

    def finish(self, index: int, reason: str) -> bytes:
        """The last event of an answer."""
        content: dict[str, Any] = {"delta": {}} if self.endpoint == "chat" else {"text": "", "logprobs": None}
        return self._event([{"index": index, **content, "finish_reason": reason}])

    def closing(self, usage: Usage) -> bytes:
        """What ends the stream: usage if wanted, and the end mark."""
        return (self._event([], usage.wire()) if self.include_usage else b"") + DONE

    def _logprobs(self, picked: Sequence[Picked], offset: int) -> dict[str, Any] | None:
        """OpenAI's two shapes: a list of objects for chats, parallel lists for completions; None when not asked for."""
        entries = [(one.token, one.logprobs) for one in picked if one.logprobs is not None]
        if not entries:
            return None
        if self.endpoint == "chat":
            content = [
                self._entry(token, logprobs.chosen)
                | {"top_logprobs": [self._entry(other, value) for other, value in logprobs.top]}
                for token, logprobs in entries
            ]
            return {"content": content, "refusal": None}
        texts = [self._text(token) for token, _ in entries]
        return {
            "tokens": texts,
            "token_logprobs": [logprobs.chosen for _, logprobs in entries],
            "top_logprobs": [
                # The likelier of two tokens that look alike, such as parts of a character, is the one that stays.
                {self._text(other): value for other, value in reversed(logprobs.top)}
                for _, logprobs in entries
            ],
            "text_offset": [offset + sum(map(len, texts[:at])) for at in range(len(texts))],
        }

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        return {"token": self._text(token), "logprob": logprob, "bytes": list(self.bytes_of(token))}

    def _text(self, token: int) -> str:
        return self.bytes_of(token).decode(errors="replace")

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        kind = "chat.completion.chunk" if self.endpoint == "chat" else "text_completion"
        body = self._head(kind) | {"choices": choices}
        if self.include_usage:
            body["usage"] = usage
        return b"data: " + msgspec.json.encode(body) + b"\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def error_body(error: RequestError) -> bytes:
    """OpenAI's error object."""
    fields = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return msgspec.json.encode({"error": fields})


def error_event(error: RequestError) -> bytes:
    """An error inside a stream that has begun; no end mark follows it."""
    return b"data: " + error_body(error) + b"\n\n"
