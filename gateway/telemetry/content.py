"""What was asked and answered, as spans show it where an operator wants to see it: cut to a size, and redacted. Pure.

The shapes are those of OpenTelemetry's `gen_ai.input.messages` and `gen_ai.output.messages`: lists of a role and parts.
Only texts and calls are shown; of images, sounds and files the kind alone. What looks like a credential, an address of
e-mail or a long number (a card's, an account's, a telephone's) is masked. That is help, not a promise: who may see
these spans may see what people wrote.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.telemetry.text import mask

LEAST_BYTES: Final = 256
MOST_BYTES: Final = 64 << 10
GROWTH: Final = 8
"""How many times as long as its bytes a text may be in JSON, with what is around it, at most."""
MOST_READ: Final = 1 << 20
"""Bytes of a conversation beyond which it is not read for this: reading would hold up everybody else."""
_SLACK: Final = 512
"""Read beyond the cut before masking: half a secret looks like none."""
_FRAME: Final = 64
"""About what is around a part, or a message, in JSON."""
_WORD: Final = 32
"""Longest role or kind."""
_EMAIL: Final = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_NUMBER: Final = re.compile(r"\d(?:[ .-]?\d){8,30}")


class Content:
    """One request's texts. Printing it shows their sizes alone, so that no log line can have them by mistake."""

    __slots__ = ("answers", "asked")

    def __init__(self, asked: str, answers: Sequence[str]) -> None:
        self.asked = asked
        """JSON, for every try."""
        self.answers = answers
        """JSON, one for each try; empty for one that brought no text."""

    def __repr__(self) -> str:
        return f"<content of {len(self.asked)} and {sum(map(len, self.answers))} characters>"


class _Part(msgspec.Struct):
    type: str = ""
    text: str | None = None


class _Function(msgspec.Struct):
    name: str = ""
    arguments: str = ""


class _Call(msgspec.Struct):
    id: str = ""
    function: _Function | None = None


class _Message(msgspec.Struct):
    role: str = ""
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


_MESSAGES: Final = msgspec.json.Decoder(list[_Message])
_INPUT: Final = msgspec.json.Decoder(str | list[str])
_NOTHING: Final = msgspec.Raw(b"[]")
_encode: Final = msgspec.json.Encoder().encode

Parts = list[dict[str, str]]


def asked(fields: Mapping[str, msgspec.Raw], most_bytes: int) -> str:
    """What a request in the hub's dialect asks, its end before its beginning if it is too long."""
    raw = next((fields[name] for name in ("messages", "prompt", "input") if name in fields), _NOTHING)
    found = _read(raw, is_text="messages" not in fields) if len(raw) <= MOST_READ else []
    left = most_bytes
    shown: list[dict[str, Any]] = []
    for message in reversed(found):
        if left <= 0:
            break
        parts, left = _cut(_parts(message), left - _FRAME)
        shown.append({"role": message.role[:_WORD], "parts": parts})
    if missing := len(found) - len(shown):
        shown.append({"role": "system", "parts": [{"type": "text", "content": f"[{missing} more before]"}]})
    elif not found and len(raw) > len(_NOTHING):
        shown.append({"role": "user", "parts": [{"type": "text", "content": f"[{len(raw)} bytes, not shown]"}]})
    return _encode(shown[::-1]).decode()


def _read(raw: msgspec.Raw, *, is_text: bool) -> list[_Message]:
    """The messages; none where they are tokens instead of texts, or what only their backend can read."""
    try:
        if not is_text:
            return _MESSAGES.decode(raw)
        texts = _INPUT.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return []
    return [_Message("user", text) for text in ([texts] if isinstance(texts, str) else texts)]


def answered(text: str, finish_reasons: Sequence[str], most_bytes: int) -> str:
    """What a try brought; empty when it brought no text."""
    if not text:
        return ""
    parts, _ = _cut([{"type": "text", "content": text}], most_bytes)
    message = {"role": "assistant", "parts": parts, "finish_reason": finish_reasons[0] if finish_reasons else "error"}
    return _encode([message]).decode()


def redacted(text: str, most: int) -> str:
    """The first so many characters, with what is nobody's business masked."""
    part = mask(text[: most + _SLACK])
    part = _NUMBER.sub("[number]", _EMAIL.sub("[e-mail]", part))
    return part if len(part) <= most else f"{part[:most]}…"


def _parts(message: _Message) -> Parts:
    content = message.content
    if message.role == "tool" and isinstance(content, str):
        return [{"type": "tool_call_response", "id": message.tool_call_id or "", "result": content}]
    parts: Parts = []
    if isinstance(content, str):
        parts.append({"type": "text", "content": content})
    elif content is not None:
        parts += [
            {"type": "text", "content": part.text} if part.text is not None else {"type": part.type[:_WORD]}
            for part in content
        ]
    for call in message.tool_calls or ():
        if call.function is not None:
            named = {"type": "tool_call", "id": call.id, "name": call.function.name}
            parts.append({**named, "arguments": call.function.arguments})
    return parts


def _cut(parts: Parts, left: int) -> tuple[Parts, int]:
    """What of the parts fits into so many bytes, and how many are left then."""
    fitting: Parts = []
    for part in parts:
        kept = dict(part)
        for name, value in part.items():
            if name != "type":
                kept[name] = _fitting(value, left)
            left -= len(kept[name].encode("utf-8", "replace"))
        fitting.append(kept)
        left -= _FRAME
        if left <= 0:
            break
    return fitting, left


def _fitting(text: str, left: int) -> str:
    """As much of it, redacted, as fits into so many bytes."""
    most = max(0, left)
    shown = redacted(text, most)
    if len(shown.encode("utf-8", "replace")) > most:
        shown = redacted(text, most // 4)  # No character has more than four bytes.
    return shown.encode("utf-8", "replace").decode()
