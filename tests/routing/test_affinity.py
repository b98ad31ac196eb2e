"""Requests that begin alike: where they go, who else moves when a target leaves, and when load matters more."""

from collections import Counter
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.backend import Backend, Prices, ServedModel
from gateway.domain.chat import ChatRequest
from gateway.domain.plan import Decision, Route, Target
from gateway.domain.policy import BALANCED, Mode, Policy, Strategy
from gateway.domain.usage import Estimate
from gateway.routing.affinity import LOAD_MORE, LOAD_TIMES, PREFIX_BYTES, bears, key_of, preferred
from gateway.routing.choose import choose
from gateway.routing.fleet import FleetView
from gateway.routing.strategies import RANKS
from gateway.routing.tally import Standing

NAMES = "abcdef"
KEYS = st.integers(0, 2**64 - 1)
TEXTS = st.text(min_size=1, max_size=40)


def target(name: str, weight: int = 1) -> Target:
    facts = ServedModel()
    return Target(
        backend=name,
        model="m",
        weight=weight,
        place=Backend(dialect="openai", base_url=f"https://{name}.example/v1", models={"m": facts}),
        facts=facts,
        prices=Prices(input=0, output=0).table(),  # type: ignore[arg-type]  # 0 is exact in any form
    )


def asking(prompt: str = "Hello", **fields: object) -> ChatRequest:
    body = {"messages": [{"role": "user", "content": prompt}], **fields}
    return ChatRequest(
        endpoint="chat",
        model="assistant",
        stream=False,
        wants_usage=False,
        max_output_tokens=None,
        choices=1,
        needs=frozenset(),
        prompt_bytes=10,
        fields={name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()},
    )


def route(mode: Mode, *entries: Target | Route) -> Route:
    return Route(Strategy(mode=mode), entries, has_affinity=True)


def standing(in_flight: int = 0, *, ramp: float = 1.0, barred: str | None = None) -> Standing:
    return Standing(barred, None, ramp, in_flight, 0.0, 0.0)


def decided(
    one: Route,
    request: ChatRequest | None = None,
    health: Mapping[str, Standing] | None = None,
    *,
    tenant: str = "acme",
    seed: int = 1,
) -> tuple[str, Decision]:
    """The backends in their order, and why."""
    known = health or {}
    plan, decision = choose(
        request or asking(),
        Estimate(prompt_tokens=10, output_tokens=10),
        policy=Policy(models={}),
        policy_label="standard@1",
        route=one,
        tenant=tenant,
        fleet=FleetView(0.0, {leaf.name: known.get(leaf.backend, standing()) for leaf in one.leaves}),
        seed=seed,
        decision_id="d1",
    )
    return "" if plan is None else "".join(each.backend for each in plan.targets), decision


def test_what_belongs_together_is_the_clients_word_and_else_how_the_prompt_begins() -> None:
    """A key given for the cache says it best, then the end user; null and nothing are no word."""
    plain = key_of("acme", asking())
    by_user, by_key = key_of("acme", asking(user="u1")), key_of("acme", asking(user="u1", prompt_cache_key="k1"))
    assert len({plain, by_user, by_key, key_of("acme", asking(user="u2"))}) == 4
    assert by_user == key_of("acme", asking("another prompt", user="u1"))
    assert by_key == key_of("acme", asking("another prompt", user="u2", prompt_cache_key="k1"))
    assert plain == key_of("acme", asking(user=None)) == key_of("acme", asking(prompt_cache_key="", temperature=2))
    assert key_of("acme", asking(user="k")) != key_of("acme", asking(prompt_cache_key="k"))


def test_the_prompt_of_a_completion_counts_too() -> None:
    def completing(prompt: str) -> ChatRequest:
        fields = {"prompt": msgspec.Raw(msgspec.json.encode(prompt))}
        return msgspec.structs.replace(asking(), endpoint="completions", fields=fields)

    assert key_of("acme", completing("Once")) != key_of("acme", completing("Twice"))
    assert key_of("acme", completing("Once")) == key_of("acme", completing("Once"))


@given(one=TEXTS, other=TEXTS)
def test_prompts_that_begin_alike_belong_together(one: str, other: str) -> None:
    """Alike for a kibibyte: what comes later does not matter."""
    start = "x" * PREFIX_BYTES
    assert key_of("acme", asking(start + one)) == key_of("acme", asking(start + other))


@given(one=TEXTS, tenant=st.sampled_from(["a", "b", "a1"]), other=st.sampled_from(["c", "1", "a-1"]))
def test_tenants_have_no_keys_in_common(one: str, tenant: str, other: str) -> None:
    """So that nobody learns from a quick answer what another tenant asked."""
    assert key_of(tenant, asking(one)) != key_of(other, asking(one))


def test_tenants_do_not_share_placement() -> None:
    """The same prompt of many tenants is spread evenly."""
    one = route("weighted", *map(target, "abcd"))
    found = Counter(decided(one, tenant=f"tenant-{number}")[0][0] for number in range(2000))
    assert all(found[name] / 2000 == pytest.approx(0.25, abs=0.05) for name in "abcd")


@given(prompt=TEXTS, mode=st.sampled_from(sorted(BALANCED)), seeds=st.tuples(st.integers(0), st.integers(0)))
def test_the_same_prompt_goes_to_the_same_target_whatever_else_chance_decides(
    prompt: str, mode: Mode, seeds: tuple[int, int]
) -> None:
    one = route(mode, *map(target, "abcde"))
    (first, decision), (again, _) = (decided(one, asking(prompt), seed=seed % 2**32) for seed in seeds)
    assert first[0] == again[0]
    assert sorted(first) == sorted(again) == list("abcde")
    assert [each.affinity for each in decision.candidates] == ["kept", None, None, None, None]


@given(
    keys=st.lists(KEYS, min_size=1, max_size=50),
    weights=st.lists(st.integers(1, 9), min_size=2, max_size=6),
    data=st.data(),
)
def test_a_place_that_leaves_moves_only_what_belonged_to_it(
    keys: list[int], weights: list[int], data: st.DataObject
) -> None:
    """And one that comes takes only what will be its own; nothing else changes hands."""
    places = list(zip(NAMES, map(float, weights), strict=False))
    gone = data.draw(st.sampled_from(places))
    left = [place for place in places if place != gone]
    for key in keys:
        before = places[preferred(key, places)]
        if before != gone:
            assert left[preferred(key, left)] == before


@given(keys=st.lists(KEYS, min_size=1, max_size=50), ramp=st.floats(0.1, 1.0))
def test_a_place_that_comes_back_takes_its_own_by_and_by(keys: list[int], ramp: float) -> None:
    """With a part of its weight it has a part of its keys, and no others."""
    whole = [(name, 1.0) for name in NAMES]
    part = [("a", ramp), *whole[1:]]
    for key in keys:
        before, after = whole[preferred(key, whole)], part[preferred(key, part)]
        assert before[0] == after[0] or before[0] == "a"


def test_each_place_has_its_part_of_the_keys() -> None:
    places = [("a", 1.0), ("b", 3.0), ("c", 6.0)]
    found = Counter(places[preferred(key_of("acme", asking(str(n))), places)][0] for n in range(5000))
    assert [found[name] / 5000 for name in "abc"] == pytest.approx([0.1, 0.3, 0.6], abs=0.03)


def test_where_a_key_belongs_is_the_same_in_every_process() -> None:
    """Many gateways keep the same caches warm."""
    assert key_of("acme", asking()) == 16967160950545940735
    assert [preferred(key, [(name, 1.0) for name in NAMES]) for key in range(8)] == [0, 2, 1, 4, 5, 2, 5, 2]


@given(
    mode=st.sampled_from(sorted(BALANCED - {"weighted"})),
    weights=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    requests=st.integers(1, 60),
)
def test_one_prompt_of_everybody_does_not_sink_its_target(mode: Mode, weights: list[int], requests: int) -> None:
    """However many come at once, none gets more for this reason than a quarter over the mean, and two."""
    targets = [target(name, weight) for name, weight in zip(NAMES, weights, strict=False)]
    one, mean_weight = route(mode, *targets), sum(weights) / len(weights)
    in_flight = dict.fromkeys(NAMES[: len(weights)], 0)
    for seed in range(requests):
        order, decision = decided(one, None, {name: standing(many) for name, many in in_flight.items()}, seed=seed)
        in_flight[order[0]] += 1
        loads = [in_flight[each.backend] * mean_weight / each.weight for each in targets]
        if decision.candidates[0].affinity == "kept":
            load = (in_flight[order[0]] - 1) * mean_weight / dict(zip(NAMES, weights, strict=False))[order[0]]
            assert load <= LOAD_TIMES * sum(loads) / len(loads) + LOAD_MORE
    assert sum(in_flight.values()) == requests


def test_a_busy_target_is_passed_over_and_the_decision_says_so() -> None:
    one = route("least_busy", *map(target, "abc"))
    order, _ = decided(one)
    home = order[0]
    order, decision = decided(one, None, {home: standing(3)})
    assert order[0] != home
    passed = next(each for each in decision.candidates if each.target == f"{home}/m")
    assert (passed.affinity, passed.rank) == ("passed_over", 2)
    order, _ = decided(one, None, {home: standing(1)})
    assert order[0] == home


BORDERS = [([(1, 1.0), (0, 1.0)], True), ([(3, 1.0), (0, 1.0)], False), ([(60, 60.0), (40, 40.0)], True)]


@pytest.mark.parametrize(("places", "expected"), BORDERS)
def test_load_counts_by_weight(places: list[tuple[int, float]], *, expected: bool) -> None:
    """Weights are relations: percents mean the same as small numbers."""
    assert bears(0, places) is expected
    assert bears(0, [(many, weight * 100) for many, weight in places]) is expected


@pytest.mark.parametrize("mode", sorted(set(RANKS) - BALANCED - {"conditional"}))
def test_an_order_that_means_something_stays_as_it_is(mode: Mode) -> None:
    """Priority and price come before a warm cache."""
    with_it, without = route(mode, *map(target, "abc")), Route(Strategy(mode=mode), tuple(map(target, "abc")))
    for number in range(20):
        request = asking(str(number))
        assert decided(with_it, request, seed=number)[0] == decided(without, request, seed=number)[0]


def test_in_lists_of_lists_each_that_leaves_a_choice_is_asked() -> None:
    """The first group by priority, in it the target by the prompt; a group keeps its keys while one of it is left."""
    inner = Route(Strategy(mode="weighted"), (target("a"), target("b")))
    one = route("priority", inner, target("c"))
    found = {decided(one, asking(str(number)), seed=number)[0] for number in range(40)}
    assert found == {"abc", "bac"}
    two = route("weighted", inner, target("c"))
    for number in range(40):
        request = asking(str(number))
        order, _ = decided(two, request, seed=number)
        without_a, _ = decided(two, request, {"a": standing(barred="cooling")}, seed=number)
        assert without_a[0] == order[0].replace("a", "b")


def test_a_target_that_is_left_out_has_no_keys() -> None:
    """And has them again when it is back."""
    one = route("latency", *map(target, "abc"))
    home = decided(one)[0][0]
    order, decision = decided(one, None, {home: standing(barred="saturated")})
    assert home not in order
    assert decision.candidates[0].affinity == "kept"
    assert decided(one)[0][0] == home
