"""What a provider's meter counts, how each of them writes it into an answer, and what it asks for it.

The other side of our books: reckoned in fractions of a dollar, without a line of the code under test.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """Tokens of one request, each counted once."""

    fresh: int
    """Of the prompt, neither read from the cache nor written to it."""
    read: int
    """Of the prompt, from the cache."""
    written: int
    """Of the prompt, to the cache."""
    said: int
    thought: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """US dollars for a million tokens, as a price list prints them."""

    fresh: Fraction
    read: Fraction
    written: Fraction
    said: Fraction
    thought: Fraction


def bill(meter: Meter, tariff: Tariff) -> Fraction:
    """US dollars for one request."""
    return (
        meter.fresh * tariff.fresh
        + meter.read * tariff.read
        + meter.written * tariff.written
        + meter.said * tariff.said
        + meter.thought * tariff.thought
    ) / 1_000_000


def openai(meter: Meter) -> dict[str, Any]:
    """Chat completions: everything of the prompt is in one number, thoughts are in the completion's."""
    return {
        "prompt_tokens": meter.fresh + meter.read + meter.written,
        "completion_tokens": meter.said + meter.thought,
        "total_tokens": meter.fresh + meter.read + meter.written + meter.said + meter.thought,
        "prompt_tokens_details": {"cached_tokens": meter.read, "cache_write_tokens": meter.written, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": meter.thought, "audio_tokens": 0},
    }


def responses(meter: Meter) -> dict[str, Any]:
    """OpenAI's Responses: the same under other names."""
    return {
        "input_tokens": meter.fresh + meter.read + meter.written,
        "output_tokens": meter.said + meter.thought,
        "input_tokens_details": {"cached_tokens": meter.read, "cache_write_tokens": meter.written},
        "output_tokens_details": {"reasoning_tokens": meter.thought},
    }


def anthropic(meter: Meter) -> dict[str, Any]:
    """Messages: what the cache has to do with stands apart from the input."""
    return {
        "input_tokens": meter.fresh,
        "cache_read_input_tokens": meter.read,
        "cache_creation_input_tokens": meter.written,
        "output_tokens": meter.said + meter.thought,
        "output_tokens_details": {"thinking_tokens": meter.thought},
    }


def gemini(meter: Meter) -> dict[str, Any]:
    """Gemini: the cache is in the prompt, thoughts stand apart; nobody pays for writing to the cache by the token."""
    return {
        "promptTokenCount": meter.fresh + meter.read + meter.written,
        "cachedContentTokenCount": meter.read,
        "candidatesTokenCount": meter.said,
        "thoughtsTokenCount": meter.thought,
    }


def bedrock(meter: Meter) -> dict[str, Any]:
    """Converse: the cache stands apart, thoughts are in the output and are not told."""
    return {
        "inputTokens": meter.fresh,
        "cacheReadInputTokens": meter.read,
        "cacheWriteInputTokens": meter.written,
        "outputTokens": meter.said + meter.thought,
    }


WRITERS: Mapping[str, Callable[[Meter], dict[str, Any]]] = {
    "openai": openai,
    "responses": responses,
    "anthropic": anthropic,
    "gemini": gemini,
    "bedrock": bedrock,
}
"""Dialect → how its providers write what they counted."""


def written(dialect: str, meter: Meter) -> bytes:
    """The usage as it stands in an answer."""
    return json.dumps(WRITERS[dialect](meter)).encode()
