"""Independence as policy: caps that hold to a hair, floors that keep every provider in use, and answers before caps."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.backend import Backend, Domains, ServedModel
from gateway.domain.chat import ChatRequest
from gateway.domain.plan import Decision, Displaced, Plan, Route, Target
from gateway.domain.policy import Caps, CapsOf, Independence, Policy, Strategy
from gateway.domain.usage import Estimate, PriceTable
from gateway.routing.choose import choose
from gateway.routing.draws import Draws
from gateway.routing.fleet import FleetView
from gateway.routing.shares import Floor, Shares, balanced
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


def test_a_single_value_may_have_a_cap_of_its_own() -> None:
    """In the place of what holds for all."""
    asked = Independence(max_share=Caps(provider=0.6), max_share_of=CapsOf(provider={"one": 0.3, "two": 1.0}))
    tokens, exceeded = play(asked)
    assert part(tokens, "cheap") == pytest.approx(0.3, abs=0.02)
    assert part(tokens, "fair") == pytest.approx(0.7, abs=0.02)
    assert exceeded == 0


def test_a_soft_cap_is_kept_without_swings() -> None:
    """A run of requests to one place is never longer than chance makes it; a hard cap alternates by the hair."""
    soft = Independence(max_share=Caps(provider=0.7), capping="soft", window="5m")
    tokens, exceeded = play(soft)
    assert 0.6 < part(tokens, "cheap") <= 0.7
    assert exceeded == 0
    used = {"cheap": 660, "fair": 340}
    found = [balanced(THREE, THREE, soft, used, Draws(seed)) for seed in range(2000)]
    kept = sum(each.order[0].backend == "cheap" for each in found) / len(found)
    assert kept == pytest.approx((0.9 * 0.7 / 0.66) ** 4, abs=0.03)
    assert {each.said_of("cheap/m") for each in found} == {None, "near"}
    assert all(not each.over for each in found)


def test_what_a_cap_keeps_from_being_asked_first_is_told() -> None:
    """With the prices there, so that what it costs can be reckoned from what was used."""
    policy = Policy(models={}, independence=Independence(max_share=Caps(provider=0.5)))

    def decided(used: dict[str, int]) -> Decision:
        _, decision = choose(
            REQUEST,
            Estimate(prompt_tokens=100, output_tokens=100),
            policy=policy,
            policy_label="gold@1",
            route=Route(Strategy(mode="cost"), THREE),
            tenant="acme",
            fleet=FleetView(0.0, {each.name: WELL for each in THREE}),
            seed=1,
            decision_id="1",
            used=used,
        )
        return decision

    assert decided({"cheap": 40, "fair": 60}).displaced is None
    assert decided({"cheap": 60, "fair": 40}).displaced == Displaced("cheap/m", "", had_cache=False)
    assert decided({"cheap": 60}).displaced == Displaced("cheap/m", "", had_cache=False)


def test_requests_in_flight_count_before_they_are_over() -> None:
    """What they are expected to use, until they are settled."""
    shares = Shares()
    shares.expect(KEY, "cheap", 100)
    assert shares.used(KEY, 0.0) == {"cheap": 100}
    shares.note(KEY, "fair", 50, 0.0)
    assert shares.used(KEY, 0.0) == {"cheap": 100, "fair": 50}
    shares.expect(KEY, "cheap", -100)
    shares.note(KEY, "cheap", 70, 0.0)
    assert shares.used(KEY, 0.0) == {"cheap": 70, "fair": 50}


@pytest.mark.parametrize(
    ("spare", "is_spare", "lacks", "part"),
    [
        (0.0, False, 0.0, 0.1),  # Nobody else could.
        (1.0, True, 0.0, 0.1),
        (0.5, True, 0.0, 0.2),  # Half of all requests do it for all.
        (0.5, False, 0.03, 0.0),
        (0.5, False, 0.01, 0.1),  # Those of less weight do not reach it.
        (0.1, False, 0.03, 0.1),  # They are too few.
    ],
)
def test_a_floor_is_filled_by_what_matters_least(spare: float, lacks: float, part: float, *, is_spare: bool) -> None:
    """`part` of these requests begin where the model's tokens lack."""
    asked = Independence(min_share=0.05)
    pool = {"cheap": 10_000 - round(10_000 * (lacks + 0.06)), "fair": 600, "dear": round(10_000 * lacks)}
    floor = Floor(pool, spare, is_spare)
    used = {"cheap": 1_000}
    found = [balanced(THREE, THREE, asked, used, Draws(seed), floor=floor) for seed in range(2000)]
    assert {each.under for each in found} <= {None, "dear/m"}
    assert sum(each.under is not None for each in found) / 2000 == pytest.approx(part, abs=0.025)


def test_a_floor_is_reckoned_over_all_policies_of_a_model() -> None:
    """Of those that have one; and knows who had it."""
    shares = Shares()
    shares.note(("free", *KEY[1:]), "cheap", 900, 0.0)
    assert shares.floor(KEY, 0.0, is_spare=False) is None
    shares.note(KEY, "cheap", 300, 0.0, is_spare=False)
    shares.note(("batches", *KEY[1:]), "dear", 100, 0.0, is_spare=True)
    assert shares.floor(KEY, 0.0, is_spare=False) == Floor({"cheap": 300, "dear": 100}, 0.25, is_spare=False)
    assert shares.used(("batches", *KEY[1:]), 0.0) == {"dear": 100}
    floor = shares.floor(KEY, 10_000.0, is_spare=True)
    assert floor is not None
    assert floor.spare == 0.0


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
