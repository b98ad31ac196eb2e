"""What of a request a target cannot be told. Pure.

A field that says something and cannot be said makes the target unfit, or is dropped and named where the policy allows
it (`on_unsupported: drop`). Fields that change nothing about the answer are left out anyway, and named too.
"""

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.domain.backend import Capability, ServedModel
from gateway.domain.chat import ChatRequest

DISPENSABLE: Final[dict[Capability, tuple[str, ...]]] = {
    "json_schema": ("response_format",),
    "logprobs": ("logprobs", "top_logprobs"),
    "seed": ("seed",),
    "stop": ("stop",),
}
"""Capabilities that a request can go without if its policy says so, and the fields that ask for them."""
_ESSENTIAL: Final = frozenset({"function_call", "functions", "input", "messages", "prompt", "tool_choice", "tools"})
_NAMELESS: Final = "a field without a proper name"
_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")

HINTS: Final = frozenset(
    {
        "metadata", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier", "store",
        "user",
    }
)  # fmt: skip
"""Fields for the backend's own bookkeeping: without them the answer is the same."""

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


def said(request: ChatRequest) -> frozenset[str]:
    """The top-level fields that ask for something, besides those that every dialect can say."""
    asking = (name for name, raw in request.fields.items() if name not in _OURS and _asks(name, bytes(raw)))
    return frozenset(name if _NAME.fullmatch(name) else _NAMELESS for name in asking)


def _asks(name: str, raw: bytes) -> bool:
    if raw == b"null":
        return False
    plain = _SAYS_NOTHING.get(name)
    return plain is None or b"".join(raw.split()) not in plain


def may_be_dropped(request: ChatRequest, field: str) -> bool:
    """Whether a policy can have the request asked without the field: one at the top, and nothing of what is asked."""
    written = request.fields if request.native is None else {*request.fields, *request.native.fields}
    return field in written and field not in _ESSENTIAL


def may_be_left_out(place: str) -> bool:
    """Whether a policy can have the request asked without this place `beyond_hub`: a tool that the model might use.

    What the model was told, it must not go without.
    """
    return place.startswith("tool")


def dispensed(request: ChatRequest, facts: ServedModel) -> tuple[str, ...]:
    """Fields of capabilities that the model lacks. Where the policy drops nothing, such a model is not asked at all."""
    lacking = [capability for capability in request.needs if capability not in facts.accepts]
    names = (name for capability in lacking for name in DISPENSABLE.get(capability, ()))
    return tuple(name for name in names if name in request.fields)


def without(request: ChatRequest, names: Iterable[str]) -> ChatRequest:
    """The request as if the client had not written these fields."""
    gone = frozenset(names)
    if not gone:
        return request
    fields = {name: raw for name, raw in request.fields.items() if name not in gone}
    return msgspec.structs.replace(request, fields=fields, choices=1 if "n" in gone else request.choices)


def inexpressible(request: ChatRequest, expressible: frozenset[str], more: Iterable[str] = ()) -> tuple[str, ...]:
    """Names of the fields that say something beyond `expressible`, in order, and `more`; hints are not among them."""
    lost = () if request.native is None else request.native.lost
    return tuple(sorted({*(said(request) - expressible - HINTS), *more, *lost}))


def left_out(request: ChatRequest, unsaid: Iterable[str]) -> tuple[str, ...]:
    """What a client is told that its answer does without: `unsaid`, and the hints that it gave."""
    native = request.native
    untranslated = () if native is None else (*native.lost, *native.hints)
    return tuple(sorted({*unsaid, *untranslated, *(said(request) & HINTS)}))
