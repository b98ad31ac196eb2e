"""Independence as policy: caps that hold to a hair, floors that keep every provider in use, and answers before caps."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.backend import Backend, Domains, ServedModel
from gateway.domain.chat import ChatRequest
from gateway.domain.plan import Plan, Route, Target
from gateway.domain.policy import Caps, Independence, Policy, Strategy
from gateway.domain.usage import Estimate, PriceTable
from gateway.routing.choose import choose
from gateway.routing.draws import Draws
from gateway.routing.fleet import FleetView
from gateway.routing.shares import Shares, balanced
from gateway.routing.tally import Standing

KEY = ("gold", "assistant", 3600.0)
WELL = Standing(None, None, 1.0, 0, 0.0, 0.0)
OPEN = Standing("breaker_open", 4.0, 1.0, 0, 0.0, 0.0)
REQUEST = ChatRequest(
    endpoint="chat",
    model="assistant",
    stream=False,
    wants_usage=False,
    max_output_tokens=None,
    choices=1,
    needs=frozenset(),
    prompt_bytes=10,
    fields={},
)


def target(backend: str, *, price: int = 1, **domains: str) -> Target:
    facts = ServedModel()
    place = Backend(
        dialect="openai", base_url=f"https://{backend}.example/v1", models={"m": facts}, domains=Domains(**domains)
    )
    prices = PriceTable(input=price, cached_input=price, cache_write=price, output=price, reasoning=price, version="")
    return Target(backend=backend, model="m", weight=1, place=place, facts=facts, prices=prices)


THREE = (
    target("cheap", price=1, provider="one", cloud="x"),
    target("fair", price=50, provider="two", cloud="y"),
    target("dear", price=100, provider="three", cloud="x"),
)


def play(
    asked: Independence,
    targets: tuple[Target, ...] = THREE,
    *,
    requests: int = 3000,
    mode: str = "cost",
    broken: frozenset[str] = frozenset(),
) -> tuple[Counter[str], int]:
    """Requests of random length one after the other, each served by the first of its plan.

    Tokens by backend, and for how many requests a cap could not be kept.
    """
    shares, random = Shares(), Random(7)
    route = Route(Strategy(mode=mode), targets)  # type: ignore[arg-type]  # a table of modes
    policy = Policy(models={}, independence=asked)
    standings = {each.name: OPEN if each.backend in broken else WELL for each in targets}
    tokens: Counter[str] = Counter()
    exceeded = 0
    for number in range(requests):
        now = number * 1.0
        plan, decision = choose(
            REQUEST,
            Estimate(prompt_tokens=100, output_tokens=100),
            policy=policy,
            policy_label="gold@1",
            route=route,
            tenant="acme",
            fleet=FleetView(now, standings),
            seed=random.getrandbits(32),
            decision_id=str(number),
            used=shares.used(KEY, now),
        )
        assert isinstance(plan, Plan)
        spent = random.randint(1, 2000)
        shares.note(KEY, plan.targets[0].backend, spent, now)
        tokens[plan.targets[0].backend] += spent
        exceeded += decision.cap_exceeded
    return tokens, exceeded


def part(tokens: Counter[str], *backends: str) -> float:
    return sum(tokens[name] for name in backends) / tokens.total()


@pytest.mark.parametrize("mode", ["cost", "priority"])
@pytest.mark.parametrize("cap", [0.4, 0.6, 0.9])
def test_the_most_attractive_provider_stays_at_its_cap(mode: str, cap: float) -> None:
    """To within two parts in a hundred, though everything would go there; no request goes beyond."""
    tokens, exceeded = play(Independence(max_share=Caps(provider=cap)), mode=mode)
    assert part(tokens, "cheap") == pytest.approx(cap, abs=0.02)
    assert exceeded == 0


def test_without_a_policy_everything_goes_to_the_cheapest() -> None:
    """What a cap is for."""
    tokens, _ = play(Independence())
    assert part(tokens, "cheap") == 1.0


def test_two_backends_of_one_cloud_share_its_cap() -> None:
    """Whoever of them is cheaper."""
    tokens, _ = play(Independence(max_share=Caps(cloud=0.5)))
    assert part(tokens, "cheap", "dear") == pytest.approx(0.5, abs=0.02)


def test_an_answer_is_worth_more_than_a_cap() -> None:
    """With nobody else left the cap is exceeded, and every decision says so."""
    tokens, exceeded = play(Independence(max_share=Caps(provider=0.6)), broken=frozenset({"fair", "dear"}), requests=50)
    assert part(tokens, "cheap") == 1.0
    assert exceeded == 49  # All but the first, before which nothing was used.


def test_every_provider_keeps_its_least_part() -> None:
    """Whatever the strategy says; the rest goes where it says."""
    tokens, _ = play(Independence(min_share=0.05))
    assert part(tokens, "fair") == pytest.approx(0.05, abs=0.015)
    assert part(tokens, "dear") == pytest.approx(0.05, abs=0.015)


def test_a_provider_that_is_not_well_gets_no_least_part() -> None:
    """It is tried by nobody for a share."""
    tokens, _ = play(Independence(min_share=0.05), broken=frozenset({"dear"}))
    assert tokens["dear"] == 0


def test_shares_are_forgotten_with_the_window() -> None:
    """Slot by slot; the sums are those of the window at any time."""
    shares = Shares()
    for minute in range(120):
        shares.note(KEY, "a", 1, minute * 60.0)
    assert shares.used(KEY, 119 * 60.0)["a"] == 60
    assert shares.used(KEY, 149 * 60.0)["a"] == 30
    assert shares.used(KEY, 1000 * 60.0)["a"] == 0


@given(
    used=st.dictionaries(st.sampled_from(["cheap", "fair", "dear"]), st.integers(0, 1000)),
    cap=st.floats(0.01, 1),
    floor=st.floats(0, 0.2),
    seed=st.integers(0, 2**32),
    out=st.sets(st.sampled_from([0, 1, 2])),
)
def test_nobody_is_lost_from_an_order(used: dict[str, int], cap: float, floor: float, seed: int, out: set[int]) -> None:
    """Caps and floors change places, nothing else; whoever has its part stands behind whoever does not."""
    order = [each for place, each in enumerate(THREE) if place not in out]
    asked = Independence(max_share=Caps(provider=cap), min_share=floor)
    found = balanced(order, THREE, asked, used, Draws(seed))
    assert sorted(each.name for each in found.order) == sorted(each.name for each in order)
    places = [each.name in found.over for each in found.order]
    assert places == sorted(places)
    assert found.cap_exceeded == bool(places and all(places))
