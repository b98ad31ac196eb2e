"""Gemini's generateContent request from a chat request. Pure; compared with what Google's own client sends.

Calls have names rather than ids; a result repeats the name of its call. From Gemini 3 on a call must come back with the
signature of the thought that led to it: where the client lost it, a word of Google's stands in its place.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, assert_never
from urllib.parse import urlsplit

import msgspec

from gateway.dialects.hub.conversation import (
    Conversation,
    Media,
    Part,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from gateway.dialects.hub.turns import Exchanged, loses_thoughts, misnamed, opened, without_marks
from gateway.dialects.openai.plain import nearest
from gateway.dialects.openai.wire import ABSENT
from gateway.domain.backend import Effort, Quirks, ServedModel

EXPRESSIBLE: Final = frozenset(
    {
        "frequency_penalty", "logprobs", "presence_penalty", "reasoning_effort", "response_format", "seed",
        "service_tier", "stop", "temperature", "tool_choice", "tools", "top_k", "top_logprobs", "top_p",
    }
)  # fmt: skip
UNSIGNED: Final = "skip_thought_signature_validator"
"""What Google accepts instead of a signature that was lost."""
OUR_CALL_ID: Final = "call_gw"
"""How ids of calls begin that came without one: such an id means nothing to Google."""

_FUNCTION_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
_MOST_STOPS: Final = 5
_MOST_LOGPROBS: Final = 20
_TIERS: Final = frozenset({"auto", "default", "flex", "priority"})
_MODES: Final = {"auto": "AUTO", "required": "ANY", "none": "NONE"}
_EFFORTS: Final[tuple[Effort, ...]] = ("low", "high")
"""What a model takes that thinks by effort and whose configuration does not say."""
_BUDGETS: Final = {
    "none": 0,
    "minimal": 1024,
    "low": 1024,
    "medium": 8192,
    "high": 24_576,
    "xhigh": 24_576,
    "max": 24_576,
}
"""Tokens to think with, for models that want a number; Google's own OpenAI endpoint uses the same."""
_IMAGES: Final = {
    "gif": "image/gif", "heic": "image/heic", "heif": "image/heif", "jpeg": "image/jpeg", "jpg": "image/jpeg",
    "png": "image/png", "webp": "image/webp",
}  # fmt: skip
"""The media type of an image that is told by its address alone: Google wants one said."""

Json = dict[str, object]


def unfit(talk: Conversation, facts: ServedModel) -> list[str]:
    """Fields of a request that could be read, whose values Gemini has no words for."""
    quirks = facts.quirks
    parts = [part for turn in talk.turns for part in turn.parts]
    inner = [each for part in parts if isinstance(part, ToolResult) for each in part.parts]
    names = [part.field for part in (*parts, *inner) if isinstance(part, Media) and _medium(part, quirks) is None]
    names += misnamed(talk, _FUNCTION_NAME)
    if len(talk.stop) > _MOST_STOPS:
        names.append("stop")
    if (talk.top_logprobs or 0) > _MOST_LOGPROBS:
        names.append("top_logprobs")
    if talk.service_tier is not None and talk.service_tier not in _TIERS:
        names.append("service_tier")
    if talk.effort is not None and talk.effort != "none" and _thinking(talk, quirks) is None:
        names.append("reasoning_effort")
    return names


def body_of(talk: Conversation, facts: ServedModel) -> tuple[bytes, tuple[str, ...]]:
    """The body of a generateContent request, and what it does without: Gemini caches and keeps to schemas unasked."""
    quirks = facts.quirks
    dropped: tuple[str, ...] = ("cache_control",) if without_marks(talk) != talk else ()
    if any(tool.strict for tool in talk.tools):
        dropped += ("tools.function.strict",)
    if loses_thoughts(talk):
        dropped += ("thinking_blocks",)
    if any(isinstance(part, Media) and part.kind == "file" and part.name for turn in talk.turns for part in turn.parts):
        dropped += ("messages.file.filename",)
    system, turns = opened(talk, keeps_thoughts=False)
    body: Json = {"contents": [_content(turn, quirks) for turn in turns]}
    if system:
        body["systemInstruction"] = {"parts": [{"text": each.text} for each in system]}
    if talk.tools:
        body["tools"] = [{"functionDeclarations": [_declaration(tool) for tool in talk.tools]}]
        if talk.tool_choice is not None:
            body["toolConfig"] = {"functionCallingConfig": _calling(talk.tool_choice)}
    if settings := _settings(talk, quirks):
        body["generationConfig"] = settings
    if talk.service_tier in {"flex", "priority"}:
        body["serviceTier"] = talk.service_tier
    return msgspec.json.encode(body), dropped


def _content(turn: Exchanged, quirks: Quirks) -> Json:
    signed = turn.parts
    if turn.role == "assistant" and quirks.signs_calls:
        signed = _all_signed(signed)
    parts = [each for part in signed for each in _parts(part, quirks)]
    parts.sort(key=lambda part: "functionResponse" not in part)  # All of them before what some brought along.
    if turn.signature is not None and (texts := [part for part in parts if "text" in part]):
        texts[-1]["thoughtSignature"] = turn.signature
    return {"role": "model" if turn.role == "assistant" else "user", "parts": parts}


def _all_signed(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts of a model's turn, whose first call has a signature: of parallel calls only that one bears one."""
    first = next((part for part in parts if isinstance(part, ToolCall)), None)
    if first is None or first.signature is not None:
        return tuple(parts)
    return tuple(msgspec.structs.replace(part, signature=UNSIGNED) if part is first else part for part in parts)


def _parts(part: Part, quirks: Quirks) -> list[Json]:
    match part:
        case Text(text=text):
            return [{"text": text}]
        case Media():
            return [_medium(part, quirks) or {}]
        case Reasoning():
            return []  # Not among these turns: Gemini wants the signatures alone, which stand elsewhere.
        case ToolCall():
            call: Json = {"functionCall": _identified(part.id, {"name": part.name, "args": part.arguments})}
            if part.signature is not None:
                call["thoughtSignature"] = part.signature
            return [call]
        case ToolResult():
            told = _identified(part.call_id, {"name": part.name or part.call_id, "response": _response(part)})
            # What is no text has no place in the answer of a function, and stands behind it.
            return [
                {"functionResponse": told},
                *(_medium(each, quirks) or {} for each in part.parts if isinstance(each, Media)),
            ]
        case _:
            assert_never(part)


def _identified(call_id: str, told: Json) -> Json:
    return told if call_id.startswith(OUR_CALL_ID) else {"id": call_id, **told}


def _response(result: ToolResult) -> msgspec.Raw | Json:
    """What a function answered, as an object: its own, if it wrote one."""
    text = result.text
    if result.is_error:
        return {"error": text}
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return {"output": text}
    return msgspec.Raw(text.encode())


def _medium(media: Media, quirks: Quirks) -> Json | None:
    """An image, a sound or a file; None when it can be told neither by its bytes nor by its address."""
    if media.data and media.media_type:
        return {"inlineData": {"mimeType": media.media_type, "data": media.data}}
    address = urlsplit(media.url or "")
    if media.kind != "image" or not quirks.fetches_images or address.scheme not in {"https", "gs"}:
        return None
    media_type = _IMAGES.get(address.path.rpartition(".")[2].lower())
    return None if media_type is None else {"fileData": {"mimeType": media_type, "fileUri": media.url}}


def _declaration(tool: Tool) -> Json:
    told: Json = {"name": tool.name}
    if tool.description:
        told["description"] = tool.description
    if tool.parameters is not ABSENT:
        told["parametersJsonSchema"] = tool.parameters
    return told


def _calling(choice: ToolChoice) -> Json:
    told: Json = {"mode": _MODES[choice.mode]}
    if choice.names:
        # AUTO takes no list; VALIDATED leaves the choice between these functions and none, too.
        told = {"mode": "ANY" if choice.mode == "required" else "VALIDATED", "allowedFunctionNames": choice.names}
    return told


def _settings(talk: Conversation, quirks: Quirks) -> Json:
    given: Mapping[str, object] = {
        "maxOutputTokens": talk.max_output_tokens,
        "temperature": talk.temperature,
        "topP": talk.top_p,
        "topK": talk.top_k,
        "stopSequences": talk.stop or None,
        "candidateCount": talk.choices if talk.choices > 1 else None,
        "seed": talk.seed,
        "presencePenalty": talk.presence_penalty or None,
        "frequencyPenalty": talk.frequency_penalty or None,
        "responseLogprobs": talk.logprobs or None,
        "logprobs": (talk.top_logprobs or None) if talk.logprobs else None,
        "responseMimeType": None if talk.form is None else "application/json",
        "responseJsonSchema": None if talk.form is None or talk.form.schema is ABSENT else talk.form.schema,
        "thinkingConfig": _thinking(talk, quirks),
    }
    return {name: value for name, value in given.items() if value is not None}


def _thinking(talk: Conversation, quirks: Quirks) -> Json | None:
    """How much to think. Who asks for thoughts gets to see them."""
    if talk.effort is None:
        return None
    if quirks.thinks_by == "effort":
        level = nearest(talk.effort, quirks.efforts or _EFFORTS)
        return None if level is None else {"thinkingLevel": level.upper(), "includeThoughts": True}
    if quirks.thinks_by == "budget" and talk.effort in _BUDGETS:
        budget = _BUDGETS[talk.effort]
        return {"thinkingBudget": budget, "includeThoughts": budget > 0}
    return None
