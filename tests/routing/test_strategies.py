"""Orders: who comes first under which strategy, how lists nest, and what a target that comes back is given."""

from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.backend import Backend, Prices, ServedModel
from gateway.domain.chat import ChatRequest
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.ledger import Outcome
from gateway.domain.plan import Decision, Plan, Route, Target
from gateway.domain.policy import Mode, Policy, Strategy, When
from gateway.domain.usage import Estimate
from gateway.routing.choose import choose
from gateway.routing.draws import Draws
from gateway.routing.fleet import Fleet, FleetView
from gateway.routing.strategies import LATENCY_LEAST, RANKS, Asked, matches
from gateway.routing.tally import Standing

NOW = 1000.0
MODES: list[Mode] = sorted(RANKS)


def target(name: str, *, weight: int = 1, price: str = "1") -> Target:
    facts = ServedModel()
    return Target(
        backend=name,
        model="m",
        weight=weight,
        place=Backend(dialect="openai", base_url=f"https://{name}.example/v1", models={"m": facts}),
        facts=facts,
        prices=Prices(input=Decimal(price), output=Decimal(price)).table(),
    )


def standing(
    *,
    barred: str | None = None,
    ramp: float = 1.0,
    in_flight: int = 0,
    latency: float = 1.0,
    age_s: float = 0.0,
    taken: float = 0.0,
) -> Standing:
    return Standing(barred, None, ramp, in_flight, latency, NOW - age_s, taken=taken)


def asking(*, stream: bool = False, needs: frozenset[str] = frozenset()) -> ChatRequest:
    return ChatRequest(
        endpoint="chat",
        model="assistant",
        stream=stream,
        wants_usage=False,
        max_output_tokens=None,
        choices=1,
        needs=needs,  # type: ignore[arg-type]  # words of a table
        prompt_bytes=10,
        fields={},
    )


def route(mode: Mode, *entries: Target | Route, gamma: float = 1.0, weight: int = 1) -> Route:
    return Route(Strategy(mode=mode, gamma=gamma), entries, weight)


def decided(
    one: Route,
    health: Mapping[str, Standing] | None = None,
    *,
    seed: int = 1,
    request: ChatRequest | None = None,
    prompt: int = 100,
    tenant: str = "acme",
    fleet: FleetView | None = None,
) -> tuple[Plan | None, Decision]:
    known = health or {}
    return choose(
        asking() if request is None else request,
        Estimate(prompt_tokens=prompt, output_tokens=100),
        policy=Policy(models={}),
        policy_label="standard@1",
        route=one,
        tenant=tenant,
        fleet=fleet or FleetView(NOW, {leaf.name: known.get(leaf.backend, standing()) for leaf in one.leaves}),
        seed=seed,
        decision_id="d1",
    )


def order(one: Route, health: Mapping[str, Standing] | None = None, **more: object) -> str:
    """The backends in their order: `abc`."""
    plan, _ = decided(one, health, **more)  # type: ignore[arg-type]  # what `decided` takes
    return "" if plan is None else "".join(each.backend for each in plan.targets)


def firsts(one: Route, health: Mapping[str, Standing] | None = None, draws: int = 4000) -> dict[str, float]:
    """Each backend's share of first tries, over many seeds as requests draw them."""
    random = Random(11)
    found = Counter(order(one, health, seed=random.getrandbits(32))[0] for _ in range(draws))
    return {name: count / draws for name, count in found.items()}


A, B, C = target("a"), target("b"), target("c")


def test_draws_are_even_and_repeatable() -> None:
    """The same seed, the same numbers; neighbouring seeds have nothing in common."""
    draws, again = Draws(7), Draws(7)
    numbers = [draws.next() for _ in range(10_000)]
    assert numbers == [again.next() for _ in range(10_000)]
    assert all(0 <= number < 1 for number in numbers)
    assert sum(numbers) / 10_000 == pytest.approx(0.5, abs=0.02)
    heads = [Draws(seed).next() for seed in range(10_000)]
    for tenth in range(10):
        assert sum(tenth <= 10 * number < tenth + 1 for number in heads) == pytest.approx(1000, abs=150)
    assert Counter(draws.below(3) for _ in range(3000)).keys() == {0, 1, 2}


LATENCY = [
    ("the faster one", {"a": standing(latency=2.0), "b": standing(latency=1.0)}, "ba"),
    ("twice as fast, but busy", {"a": standing(latency=2.0), "b": standing(latency=1.0, in_flight=2)}, "ab"),
    ("slow long ago", {"a": standing(latency=2.0, age_s=10), "b": standing(latency=1.0)}, "ab"),
    ("never asked", {"a": standing(latency=0.5), "b": standing(latency=0.0)}, "ba"),
    ("never asked, many on their way", {"a": standing(latency=0.5), "b": standing(latency=0, in_flight=10)}, "ab"),
    ("coming back", {"a": standing(latency=1.0), "b": standing(latency=0.5, ramp=0.1)}, "ab"),
    (
        "as fast, less in flight",
        {"a": standing(latency=1.0, in_flight=3), "b": standing(latency=2.0, in_flight=1)},
        "ba",
    ),
]


@pytest.mark.parametrize(("health", "expected"), [pytest.param(*row, id=name) for name, *row in LATENCY])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_latency_takes_the_better_of_two(health: dict[str, Standing], expected: str, seed: int) -> None:
    assert order(route("latency", A, B), health, seed=seed) == expected


def test_of_three_the_slowest_is_never_first_and_the_best_not_always() -> None:
    """Two of three are drawn: the fastest is among them two times out of three."""
    health = {"a": standing(latency=1.0), "b": standing(latency=2.0), "c": standing(latency=9.0)}
    shares = firsts(route("latency", A, B, C), health)
    assert shares.keys() == {"a", "b"}
    assert shares["a"] == pytest.approx(2 / 3, abs=0.04)


LOAD = [
    ({"a": standing(in_flight=2), "b": standing(in_flight=1), "c": standing(in_flight=3)}, 1, "bac"),
    ({"a": standing(in_flight=2), "b": standing(in_flight=1), "c": standing(in_flight=4)}, 3, "cba"),
    ({"a": standing(in_flight=2), "b": standing(in_flight=1), "c": standing(ramp=0.2)}, 1, "bac"),
    ({"a": standing(in_flight=3), "b": standing(taken=1.0), "c": standing(taken=0.5)}, 1, "cab"),
]


@pytest.mark.parametrize(("health", "weight", "expected"), LOAD)
def test_least_busy_counts_requests_in_flight_for_each_part_of_weight(
    health: dict[str, Standing], weight: int, expected: str
) -> None:
    assert order(route("least_busy", A, B, target("c", weight=weight)), health) == expected


def test_of_equally_busy_ones_chance_decides() -> None:
    assert firsts(route("least_busy", A, B)) == pytest.approx({"a": 0.5, "b": 0.5}, abs=0.04)


COST = [
    ("the cheaper one", "3", "1", {}, 1, "ba"),
    ("three times the price, four times as fast", "3", "1", {"b": standing(latency=4.0)}, 1, "ab"),
    ("price nearly alone", "3", "1", {"b": standing(latency=4.0)}, 3, "ba"),
    ("free", "0", "0.1", {"a": standing(latency=9.0)}, 1, "ab"),
    ("both free, one faster", "0", "0", {"a": standing(latency=9.0)}, 1, "ba"),
]


@pytest.mark.parametrize(
    ("price_a", "price_b", "health", "gamma", "expected"), [pytest.param(*row, id=name) for name, *row in COST]
)
def test_cost_weighs_price_against_latency(
    price_a: str, price_b: str, health: dict[str, Standing], gamma: float, expected: str
) -> None:
    one = route("cost", target("a", price=price_a), target("b", price=price_b), gamma=gamma)
    assert {order(one, health, seed=seed) for seed in range(5)} == {expected}


@pytest.mark.parametrize(("ramp", "share"), [(0.1, 0.1), (0.5, 0.5), (1.0, 1.0)])
def test_a_backend_that_comes_back_gets_its_first_place_by_and_by(ramp: float, share: float) -> None:
    """F42: in order of priority too, it is asked by a growing part of the requests; the others find it next in line."""
    one, health = route("priority", A, B), {"a": standing(ramp=ramp)}
    assert firsts(one, health).get("a", 0) == pytest.approx(share, abs=0.03)
    assert {order(one, health, seed=seed) for seed in range(50)} <= {"ab", "ba"}


def test_a_weight_comes_back_by_and_by() -> None:
    shares = firsts(route("weighted", target("a", weight=2), B), {"a": standing(ramp=0.25)})
    assert shares["a"] == pytest.approx(1 / 3, abs=0.03)


NESTED = [
    (route("priority", A, route("priority", B, C)), {}, {"abc"}),
    (route("priority", route("weighted", A, B), C), {}, {"abc", "bac"}),
    (route("priority", route("weighted", A, B), C), {"a": standing(barred="cooling")}, {"bc", "cb"}),
    (route("priority", route("priority", A), route("priority", B)), {"a": standing(barred="cooling")}, {"b"}),
    (route("least_busy", route("priority", A, B), C), {"a": standing(in_flight=2)}, {"cab"}),
    (route("least_busy", route("priority", A, B, weight=4), C), {"a": standing(in_flight=2)}, {"abc"}),
    (route("latency", route("latency", A, B), C), {"a": standing(latency=9), "c": standing(latency=3)}, {"bac"}),
]


@pytest.mark.parametrize(("one", "health", "expected"), NESTED)
def test_a_group_stands_where_its_first_target_would(
    one: Route, health: dict[str, Standing], expected: set[str]
) -> None:
    """And what is left of it stays together: it fails over within itself first."""
    assert {order(one, health, seed=seed) for seed in range(40)} == expected


CONDITIONS: list[tuple[When, Asked, bool]] = [
    (When(stream=True), Asked(asking(stream=True), Estimate(prompt_tokens=1, output_tokens=1), "acme"), True),
    (When(stream=True), Asked(asking(), Estimate(prompt_tokens=1, output_tokens=1), "acme"), False),
    (When(stream=False), Asked(asking(), Estimate(prompt_tokens=1, output_tokens=1), "acme"), True),
    (When(prompt_tokens_over=9), Asked(asking(), Estimate(prompt_tokens=9, output_tokens=99), "acme"), False),
    (When(prompt_tokens_over=9), Asked(asking(), Estimate(prompt_tokens=10, output_tokens=1), "acme"), True),
    (When(tenants=("zeta", "acme")), Asked(asking(), Estimate(prompt_tokens=1, output_tokens=1), "acme"), True),
    (When(tenants=("zeta",)), Asked(asking(), Estimate(prompt_tokens=1, output_tokens=1), "acme"), False),
    (
        When(needs=("tools",)),
        Asked(asking(needs=frozenset({"tools", "seed"})), Estimate(prompt_tokens=1, output_tokens=1), "acme"),
        True,
    ),
    (
        When(needs=("tools", "vision")),
        Asked(asking(needs=frozenset({"tools"})), Estimate(prompt_tokens=1, output_tokens=1), "acme"),
        False,
    ),
    (
        When(stream=True, tenants=("acme",)),
        Asked(asking(), Estimate(prompt_tokens=1, output_tokens=1), "acme"),
        False,
    ),
    (
        When(metadata={"region": "eu"}),
        Asked(asking(), Estimate(prompt_tokens=1, output_tokens=1), "acme", {"region": "eu", "tier": "gold"}),
        True,
    ),
    (
        When(metadata={"region": "eu", "tier": "gold"}),
        Asked(asking(), Estimate(prompt_tokens=1, output_tokens=1), "acme", {"region": "eu"}),
        False,
    ),
    (When(metadata={"region": "eu"}), Asked(asking(), Estimate(prompt_tokens=1, output_tokens=1), "acme"), False),
    (When(), Asked(asking(), Estimate(prompt_tokens=1, output_tokens=1), "acme"), True),
]


@pytest.mark.parametrize(("when", "asked", "holds"), CONDITIONS)
def test_a_condition_holds_when_all_that_it_says_does(when: When, asked: Asked, holds: bool) -> None:
    assert matches(when, asked) is holds


BY_LENGTH = Route(
    Strategy(mode="conditional"),
    (route("priority", C, A), target("d"), route("weighted", A, B)),
    conditions=(When(prompt_tokens_over=1000), When(tenants=("zeta",)), None),
)


def test_the_first_entry_that_takes_the_request_is_the_only_one() -> None:
    """Its own list is the whole plan; the others are left out, and the decision says why."""
    assert order(BY_LENGTH, prompt=2000, tenant="zeta") == "ca"
    assert order(BY_LENGTH, tenant="zeta") == "d"
    assert {order(BY_LENGTH, seed=seed) for seed in range(20)} == {"ab", "ba"}
    _, decision = decided(BY_LENGTH, prompt=2000)
    assert decision.strategy == "conditional"
    assert {each.target: each.excluded for each in decision.candidates} == {
        "c/m": None,
        "a/m": None,
        "d/m": "condition",
        "b/m": "condition",
    }


def test_a_condition_does_not_give_way_to_health() -> None:
    """What a policy keeps apart stays apart: the others are no candidates, not even in a panic."""
    health = {"c": standing(barred="breaker_open"), "a": standing(barred="breaker_open")}
    plan, decision = decided(BY_LENGTH, health, prompt=2000)
    assert plan is not None
    assert plan.panics
    assert decision.panics
    assert [each.backend for each in plan.targets] == ["c", "a"]
    assert order(BY_LENGTH, {"d": standing(barred="cooling")}, tenant="zeta") == ""


def test_the_decision_shows_what_each_was_ranked_with() -> None:
    """Smaller is earlier; where the list alone decides there is nothing to show."""
    health = {"a": standing(latency=2.0, in_flight=1), "b": standing(latency=1.0)}
    _, decision = decided(route("latency", A, B), health)
    assert {each.target: each.score for each in decision.candidates} == {"a/m": 4.0, "b/m": 1.0}
    _, decision = decided(route("priority", A, B), health)
    assert {each.score for each in decision.candidates} == {None}
    _, decision = decided(route("latency", A), {"a": standing(latency=0.0)})
    assert decision.candidates[0].score == LATENCY_LEAST


STANDINGS = st.builds(
    standing,
    barred=st.sampled_from([None, None, None, "cooling", "breaker_open"]),
    ramp=st.sampled_from([1.0, 1.0, 0.1, 0.6]),
    in_flight=st.integers(0, 50),
    latency=st.floats(0, 100),
    age_s=st.floats(0, 1e5),
)
LEAVES = [
    target(name, weight=weight, price=price)
    for name, weight, price in zip("abcde", [1, 9, 1, 5, 2], "01203", strict=True)
]


@st.composite
def routes(draw: st.DrawFn, depth: int = 2) -> Route:
    """Lists of lists, with conditions and without."""
    deeper: st.SearchStrategy[Target | Route] = routes(depth=depth - 1) if depth else st.sampled_from(LEAVES)
    entries = tuple(draw(st.lists(st.sampled_from(LEAVES) | deeper, min_size=1, max_size=4)))
    mode = draw(st.sampled_from(MODES))
    conditions: tuple[When | None, ...] = ()
    if mode == "conditional":
        whens = st.builds(When, stream=st.booleans(), prompt_tokens_over=st.sampled_from([None, 50, 500]))
        conditions = (*[draw(whens) for _ in entries[1:]], None)
    return Route(Strategy(mode=mode, gamma=draw(st.floats(1, 3))), entries, draw(st.integers(1, 9)), conditions)


@given(one=routes(), health=st.lists(STANDINGS, min_size=5, max_size=5), seed=st.integers(0, 2**32 - 1))
def test_every_order_accounts_for_every_target_once(one: Route, health: list[Standing], seed: int) -> None:
    """Whatever nests in whatever: a rank or a reason for each, the same again for the same seed."""
    known = dict(zip("abcde", health, strict=True))
    # Lists that name a target twice are refused by the configuration: only what conditions keep apart may repeat.
    plan, decision = decided(one, known, seed=seed)
    assert (plan, decision) == decided(one, known, seed=seed)
    assert {each.target for each in decision.candidates} == {leaf.name for leaf in one.leaves}
    ranked = [each for each in decision.candidates if each.rank is not None]
    assert [each.rank for each in ranked] == list(range(len(ranked)))
    assert [each.target for each in ranked] == ([each.name for each in plan.targets] if plan else [])
    for each in ranked:
        assert known[each.target[0]].barred in ({None} if not decision.panics else {"breaker_open"})


def simulated(mode: Mode, ttft_s: Callable[[str, float], float], seconds: int) -> list[Counter[str]]:
    """First tries in each second: twenty streams a second, two backends, each with its time to first token."""
    fleet, one, random = Fleet({}, draw=lambda: 0.5), route(mode, A, B), Random(3)
    due: list[tuple[float, Target, int, float]] = []
    seen = [Counter[str]() for _ in range(seconds)]
    for number in range(seconds * 20):
        now = NOW + number / 20
        for at, where, epoch, ttft in sorted(due, key=lambda each: each[0]):
            if at <= now:
                fleet.answered(where, epoch, at, ttft_s=ttft, prompt_tokens=100)
                fleet.finished(where, epoch, at, outcome=Outcome.OK, fault=None, waited_s=20, prompt_tokens=100)
        due = [each for each in due if each[0] > now]
        plan, _ = decided(one, fleet=fleet.view(one.leaves, now), seed=random.getrandbits(32))
        assert plan is not None
        where = plan.targets[0]
        seen[number // 20][where.backend] += 1
        ttft = ttft_s(where.backend, now - NOW)
        due.append((now + ttft, where, fleet.dispatched(where, now), ttft))
    return seen


def test_traffic_leaves_a_backend_that_grows_slow_before_any_timeout() -> None:
    """F22 a: latency ×10 within 30 s; five seconds after it doubled, at least 80 % of requests go elsewhere."""

    def ttft_s(backend: str, passed: float) -> float:
        return 0.3 * (1 + 9 * min(1.0, max(0.0, passed - 20) / 30)) if backend == "a" else 0.3

    seen = simulated("latency", ttft_s, 60)
    before, after = sum(seen[5:20], Counter[str]()), sum(seen[29:60], Counter[str]())
    assert 0.3 < before["a"] / before.total() < 0.7
    assert after["b"] / after.total() >= 0.8
    assert after["a"] > 0  # It is looked at again from time to time.


def test_a_failure_makes_a_backend_slow() -> None:
    """It enters as the timeout that it might have been: one failure moves traffic before the breaker does."""
    fleet, one = Fleet({}, draw=lambda: 0.5), route("latency", A, B)
    for where in (A, B):
        fleet.answered(where, 0, NOW, ttft_s=0.3, prompt_tokens=100)
    broken = Fault(kind=FaultKind.SERVER_ERROR, message="x")
    epoch = fleet.dispatched(A, NOW)
    fleet.finished(A, epoch, NOW, outcome=Outcome.FAILED, fault=broken, waited_s=20, prompt_tokens=100)
    assert {order(one, fleet=fleet.view(one.leaves, NOW + 5), seed=seed) for seed in range(10)} == {"ba"}
