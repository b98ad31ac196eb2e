"""Shares and concentration: what sums of the ledger say about who everything hangs on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.policies import PolicyBook
from gateway.control.independence import UNLABELLED, Concentration, Spent, concentrations, report
from tests.control.domains import Labels, domains_book

DOMAINS: dict[str, Labels] = {
    "openai": {"provider": "openai", "cloud": "openai"},
    "azure": {"provider": "openai", "cloud": "azure"},
    "bedrock": {"provider": "anthropic", "cloud": "aws"},
    "worker": {"provider": "in-house", "cloud": "aws", "accelerator": "trainium"},
    "plain": {},
}


@pytest.fixture(scope="module")
def book() -> PolicyBook:
    """Backends in several failure domains; a model with alternatives, and one without."""
    return domains_book(DOMAINS, {"assistant": ["openai", "azure", "worker"], "lonely": ["openai", "azure"]})


def spent(backend: str, tokens: int, *, model: str = "assistant", cost: int = 0) -> Spent:
    return Spent(tenant="acme", model=model, backend=backend, tokens=tokens, cost_nano_usd=cost)


def found(concentration: Concentration) -> dict[str, float]:
    return {share.value: round(share.share, 6) for share in concentration.shares}


def test_one_vendor_on_two_clouds_is_one_provider(book: PolicyBook) -> None:
    """And two providers may share a cloud."""
    provider, cloud, accelerator, _ = concentrations(
        [spent("openai", 30), spent("azure", 30), spent("bedrock", 20), spent("worker", 20)], book.backends
    )
    assert found(provider) == {"openai": 0.6, "anthropic": 0.2, "in-house": 0.2}
    assert found(cloud) == {"aws": 0.4, "azure": 0.3, "openai": 0.3}
    assert found(accelerator) == {UNLABELLED: 0.8, "trainium": 0.2}
    assert provider.index == pytest.approx(0.6**2 + 0.2**2 + 0.2**2)


def test_a_backend_without_labels_is_a_provider_of_its_own(book: PolicyBook) -> None:
    """So is one that the configuration has no more."""
    provider, cloud, _, _ = concentrations([spent("plain", 1), spent("gone", 1)], book.backends)
    assert found(provider) == {"gone": 0.5, "plain": 0.5}
    assert found(cloud) == {"gone": 0.5, UNLABELLED: 0.5}


def test_models_without_an_alternative_are_named(book: PolicyBook) -> None:
    """In which dimensions, too."""
    told = report([], book, requests=0)
    assert {each.model: ("provider" in each.only_one, "cloud" in each.only_one) for each in told.alternatives} == {
        "assistant": (False, False),
        "lonely": (True, False),
    }
    assert all(each.index == 0.0 for each in told.concentration)


def test_each_model_is_told_of_by_itself(book: PolicyBook) -> None:
    """Its shares are of its own tokens."""
    told = report([spent("openai", 90), spent("worker", 10, model="lonely")], book, requests=2)
    assert found(told.by_model["lonely"][0]) == {"in-house": 1.0}
    assert (told.requests, told.tokens) == (2, 100)


@given(amounts=st.lists(st.tuples(st.sampled_from([*DOMAINS]), st.integers(0, 10**9)), min_size=1, max_size=20))
def test_shares_add_up(amounts: list[tuple[str, int]]) -> None:
    """To one, unless nothing was used; the index lies between 1/n and 1; cost has shares of its own."""
    for each in concentrations([spent(name, tokens, cost=tokens) for name, tokens in amounts], {}):
        total = sum(share.share for share in each.shares)
        assert total == pytest.approx(1.0 if any(tokens for _, tokens in amounts) else 0.0)
        assert each.index <= 1.0 + 1e-9
        assert each.index >= total / max(1, len(each.shares)) - 1e-9
        assert [share.share for share in each.shares] == sorted((share.share for share in each.shares), reverse=True)
        assert [share.cost_share for share in each.shares] == [share.share for share in each.shares]
