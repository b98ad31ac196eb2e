"""Money: whole nano-dollars, rounded once, whatever the amounts."""

import datetime as dt
import json
from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.backend import LongPrompt, Prices, listed_prices
from gateway.domain.usage import NO_USAGE, Estimate, PriceTable, Usage, UsageSource, price_table

FOUR_PRICES = '{"input": 1, "cached_input": 0.1, "cache_write": 1.25, "output": 2}'
TWO_LENGTHS = '{"input": 1, "output": 2, "long_prompt": {"over": 10, "prices": {"input": 100, "output": 1}}}'
TOKENS = st.integers(0, 1_000_000_000)
USD = st.decimals(0, 1_000_000, places=9)
USAGES = st.builds(
    Usage,
    input_tokens=TOKENS,
    cached_input_tokens=TOKENS,
    cache_write_tokens=TOKENS,
    output_tokens=TOKENS,
    reasoning_tokens=TOKENS,
)
MAYBE = st.none() | USD
PRICES = st.builds(Prices, input=USD, output=USD, cached_input=MAYBE, cache_write=MAYBE, reasoning=MAYBE)
LONG = st.builds(LongPrompt, over=st.integers(1, 3_000_000_000), prices=PRICES)
TABLES = (PRICES | st.builds(msgspec.structs.replace, PRICES, long_prompt=LONG)).map(Prices.table)


def table(text: str) -> PriceTable:
    """Prices as they stand in a configuration, where a number is never read as a float."""
    tree = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    if longer := tree.pop("long_prompt", None):
        tree["long_prompt"] = LongPrompt(over=int(longer["over"]), prices=Prices(**longer["prices"]))
    return Prices(**tree).table()


@pytest.mark.parametrize(
    ("text", "usage", "nano_usd"),
    [
        ('{"input": 0.02, "output": 0.04}', Usage(input_tokens=10), 200),
        ('{"input": 0.02, "output": 0.04}', Usage(input_tokens=1, output_tokens=1), 60),
        ('{"input": 1, "output": 2}', Usage(input_tokens=10, output_tokens=4), 18_000),
        ('{"input": 1, "output": 2}', Usage(output_tokens=1, reasoning_tokens=3), 8_000),
        (TWO_LENGTHS, Usage(input_tokens=2, cached_input_tokens=8, output_tokens=1), 12_000),
        (TWO_LENGTHS, Usage(input_tokens=3, cached_input_tokens=8, output_tokens=1), 1_101_000),
        ('{"input": 1, "output": 2, "reasoning": 3}', Usage(output_tokens=1, reasoning_tokens=3), 11_000),
        ('{"input": 1, "output": 2}', Usage(cached_input_tokens=10, cache_write_tokens=10), 20_000),
        (FOUR_PRICES, Usage(input_tokens=2, cached_input_tokens=10, cache_write_tokens=4), 8_000),
        ('{"input": 1, "cached_input": 0, "output": 2}', Usage(cached_input_tokens=10), 0),
        ('{"input": 0.0004, "output": 0}', Usage(input_tokens=1), 0),
        ('{"input": 0.0005, "output": 0}', Usage(input_tokens=1), 1),
        ('{"input": 0.0005, "output": 0}', Usage(input_tokens=3), 2),
        ('{"input": 0, "output": 0}', Usage(input_tokens=10**9), 0),
        ('{"input": 1000000, "output": 1000000}', Usage(input_tokens=10**9, output_tokens=10**9), 2 * 10**18),
        ('{"input": 1, "output": 2}', NO_USAGE, 0),
    ],
)
def test_a_charge_is_exact(text: str, usage: Usage, nano_usd: int) -> None:
    """To the nano-dollar: ten tokens of a small model cost 200."""
    assert table(text).charge(usage) == nano_usd


@given(prices=TABLES, usage=USAGES)
def test_a_charge_is_the_exact_price_rounded_half_up_once(prices: PriceTable, usage: Usage) -> None:
    is_long = prices.long is not None and usage.prompt_tokens > prices.long_over
    prices, asked = (prices.long or prices) if is_long else prices, prices
    exact = Fraction(
        usage.input_tokens * prices.input
        + usage.cached_input_tokens * prices.cached_input
        + usage.cache_write_tokens * prices.cache_write
        + usage.output_tokens * prices.output
        + usage.reasoning_tokens * prices.reasoning,
        1_000_000,
    )
    assert asked.charge(usage) == (exact + Fraction(1, 2)).__floor__()


@given(prices=PRICES.map(Prices.table), parts=st.lists(USAGES, min_size=1, max_size=6))
def test_charges_add_up_within_a_nano_dollar_a_row(prices: PriceTable, parts: list[Usage]) -> None:
    """The sum of the rows is the price of the sum, give or take the rounding of each."""
    whole = Usage(
        input_tokens=sum(part.input_tokens for part in parts),
        cached_input_tokens=sum(part.cached_input_tokens for part in parts),
        cache_write_tokens=sum(part.cache_write_tokens for part in parts),
        output_tokens=sum(part.output_tokens for part in parts),
        reasoning_tokens=sum(part.reasoning_tokens for part in parts),
    )
    assert abs(sum(map(prices.charge, parts)) - prices.charge(whole)) <= len(parts)


@given(prices=PRICES.map(Prices.table), usage=USAGES, more=st.integers(0, 1000))
def test_more_tokens_never_cost_less(prices: PriceTable, usage: Usage, more: int) -> None:
    grown = msgspec.structs.replace(usage, output_tokens=usage.output_tokens + more)
    assert prices.charge(grown) >= prices.charge(usage) >= 0


@given(usage=USAGES)
def test_buckets_do_not_overlap(usage: Usage) -> None:
    """Their sum is what a tokens-per-minute limit counts."""
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.total_tokens == sum(
        value for value in msgspec.structs.asdict(usage).values() if isinstance(value, int)
    )


@pytest.mark.parametrize("text", ["0.1", "0.02", "0.3", "0.000000001", "1047.123456789", "1e2"])
def test_a_decimal_of_the_configuration_stays_what_it_was(text: str) -> None:
    """Never a float: a tenth of a dollar is a hundred million nano-dollars."""
    assert table(f'{{"input": {text}, "output": 0}}').input == Decimal(text) * 10**9


def test_the_version_changes_with_every_price_and_with_nothing_else() -> None:
    """It stands in each ledger row and says what the prices were."""
    prices = ['"input": 2', '"output": 2', '"cached_input": 2', '"cache_write": 2', '"reasoning": 2']
    base = '"input": 1, "output": 1, "cached_input": 1, "cache_write": 1, "reasoning": 1'
    versions = {table(f"{{{base}}}").version, *(table(f"{{{base}, {price}}}").version for price in prices)}
    assert len(versions) == 6
    assert table('{"input": 1, "output": 1}').version == table(f"{{{base}}}").version
    assert table('{"input": 1.0, "output": 1.00}').version == table('{"input": 1, "output": 1}').version


@given(prices=TABLES, label=st.sampled_from(["", "openai/gpt-4.1@2025-04-14", "a/b:c-d@2025-04-14"]))
def test_a_version_says_all_its_prices(prices: PriceTable, label: str) -> None:
    """A row can be priced again from the version alone, whatever became of the configuration."""
    named = msgspec.structs.replace(prices, version=f"{label}:{prices.version}" if label else prices.version)
    assert price_table(named.version) == named


@pytest.mark.parametrize(
    "version",
    ["", "1-2-3", "1-2-3-4-5-6", "1-2-3-x", "openai/gpt-4.1@2025-04-14", "1-2-3-4~", "1-2-3-4~5", "1-2-3-4~5~6"],
)
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(ValueError, match="is not a price version"):
        price_table(version)


DAYS = [dt.date(2026, 1, 1), dt.date(2026, 3, 1), dt.date(2026, 7, 1)]
LISTED = {day: Prices(input=Decimal(number), output=Decimal(0)) for number, day in enumerate(DAYS, 1)}
ONE_TOKEN = Usage(input_tokens=1_000_000)


@pytest.mark.parametrize("today", [dt.date(2025, 1, 1), *DAYS, dt.date(2026, 3, 2), dt.date(2027, 1, 1)])
@pytest.mark.parametrize(
    ("moment", "usd"),
    [
        ("2025-12-31T23:59:59", 1),
        ("2026-01-01T00:00:00", 1),
        ("2026-02-28T23:59:59.999", 1),
        ("2026-03-01T00:00:00", 2),
        ("2026-06-30T23:59:59", 2),
        ("2026-07-01T00:00:00", 3),
        ("2030-01-01T00:00:00", 3),
    ],
)
def test_a_day_of_the_list_begins_by_itself(today: dt.date, moment: str, usd: int) -> None:
    """At midnight UTC, in a gateway that started long before; those of the first day hold before it too."""
    at = dt.datetime.fromisoformat(moment).replace(tzinfo=dt.UTC)
    table = listed_prices("openai/x", LISTED, today)
    if at.date() >= today:  # The list begins with the day on which it was read.
        assert table.at(at.timestamp()).charge(ONE_TOKEN) == usd * 10**9


def test_a_listed_price_names_its_entry_and_its_day() -> None:
    first, later = listed_prices("openai/x", LISTED, DAYS[1]), listed_prices("openai/x", LISTED, DAYS[2])
    assert first.version == "openai/x@2026-03-01:77359400-77359400-77359400-0"
    assert later.version == "openai/x@2026-07-01:b2d05e00-b2d05e00-b2d05e00-0"
    assert first.at(4e9) == later


def test_what_was_not_used_is_an_estimate_of_nothing() -> None:
    assert (NO_USAGE.total_tokens, NO_USAGE.source) == (0, UsageSource.ESTIMATED)
    assert Estimate(prompt_tokens=3, output_tokens=4).total_tokens == 7
