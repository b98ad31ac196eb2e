"""The routing decision: filters with their reasons, orders, and what is told when nobody is left."""

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.backend import Backend, Capability, Prices, ServedModel
from gateway.domain.chat import ChatRequest
from gateway.domain.errors import ContextTooLong, GatewayError, Overloaded, UnsupportedParameter
from gateway.domain.plan import Candidate, Decision, Plan, Route, Target
from gateway.domain.policy import Policy, Retries, Strategy, Timeouts
from gateway.domain.usage import Estimate
from gateway.routing.choose import choose, refusal
from gateway.routing.fleet import FleetView
from gateway.routing.strategies import RANKS
from gateway.routing.tally import Standing

ALL: tuple[Capability, ...] = ("tools", "json_schema", "vision", "audio", "logprobs", "seed", "stop")
POLICY = Policy(models={}, retries=Retries(attempts=2), timeouts=Timeouts(total=9))


def target(name: str, *, weight: int = 1, accepts: tuple[Capability, ...] = ALL, context: int | None = None) -> Target:
    facts = ServedModel(accepts=accepts, context=context)
    return Target(
        backend=name,
        model="m",
        weight=weight,
        place=Backend(dialect="openai", base_url=f"https://{name}.example/v1", models={"m": facts}),
        facts=facts,
        prices=Prices(input=0, output=0).table(),  # type: ignore[arg-type]  # 0 is exact in any form
    )


def asking(*needs: Capability) -> ChatRequest:
    return ChatRequest(
        endpoint="chat",
        model="assistant",
        stream=False,
        wants_usage=False,
        max_output_tokens=None,
        choices=1,
        needs=frozenset(needs),
        prompt_bytes=10,
        fields={},
    )


WELL = Standing(None, None, 1.0, 0, 0.0, 0.0)
FULL = Standing("saturated", None, 1.0, 4, 0.0, 0.0, is_full=True)
OPEN_AND_FULL = Standing("breaker_open", 4.0, 1.0, 4, 0.0, 0.0, is_full=True)


def barred(reason: str, wait_s: float | None = None) -> Standing:
    return Standing(reason, wait_s, 1.0, 0, 0.0, 0.0)


def view(targets: Sequence[Target], gone: Mapping[str, str], health: Mapping[str, Standing]) -> FleetView:
    """The fleet as tables name it: by backend."""
    standings = {each.backend: WELL for each in targets} | {name: barred(why) for name, why in gone.items()}
    standings |= health
    return FleetView(0.0, {each.name: standings[each.backend] for each in targets})


def chosen(
    *targets: Target,
    needs: tuple[Capability, ...] = (),
    prompt: int = 10,
    unavailable: Mapping[str, str] | None = None,
    health: Mapping[str, Standing] | None = None,
    mode: str = "priority",
    seed: int = 1,
) -> tuple[Plan | None, Decision]:
    return choose(
        asking(*needs),
        Estimate(prompt_tokens=prompt, output_tokens=10_000),
        policy=POLICY,
        policy_label="standard@1",
        route=Route(Strategy(mode=mode), targets),  # type: ignore[arg-type]  # a table of modes
        tenant="acme",
        fleet=view(targets, unavailable or {}, health or {}),
        seed=seed,
        decision_id="d1",
    )


def test_the_plan_has_the_eligible_targets_best_first_and_the_policys_bounds() -> None:
    targets = [target(name) for name in "abc"]
    plan, decision = chosen(*targets)
    assert plan == Plan(targets=tuple(targets), attempts=2, timeouts=POLICY.timeouts, deposit=0.1)
    assert decision == Decision(
        id="d1",
        model="assistant",
        policy="standard@1",
        strategy="priority",
        seed=1,
        candidates=tuple(Candidate(target=f"{name}/m", rank=rank) for rank, name in enumerate("abc")),
    )


FILTERS: list[tuple[str, Target, str | None]] = [
    ("accepts it", target("a", accepts=("tools",)), None),
    ("does not accept it", target("a", accepts=("seed",)), "capability:tools"),
    ("context unknown", target("a"), None),
    ("context suffices", target("a", context=100), None),
    ("within the estimate's margin", target("a", context=80), None),
    ("clearly too long", target("a", context=79), "context"),
    ("unavailable", target("gone"), "credential_missing"),
    ("unavailable comes first", target("gone", accepts=(), context=1), "credential_missing"),
    ("capability before context", target("a", accepts=(), context=1), "capability:tools"),
]


@pytest.mark.parametrize(("one", "reason"), [pytest.param(one, reason, id=name) for name, one, reason in FILTERS])
def test_each_target_is_kept_or_removed_for_one_reason(one: Target, reason: str | None) -> None:
    """A prompt is an estimate until the backend counts it: a quarter over is not too long. Output never excludes."""
    plan, decision = chosen(
        one, target("spare"), needs=("tools",), prompt=100, unavailable={"gone": "credential_missing"}
    )
    assert plan is not None
    kept = one in plan.targets
    assert kept == (reason is None)
    assert Candidate(target=str(one), rank=0 if kept else None, excluded=reason) in decision.candidates
    assert len(decision.candidates) == 2


def test_of_several_missing_capabilities_the_first_by_name_is_told() -> None:
    """The same in every process, however it hashes."""
    _, decision = chosen(target("a", accepts=()), needs=ALL)
    assert decision.candidates[0].excluded == "capability:audio"


TARGETS = st.lists(
    st.builds(
        target,
        st.text("abcdef", min_size=1, max_size=5),
        weight=st.integers(1, 1_000_000),
        accepts=st.lists(st.sampled_from(ALL), unique=True).map(tuple),
        context=st.none() | st.integers(1, 200),
    ),
    min_size=1,
    max_size=8,
    unique_by=str,
)


@given(targets=TARGETS, mode=st.sampled_from(sorted(RANKS)), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_a_decision_can_be_replayed_and_accounts_for_every_target(
    targets: list[Target], mode: str, seed: int, data: st.DataObject
) -> None:
    """The same arguments give the same plan; each target has a rank or a reason, and only one of them."""
    needs = tuple(data.draw(st.lists(st.sampled_from(ALL), unique=True, max_size=2)))
    gone = dict.fromkeys(data.draw(st.lists(st.sampled_from([each.backend for each in targets]))), "down")
    plan, decision = chosen(*targets, needs=needs, prompt=100, unavailable=gone, mode=mode, seed=seed)
    again = chosen(*targets, needs=tuple(reversed(needs)), prompt=100, unavailable=gone, mode=mode, seed=seed)
    assert again == (plan, decision)
    assert sorted(each.target for each in decision.candidates) == sorted(map(str, targets))
    assert all((each.rank is None) == (each.excluded is not None) for each in decision.candidates)
    ranked = [each.target for each in decision.candidates if each.rank is not None]
    assert ranked == ([str(each) for each in plan.targets] if plan else [])
    for each in plan.targets if plan else ():
        assert set(needs) <= set(each.facts.accepts)
        assert each.backend not in gone


WEIGHTS = {"a": 1, "b": 3, "c": 6}
DRAWS = 20_000


def test_first_tries_follow_the_weights() -> None:
    """Within four standard deviations, over many seeds as requests draw them."""
    targets = [target(name, weight=weight) for name, weight in WEIGHTS.items()]
    random = Random(7)
    plans = [chosen(*targets, mode="weighted", seed=random.getrandbits(32))[0] for _ in range(DRAWS)]
    first = Counter(plan.targets[0].backend for plan in plans if plan)
    for name, weight in WEIGHTS.items():
        share = weight / 10
        assert abs(first[name] / DRAWS - share) < 4 * (share * (1 - share) / DRAWS) ** 0.5
    # Where the heaviest fails first, the others share its place by their own weights.
    second = Counter(plan.targets[1].backend for plan in plans if plan and plan.targets[0].backend == "c")
    assert abs(second["b"] / second.total() - 0.75) < 4 * (0.75 * 0.25 / second.total()) ** 0.5


def test_a_removed_target_leaves_its_share_to_the_others() -> None:
    targets = [target(name, weight=weight) for name, weight in WEIGHTS.items()]
    plans = [chosen(*targets, unavailable={"c": "down"}, mode="weighted", seed=seed)[0] for seed in range(4000)]
    first = Counter(plan.targets[0].backend for plan in plans if plan)
    assert first["a"] / 4000 == pytest.approx(0.25, abs=0.03)


def no_tools(name: str) -> Target:
    return target(name, accepts=("seed",))


REFUSALS: list[tuple[str, list[Target], tuple[Capability, ...], type[GatewayError], str, str | None]] = [
    ("nobody can", [no_tools("a"), no_tools("b")], ("tools",), UnsupportedParameter, "unsupported_parameter", "tools"),
    ("schema", [no_tools("a")], ("json_schema",), UnsupportedParameter, "unsupported_parameter", "response_format"),
    ("images", [no_tools("a")], ("vision",), UnsupportedParameter, "unsupported_parameter", "messages"),
    ("too long for all", [target("a", context=9)], (), ContextTooLong, "context_length_exceeded", "messages"),
    (
        "long or unable",
        [target("a", context=9), no_tools("b")],
        ("tools",),
        ContextTooLong,
        "context_length_exceeded",
        "messages",
    ),
    ("gone", [target("gone")], (), Overloaded, "no_backend_available", None),
    ("gone or unable", [target("gone"), no_tools("b")], ("tools",), Overloaded, "no_backend_available", None),
    ("gone or too short", [target("gone"), target("a", context=9)], (), Overloaded, "no_backend_available", None),
]


@pytest.mark.parametrize(
    ("targets", "needs", "error", "code", "param"), [pytest.param(*row, id=name) for name, *row in REFUSALS]
)
def test_what_is_told_when_nobody_is_left(
    targets: list[Target], needs: tuple[Capability, ...], error: type[GatewayError], code: str, param: str | None
) -> None:
    """The caller's own mistake only when no target could take the request; what may pass with time says when."""
    plan, decision = chosen(*targets, needs=needs, prompt=100, unavailable={"gone": "credential_missing"})
    assert plan is None
    told = refusal(decision)
    assert type(told) is error
    assert (told.code, told.param) == (code, param)
    assert (told.retry_after_s is not None) == (told.http_status == 503)
    assert "`assistant`" in told.message
    if isinstance(told, Overloaded):
        assert "gone/m: credential_missing" in told.message


OPEN, BUSY, COOLING = barred("breaker_open", 4.0), barred("half_open_busy"), barred("cooling", 7.0)
NO_KEY, NO_MODEL = barred("credential_ejected", 800.0), barred("model_ejected", 800.0)


def test_a_target_that_is_not_well_is_left_out_with_its_reason() -> None:
    """And with the seconds until it may be asked again."""
    health = {"a": OPEN, "b": BUSY, "c": COOLING, "d": NO_KEY, "e": NO_MODEL}
    plan, decision = chosen(*map(target, "abcdef"), health=health)
    assert plan is not None
    assert [each.backend for each in plan.targets] == ["f"]
    assert not plan.panics
    assert [(each.target, each.excluded, each.wait_s) for each in decision.candidates[1:]] == [
        ("a/m", "breaker_open", 4.0),
        ("b/m", "half_open_busy", None),
        ("c/m", "cooling", 7.0),
        ("d/m", "credential_ejected", 800.0),
        ("e/m", "model_ejected", 800.0),
    ]


def test_the_last_candidates_are_never_left_out_by_their_breakers() -> None:
    """F23: when all that could serve are open, all of them are tried, and the decision says that it was in panic."""
    plan, decision = chosen(*map(target, "abcd"), health={"a": OPEN, "b": BUSY, "c": COOLING, "d": NO_KEY})
    assert plan is not None
    assert plan.panics
    assert decision.panics
    assert [each.backend for each in plan.targets] == ["a", "b"]
    assert [each.target for each in decision.candidates if each.rank is not None] == ["a/m", "b/m"]
    assert {each.target: each.excluded for each in decision.candidates[2:]} == {
        "c/m": "cooling",
        "d/m": "credential_ejected",
    }


def test_what_the_request_needs_is_asked_before_health() -> None:
    """A target that could not serve it anyway is no candidate that may come back."""
    plan, decision = chosen(target("a", accepts=("seed",)), needs=("tools",), health={"a": OPEN})
    assert plan is None
    assert isinstance(refusal(decision), UnsupportedParameter)


LEFT: list[tuple[str, dict[str, Standing], int, str, float | None]] = [
    ("all cool", {"a": COOLING, "b": barred("cooling", 3.0)}, 429, "upstream_rate_limited", 3.0),
    ("one cools, the other cannot", {"a": COOLING, "unable": OPEN}, 429, "upstream_rate_limited", 7.0),
    ("no credential works", {"a": NO_KEY, "b": NO_KEY}, 502, "upstream_auth", None),
    ("one cools, one has no money", {"a": NO_KEY, "b": COOLING}, 503, "no_backend_available", 7.0),
    ("no model", {"a": NO_MODEL}, 503, "no_backend_available", 300.0),
]


@pytest.mark.parametrize(("health", "status", "code", "wait_s"), [pytest.param(*case, id=name) for name, *case in LEFT])
def test_what_is_told_when_nobody_may_be_asked(
    health: dict[str, Standing], status: int, code: str, wait_s: float | None
) -> None:
    """The contract's errors, with the least remaining wait."""
    targets = [target(name, accepts=("seed",) if name == "unable" else ALL) for name in health]
    plan, decision = chosen(*targets, needs=("tools",), health=health)
    assert plan is None
    told = refusal(decision)
    assert (told.http_status, told.code, told.retry_after_s) == (status, code, wait_s)


def test_a_target_at_its_limit_is_left_out() -> None:
    plan, decision = chosen(*map(target, "ab"), health={"a": FULL})
    assert plan is not None
    assert [each.backend for each in plan.targets] == ["b"]
    assert decision.candidates[1] == Candidate("a/m", None, "saturated")


def test_a_good_target_at_its_limit_is_no_reason_to_ask_a_bad_one() -> None:
    """F23: the survivor takes what it bears, and the rest is told to come back."""
    plan, decision = chosen(*map(target, "abc"), health={"a": FULL, "b": OPEN, "c": BUSY})
    assert (plan, decision.panics) == (None, False)
    assert refusal(decision).code == "overloaded"


def test_in_a_panic_limits_hold() -> None:
    """The last targets are tried however bad they are, but not beyond what they bear."""
    plan, decision = chosen(*map(target, "ab"), health={"a": OPEN_AND_FULL, "b": OPEN})
    assert plan is not None
    assert (plan.panics, [each.backend for each in plan.targets]) == (True, ["b"])
    assert decision.candidates[1].excluded == "saturated"
    plan, decision = chosen(target("a"), health={"a": OPEN_AND_FULL})
    assert plan is None
    assert refusal(decision).code == "overloaded"


@pytest.mark.parametrize("other", [WELL, COOLING, NO_KEY, OPEN], ids=lambda standing: str(standing.barred))
def test_when_all_that_could_are_at_their_limits_clients_come_back_one_after_the_other(other: Standing) -> None:
    """In one to three seconds, each at a time of its own, which its decision can repeat."""
    targets = [target("a"), target("b", accepts=())]
    waits = []
    for seed in range(200):
        plan, decision = chosen(*targets, needs=("tools",), health={"a": FULL, "b": other}, seed=seed)
        assert plan is None
        told = refusal(decision)
        assert (told.http_status, told.code) == (503, "overloaded")
        assert refusal(decision).retry_after_s == told.retry_after_s
        waits.append(told.retry_after_s or 0.0)
    assert 1.0 <= min(waits) < 1.1
    assert 2.9 < max(waits) <= 3.0


STANDINGS = st.sampled_from(
    [WELL, FULL, OPEN, OPEN_AND_FULL, BUSY, COOLING, NO_KEY, NO_MODEL, barred("credential_missing")]
)


@given(standings=st.lists(STANDINGS, min_size=1, max_size=6), mode=st.sampled_from(sorted(RANKS)))
def test_health_never_costs_the_last_candidate_unless_it_must(standings: list[Standing], mode: str) -> None:
    """Somebody is asked whenever anybody is well, or merely broken; a panic is only for the latter."""
    names = "abcdef"[: len(standings)]
    health = dict(zip(names, standings, strict=True))
    plan, decision = chosen(*map(target, names), health=health, mode=mode)
    well = {name for name, standing in health.items() if standing.barred is None}
    is_busy = FULL in standings
    held = set() if is_busy else {name for name, standing in health.items() if standing in (OPEN, BUSY)}
    broken = bool(held) or (OPEN_AND_FULL in standings and not is_busy)
    assert (plan is None) == (not well and not held)
    assert plan is None or {each.backend for each in plan.targets} == (well or held)
    assert decision.panics is (not well and broken)
    assert sorted(each.target for each in decision.candidates) == [f"{name}/m" for name in names]
