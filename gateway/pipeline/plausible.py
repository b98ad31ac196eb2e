"""Whether a backend's report of what it used can be true, and what is taken instead where it cannot. Pure.

A charge stays within what the request allowed: a report of more than `max_tokens`, or of a prompt that is several times
longer than ours can be, is a mistake of the backend's, and not the tenant's to pay. Less is believed: it costs nobody.
"""

from typing import Final

import msgspec

from gateway.domain.chat import ChatRequest
from gateway.domain.usage import Estimate, Usage, UsageSource

_OUTPUT_TIMES: Final = 1.05
_OUTPUT_MORE: Final = 64
"""For each choice: what an answer may exceed `max_tokens` by, since other tokenizers count otherwise than ours."""
_PROMPT_TIMES: Final = 4
_PROMPT_MORE: Final = 1024
"""Frames, hidden instructions and other tokenizers: what a prompt may have beyond our estimate."""
_UNMEASURED: Final = frozenset({"vision", "audio"})
"""Parts of a prompt whose tokens nobody can tell from their bytes."""


def most_output(request: ChatRequest) -> int | None:
    """Tokens that all choices together may have; None where nothing sets a limit to the answer's text."""
    limit = request.max_output_tokens
    if limit is None or (request.endpoint == "completions" and _repeats_prompt(request)):
        return None
    return int(limit * _OUTPUT_TIMES + _OUTPUT_MORE) * request.choices


def is_credible(usage: Usage, request: ChatRequest, estimate: Estimate, *, begun: int) -> bool:
    """Whether a backend's report can be true. `begun`: tokens of another one's answer that stood behind the prompt."""
    prompt_tokens = usage.input_tokens + usage.cached_input_tokens + usage.cache_write_tokens
    limit = request.max_output_tokens
    if (
        prompt_tokens <= _PROMPT_TIMES * estimate.prompt_tokens + _PROMPT_MORE
        and (limit is None or usage.output_tokens + usage.reasoning_tokens <= limit)
    ):  # fmt: skip
        return True  # Nearly every report: it is within what was asked for, and no exception is needed.
    return not (_is_long(usage, request) or _is_wide(usage, request, estimate, begun))


def corrected(
    usage: Usage, request: ChatRequest, estimate: Estimate, *, begun: int, counted_output: int, counted_prompt: int
) -> Usage:
    """A report that is not credible, with our count in place of what cannot be."""
    if _is_long(usage, request):
        usage = msgspec.structs.replace(usage, output_tokens=counted_output, reasoning_tokens=0)
    if _is_wide(usage, request, estimate, begun):
        usage = msgspec.structs.replace(
            usage, input_tokens=counted_prompt + begun, cached_input_tokens=0, cache_write_tokens=0
        )
    return msgspec.structs.replace(usage, source=UsageSource.SUSPECT)


def _is_long(usage: Usage, request: ChatRequest) -> bool:
    most = most_output(request)
    return most is not None and usage.completion_tokens > most


def _is_wide(usage: Usage, request: ChatRequest, estimate: Estimate, begun: int) -> bool:
    most = _PROMPT_TIMES * estimate.prompt_tokens + _PROMPT_MORE
    return usage.prompt_tokens - begun > most and _is_measured(request)


def _repeats_prompt(request: ChatRequest) -> bool:
    return bytes(request.fields.get("echo", b"")) == b"true"


def _is_measured(request: ChatRequest) -> bool:
    """Whether all of the prompt stands in the request as text, and nothing is added to it on the way."""
    return request.native is None and not request.needs & _UNMEASURED and "web_search_options" not in request.fields
