"""Tokens used and what they cost. Tokens in disjoint buckets, money in whole nano-dollars; pure arithmetic."""

import math
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
    SUSPECT = "suspect"
    """By us, where the backend's report cannot be true."""
    REAPER = "reaper"
    """By the settlement of an expired lease."""


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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
        # Not by the two above, which each request would pay for.
        prompt = self.input_tokens + self.cached_input_tokens + self.cache_write_tokens
        return prompt + self.output_tokens + self.reasoning_tokens


NO_USAGE = Usage(source=UsageSource.ESTIMATED)


class PriceTable(msgspec.Struct, frozen=True, kw_only=True):
    """Prices of one backend's model in whole nano-dollars per million tokens."""

    input: int
    cached_input: int
    cache_write: int
    output: int
    reasoning: int
    version: str
    """Stands in every ledger row that was priced by this table, and says all its prices: see `price_table`."""
    until: float = math.inf
    """Seconds since the epoch from which on `following` holds."""
    following: "PriceTable | None" = None
    long_over: int = 0
    """Tokens of a prompt beyond which `long` holds for the whole request."""
    long: "PriceTable | None" = None

    def at(self, now: float) -> "PriceTable":
        """The prices that hold at `now`, in seconds since the epoch."""
        table = self
        while now >= table.until and table.following is not None:
            table = table.following
        return table

    def charge(self, usage: Usage) -> int:
        """Nano-dollars for `usage`, rounded half up once, at the end."""
        if self.long is not None and usage.prompt_tokens > self.long_over:
            return self.long.charge(usage)
        total = (
            usage.input_tokens * self.input
            + usage.cached_input_tokens * self.cached_input
            + usage.cache_write_tokens * self.cache_write
            + usage.output_tokens * self.output
            + usage.reasoning_tokens * self.reasoning
        )
        return (total + TOKENS_PER_PRICE // 2) // TOKENS_PER_PRICE


def price_table(version: str) -> PriceTable:
    """The table that a ledger row names, from the name alone: rows can be priced again without any configuration.

    Raises ValueError when the version is not one.
    """
    prices = version.rpartition(":")[2]
    try:
        table = _table(prices)
    except ValueError:
        raise ValueError(f"{version!r} is not a price version") from None
    return msgspec.structs.replace(table, version=version)


def _table(prices: str) -> PriceTable:
    """Prices in hexadecimal, `input-cached-write-output` and, if it differs, `-reasoning`; `~over~` and more prices."""
    mine, is_more, rest = prices.partition("~")
    over, _, beyond = rest.partition("~")
    amounts = [int(amount, 16) for amount in mine.split("-")]
    if len(amounts) not in {4, 5}:
        raise ValueError(prices)
    return PriceTable(
        input=amounts[0],
        cached_input=amounts[1],
        cache_write=amounts[2],
        output=amounts[3],
        reasoning=amounts[-1],
        version=prices,
        long_over=int(over, 16) if is_more else 0,
        long=_table(beyond) if is_more else None,
    )


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens a request is expected to use, before anything is sent."""

    prompt_tokens: int
    output_tokens: int

    @property
    def total_tokens(self) -> int:
        """What is reserved against a tokens-per-minute limit."""
        return self.prompt_tokens + self.output_tokens
