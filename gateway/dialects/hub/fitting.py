"""What of a request a dialect cannot say. Pure.

A field that says something and cannot be said makes the target unfit, or is dropped and named where the policy allows
it (`on_unsupported: drop`). Fields that change nothing about the answer are left out anyway, and named too.
"""

from collections.abc import Iterable
from typing import Final

from gateway.domain.chat import ChatRequest

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
    return frozenset(name for name, raw in request.fields.items() if name not in _OURS and _asks(name, bytes(raw)))


def _asks(name: str, raw: bytes) -> bool:
    if raw == b"null":
        return False
    plain = _SAYS_NOTHING.get(name)
    return plain is None or b"".join(raw.split()) not in plain


def inexpressible(request: ChatRequest, expressible: frozenset[str], more: Iterable[str] = ()) -> tuple[str, ...]:
    """Names of the fields that say something beyond `expressible`, in order, and `more`; hints are not among them."""
    return tuple(sorted({*(said(request) - expressible - HINTS), *more}))


def left_out(request: ChatRequest, unsaid: Iterable[str]) -> tuple[str, ...]:
    """What a client is told that its answer does without: `unsaid`, and the hints that it gave."""
    return tuple(sorted({*unsaid, *(said(request) & HINTS)}))
