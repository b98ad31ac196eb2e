"""A restart grants no budget anew: counters begin at what the ledger knows."""

import datetime as dt
import json
from collections.abc import Iterable

import pytest

from gateway.config.policies import PolicyBook
from gateway.pipeline.beginnings import Lately, Paid, begin_shares, beginnings
from gateway.routing.shares import Floor, Key, Shares
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


def test_shares_begin_at_what_the_ledger_knows_of_their_window() -> None:
    """Of policies that ask for it, whatever revision wrote a row; once, and as old as it is."""
    route = {"targets": [{"backend": "a", "model": "small"}, {"backend": "b", "model": "small"}]}
    place = {"dialect": "openai", "base_url": "https://a.example", "models": {"small": {}}}
    policies = {
        "gold": {"models": {"assistant": route}, "independence": {"max_share": {"provider": 0.6}, "window": "5m"}},
        "batch": {
            "models": {"assistant": route},
            "independence": {"min_share": 0.02, "window": "5m"},
            "priority": "batch",
        },
        "free": {"models": {"assistant": route}},
    }
    tree = {"version": 1, "backends": {"a": place, "b": place}, "policies": policies, "tenants": {}}
    book = book_of(json.dumps(tree))
    asked: list[tuple[float, float]] = []

    def used(since: float, width_s: float) -> list[Lately]:
        asked.append((since, width_s))
        return [
            ("gold@old", "assistant", "a", NOON - 290, 100),
            ("gold@new", "assistant", "b", NOON - 10, 50),
            ("gold@new", "gone", "b", NOON - 10, 50),
            ("batch@1", "assistant", "b", NOON - 5, 7),
            ("free@1", "assistant", "b", NOON - 5, 1_000),
        ]

    shares, begun = Shares(), set[Key]()
    for _ in range(2):
        begin_shares(book, used, shares, begun, wall=NOON, now=5_000.0)
    assert asked == [(NOON - 300, 5.0)]
    gold, batch = ("gold", "assistant", 300.0), ("batch", "assistant", 300.0)
    assert shares.used(gold, 5_000.0) == {"a": 100, "b": 50}
    assert shares.used(batch, 5_000.0) == {"b": 7}
    assert shares.floor(gold, 5_000.0, is_spare=False) == Floor({"b": 7}, 1.0, is_spare=False)
    assert shares.used(gold, 5_020.0) == {"a": 0, "b": 50}
