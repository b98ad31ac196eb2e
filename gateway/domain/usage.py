"""Tokens used and what they cost. Tokens in disjoint buckets, money in whole nano-dollars; pure arithmetic."""

from enum import StrEnum

import msgspec

NANO_PER_USD = 1_000_000_000
TOKENS_PER_PRICE = 1_000_000


class UsageSource(StrEnum):
    """Who counted the tokens."""

    PROVIDER = "provider"
    COUNTED = "counted"
    """By us, from the text that was delivered."""
    ESTIMATED = "estimated"
    """By us, from the request alone."""
    REAPER = "reaper"
    """By the settlement of an expired lease."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one attempt. The buckets do not overlap: their sum is what was processed."""

    input_tokens: int = 0
    """Prompt tokens that were neither read from nor written to a prompt cache."""
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    """Completion tokens without reasoning."""
    reasoning_tokens: int = 0
    source: UsageSource = UsageSource.PROVIDER

    @property
    def prompt_tokens(self) -> int:
        """All tokens of the prompt, as OpenAI's `prompt_tokens` counts them."""
        return self.input_tokens + self.cached_input_tokens + self.cache_write_tokens

    @property
    def completion_tokens(self) -> int:
        """All generated tokens, as OpenAI's `completion_tokens` counts them."""
        return self.output_tokens + self.reasoning_tokens

    @property
    def total_tokens(self) -> int:
        """What a tokens-per-minute limit counts."""
        return self.prompt_tokens + self.completion_tokens


NO_USAGE = Usage(source=UsageSource.ESTIMATED)


class PriceTable(msgspec.Struct, frozen=True, kw_only=True):
    """Prices of one backend's model in whole nano-dollars per million tokens."""

    input: int
    cached_input: int
    cache_write: int
    output: int
    version: str
    """Stands in every ledger row that was priced by this table."""

    def charge(self, usage: Usage) -> int:
        """Nano-dollars for `usage`, rounded half up once, at the end. Reasoning is priced as output."""
        total = (
            usage.input_tokens * self.input
            + usage.cached_input_tokens * self.cached_input
            + usage.cache_write_tokens * self.cache_write
            + usage.completion_tokens * self.output
        )
        return (total + TOKENS_PER_PRICE // 2) // TOKENS_PER_PRICE


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens a request is expected to use, before anything is sent."""

    prompt_tokens: int
    output_tokens: int

    @property
    def total_tokens(self) -> int:
        """What is reserved against a tokens-per-minute limit."""
        return self.prompt_tokens + self.output_tokens
