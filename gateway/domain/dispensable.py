"""What a request can go without, where its policy allows that (`on_unsupported: drop`). Pure."""

from typing import Final

from gateway.domain.backend import Capability, ServedModel
from gateway.domain.chat import ChatRequest

DISPENSABLE: Final[dict[Capability, tuple[str, ...]]] = {
    "json_schema": ("response_format",),
    "logprobs": ("logprobs", "top_logprobs"),
    "seed": ("seed",),
    "stop": ("stop",),
}
"""Capabilities that a request can go without, and the fields that ask for them."""
_ESSENTIAL: Final = frozenset({"function_call", "functions", "input", "messages", "prompt", "tool_choice", "tools"})

_ABOUT_THE_ANSWER: Final = frozenset({"top_k"})
"""Fields of other dialects at the top, without which the question is the same."""


def may_be_dropped(request: ChatRequest, field: str) -> bool:
    """Whether a policy can have the request asked without the field: one at the top, and nothing of what is asked."""
    return field in request.fields and field not in _ESSENTIAL


def may_be_left_out(place: str) -> bool:
    """Whether a policy can have the request asked without this place `beyond_hub`: a tool that the model might use.

    Or a field that is about the answer; what the model was told, it must not go without.
    """
    return place.startswith("tool") or place in _ABOUT_THE_ANSWER


def dispensed(request: ChatRequest, facts: ServedModel) -> tuple[str, ...]:
    """Fields of capabilities that the model lacks. Where the policy drops nothing, such a model is not asked at all."""
    lacking = [capability for capability in request.needs if capability not in facts.accepts]
    names = (name for capability in lacking for name in DISPENSABLE.get(capability, ()))
    return tuple(name for name in names if name in request.fields)
