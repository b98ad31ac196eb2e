"""Our costs are the providers' invoices, to the nano-dollar, whatever was cached, written to a cache or thought."""

import dataclasses
from decimal import Decimal
from fractions import Fraction
from typing import Protocol

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.anthropic.wire import WireUsage as AnthropicUsage
from gateway.dialects.bedrock.reply import TokenUsage
from gateway.dialects.gemini.wire import UsageMetadata
from gateway.dialects.openai.wire import WireUsage
from gateway.dialects.responses.served import WireUsage as ResponsesUsage
from gateway.domain.backend import Prices
from gateway.domain.usage import NANO_PER_USD, Usage, price_table
from tests.backends.invoice import Meter, Tariff, bill, openai, written
from tests.pipeline.driver import Play
from tests.pipeline.wire import ask, reply

TOKENS = st.integers(0, 10_000_000)
METERS = st.builds(Meter, fresh=TOKENS, read=TOKENS, written=TOKENS, said=TOKENS, thought=TOKENS)
USD = st.decimals(0, 1000, places=9)
LISTS = st.builds(Prices, input=USD, cached_input=USD, cache_write=USD, output=USD, reasoning=USD)


class Reported(Protocol):
    """A dialect's report."""

    def buckets(self) -> Usage | None:
        """In our words."""


READERS: dict[str, type[Reported]] = {
    "openai": WireUsage,
    "responses": ResponsesUsage,
    "anthropic": AnthropicUsage,
    "gemini": UsageMetadata,
    "bedrock": TokenUsage,
}


def tariff(prices: Prices) -> Tariff:
    """The price list as the provider reads it."""
    names = {"fresh": prices.input, "read": prices.cached_input, "written": prices.cache_write}
    names |= {"said": prices.output, "thought": prices.reasoning}
    return Tariff(**{name: Fraction(price or Decimal(0)) for name, price in names.items()})


@pytest.mark.parametrize("dialect", READERS)
@given(meter=METERS, prices=LISTS)
def test_a_cost_is_what_the_provider_asks(dialect: str, meter: Meter, prices: Prices) -> None:
    """From its own report of what it counted. What a dialect cannot tell apart has one price there."""
    if dialect == "gemini":
        meter = dataclasses.replace(meter, written=0)
    if dialect == "bedrock":
        prices = msgspec.structs.replace(prices, reasoning=prices.output)
    usage = msgspec.json.decode(written(dialect, meter), type=READERS[dialect]).buckets()
    assert usage is not None
    cost = prices.table().charge(usage)
    asked = bill(meter, tariff(prices)) * NANO_PER_USD
    assert abs(cost - asked) <= Fraction(1, 2)
    assert price_table(prices.table().version).charge(usage) == cost


@given(st.lists(METERS, min_size=1, max_size=5))
def test_the_ledgers_rows_are_the_invoices_lines(meters: list[Meter]) -> None:
    """From the bytes of the answer to the row; a month's invoice differs by the rounding of its lines at most."""
    asked, cost = Fraction(0), 0
    # The backend adds to the prompt what it finds, so that any length may be.
    body = ask(stream=False, web_search_options={})
    for meter in meters:
        play = Play(stream=False, body=body).answer(200, reply("Hello", openai(meter)))
        (row,) = play.rows
        listed = Tariff(
            fresh=Fraction(1), read=Fraction(1, 2), written=Fraction(1), said=Fraction(2), thought=Fraction(2)
        )
        asked += bill(meter, listed) * NANO_PER_USD
        cost += row.cost_nano_usd
        assert row.charge_nano_usd == row.cost_nano_usd
    assert abs(cost - asked) <= Fraction(len(meters), 2)
