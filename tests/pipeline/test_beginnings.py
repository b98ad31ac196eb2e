"""A restart grants no budget anew: counters begin at what the ledger knows."""

import datetime as dt
import json
from collections.abc import Iterable

import pytest

from gateway.config.policies import PolicyBook
from gateway.pipeline.beginnings import Paid, beginnings
from tests.pipeline.driver import book_of

NOON = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC).timestamp()
DAY = dt.datetime(2026, 11, 24, tzinfo=dt.UTC).timestamp()
MONTH = dt.datetime(2026, 11, 1, tzinfo=dt.UTC).timestamp()
DIGEST = "ab" * 32
KEY = DIGEST[:12]
PAID: list[Paid] = [
    ("acme", KEY, "assistant", 100, 1_000),
    ("acme", KEY, "other", 10, 2_000),
    ("acme", "elsekey", "assistant", 1, 4_000),
    ("zeta", "zetakey", "assistant", 5, 8_000),
]


def told(*, tenant: object = None, key: object = None, model: object = None) -> PolicyBook:
    """A configuration with these budgets."""
    route = {"targets": [{"backend": "a", "model": "small"}]}
    entry = {"name": "ci", "sha256": DIGEST} | ({} if key is None else {"budget": key})
    return book_of(
        json.dumps(
            {
                "version": 1,
                "backends": {"a": {"dialect": "openai", "base_url": "https://a.example", "models": {"small": {}}}},
                "policies": {
                    "standard": {
                        "models": {"assistant": route | ({} if model is None else {"budget": model}), "other": route},
                        "limits": {"requests_per_minute": 5, "concurrency": 2},
                    }
                },
                "tenants": {
                    "acme": {"policy": "standard", "keys": [entry]} | ({} if tenant is None else {"budget": tenant})
                },
            }
        )
    )


@pytest.mark.parametrize(
    ("budgets", "expected"),
    [
        ({}, []),
        ({"tenant": {"usd": 5, "per": "day"}}, [("{t:acme}:budget_usd:2026-11-24@UTC", 7_000)]),
        ({"tenant": {"tokens": 5, "per": "month"}}, [("{t:acme}:budget_tokens:2026-11@UTC", 111)]),
        ({"key": {"usd": 5, "per": "day"}}, [(f"{{t:acme}}:budget_usd:2026-11-24@UTC:key:{KEY}", 3_000)]),
        ({"model": {"tokens": 5, "per": "day"}}, [("{t:acme}:budget_tokens:2026-11-24@UTC:model:assistant", 101)]),
        (
            {"tenant": {"usd": 5, "tokens": 9, "per": "day"}, "model": {"usd": 5, "per": "month"}},
            [
                ("{t:acme}:budget_usd:2026-11-24@UTC", 7_000),
                ("{t:acme}:budget_tokens:2026-11-24@UTC", 111),
                ("{t:acme}:budget_usd:2026-11@UTC:model:assistant", 5_000),
            ],
        ),
    ],
)
def test_each_budget_begins_at_what_was_paid_of_it(budgets: dict[str, object], expected: list[tuple[str, int]]) -> None:
    """Limits are not budgets: their buckets begin full."""
    book = told(**budgets)
    found = list(beginnings(book, lambda _since, _before: PAID, NOON))
    assert [(each.key, each.used) for each in found] == expected
    assert all(each.ends_at > NOON for each in found)


def test_the_ledger_is_asked_once_for_each_period() -> None:
    """From its first second to its last."""
    asked: list[tuple[float, float]] = []

    def paid(since: float, before: float) -> Iterable[Paid]:
        asked.append((since, before))
        return PAID

    day = {"usd": 5, "tokens": 9, "per": "day"}
    book = told(tenant=day, key=day, model={"usd": 5, "per": "month"})
    assert len(list(beginnings(book, paid, NOON))) == 5
    assert sorted(asked) == [(MONTH, MONTH + 30 * 86400), (DAY, DAY + 86400)]
    assert [each.key for each in beginnings(book, paid, NOON, {"{t:acme}:budget_usd:2026-11@UTC:model:assistant"})] == [
        "{t:acme}:budget_usd:2026-11-24@UTC",
        "{t:acme}:budget_tokens:2026-11-24@UTC",
        f"{{t:acme}}:budget_usd:2026-11-24@UTC:key:{KEY}",
        f"{{t:acme}}:budget_tokens:2026-11-24@UTC:key:{KEY}",
    ], "what has begun is passed over"
    assert asked[2:] == [(DAY, DAY + 86400)]
