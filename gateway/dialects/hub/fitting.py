"""What of a request a target cannot be told. Pure.

A field that says something and cannot be said makes the target unfit, or is dropped and named where the policy allows
it (`on_unsupported: drop`). Fields that change nothing about the answer are left out anyway, and named too.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from gateway.dialects.hub.conversation import Conversation, Media
from gateway.dialects.hub.reading import Unreadable, conversation_of
from gateway.domain.backend import ServedModel
from gateway.domain.chat import ChatRequest
from gateway.domain.dispensable import dispensed

_NAMELESS: Final = "a field without a proper name"
_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")

HINTS: Final = frozenset(
    {
        "metadata", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier", "store",
        "user",
    }
)  # fmt: skip
"""Fields for the backend's own bookkeeping: without them the answer is the same."""

_SAMPLING: Final = frozenset({"temperature", "top_k", "top_p"})
_OURS: Final = frozenset({"max_completion_tokens", "max_tokens", "messages", "model", "n", "stream", "stream_options"})
"""Fields that every dialect says in its own way."""

_SAYS_NOTHING: Final = {
    "audio": (),
    "frequency_penalty": (b"0", b"0.0"),
    "functions": (b"[]",),
    "logit_bias": (b"{}",),
    "logprobs": (b"false",),
    "modalities": (b'["text"]',),
    "parallel_tool_calls": (b"true",),
    "presence_penalty": (b"0", b"0.0"),
    "response_format": (b'{"type":"text"}',),
    "service_tier": (b'"auto"', b'"default"'),
    "stop": (b"[]", b'""'),
    "store": (b"false",),
    "tools": (b"[]",),
    "top_logprobs": (b"0",),
    "verbosity": (b'"medium"',),
}
"""Values that ask for what happens anyway. So does null, for every field."""
_LONGEST_PLAIN: Final = 64
"""Bytes of the longest of them, blanks included: a list of tools is not looked through."""


def said(request: ChatRequest) -> frozenset[str]:
    """The top-level fields that ask for something, besides those that every dialect can say."""
    asking = (name for name, raw in request.fields.items() if name not in _OURS and _asks(name, bytes(raw)))
    return frozenset(name if _NAME.fullmatch(name) else _NAMELESS for name in asking)


def _asks(name: str, raw: bytes) -> bool:
    if raw == b"null":
        return False
    plain = _SAYS_NOTHING.get(name)
    return plain is None or len(raw) > _LONGEST_PLAIN or b"".join(raw.split()) not in plain


def without(request: ChatRequest, names: Iterable[str]) -> ChatRequest:
    """The request as if the client had not written these fields."""
    gone = frozenset(names)
    if not gone:
        return request
    fields = {name: raw for name, raw in request.fields.items() if name not in gone}
    return msgspec.structs.replace(request, fields=fields, choices=1 if "n" in gone else request.choices)


class Fit(msgspec.Struct, frozen=True):
    """What becomes of a request in a dialect that is not OpenAI's."""

    talk: Conversation | None
    """What is said, without anything that cannot be; None where it cannot be read."""
    unsaid: tuple[str, ...]
    """Fields that ask for something and cannot be said."""
    dropped: tuple[str, ...]
    """All that the backend is not told, hints and fields of lacking capabilities included."""


def fit(
    request: ChatRequest,
    facts: ServedModel,
    expressible: frozenset[str],
    unfit: Callable[[Conversation, ServedModel], Iterable[str]],
) -> Fit:
    """The request in neutral words, and what is missing from it.

    `expressible` are the fields at the top that the dialect has words for, besides those that every dialect has;
    `unfit` names those whose values it has none for.
    """
    asked = said(request)
    if request.endpoint != "chat":
        return Fit(None, ("input" if request.endpoint == "embeddings" else "prompt",), ())
    unsaid = asked - expressible - HINTS
    ignored = {*dispensed(request, facts), *(asked & HINTS)}
    if request.native is not None and facts.quirks.thinks_by == "nothing":
        ignored |= asked & {"reasoning_effort"}  # Agents ask for thoughts, whatever the model.
    if not facts.quirks.takes_sampling:
        ignored |= asked & _SAMPLING
    try:
        talk = conversation_of(without(request, unsaid | ignored))
        if more := frozenset(unfit(talk, facts)):
            unsaid |= more
            talk = conversation_of(without(request, unsaid | ignored))
    except Unreadable as error:
        return Fit(None, tuple(dict.fromkeys((*sorted(unsaid), error.field))), ())
    return Fit(talk, tuple(sorted(unsaid)), tuple(sorted({*unsaid, *ignored, *_unmentioned(talk)})))


def _unmentioned(talk: Conversation) -> Iterator[str]:
    """What inside of messages is for the backend's judgement, and has no word in dialects that are not OpenAI's."""
    if talk.is_named:
        yield "messages.name"
    media = (part for turn in talk.turns for part in turn.parts if isinstance(part, Media))
    if any(part.detail not in {None, "auto"} for part in media):
        yield "messages.image_url.detail"
