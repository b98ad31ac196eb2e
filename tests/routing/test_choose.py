"""The routing decision: filters with their reasons, orders, and what is told when nobody is left."""

from collections import Counter
from collections.abc import Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.backend import Backend, Capability, Prices, ServedModel
from gateway.domain.chat import ChatRequest
from gateway.domain.errors import ContextTooLong, GatewayError, Overloaded, UnsupportedParameter
from gateway.domain.plan import Candidate, Decision, Plan, Target
from gateway.domain.policy import Policy, Retries, Strategy, Timeouts
from gateway.domain.usage import Estimate
from gateway.routing.choose import choose, refusal
from gateway.routing.fleet import Fleet, FleetView
from gateway.routing.strategies import ORDERS

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


def chosen(
    *targets: Target,
    needs: tuple[Capability, ...] = (),
    prompt: int = 10,
    unavailable: Mapping[str, str] | None = None,
    mode: str = "priority",
    seed: int = 1,
) -> tuple[Plan | None, Decision]:
    return choose(
        asking(*needs),
        Estimate(prompt_tokens=prompt, output_tokens=10_000),
        policy=POLICY,
        policy_label="standard@1",
        strategy=Strategy(mode=mode),  # type: ignore[arg-type]  # a table of modes
        targets=targets,
        fleet=FleetView(unavailable=unavailable or {}),
        seed=seed,
        decision_id="d1",
    )


def test_the_plan_has_the_eligible_targets_best_first_and_the_policys_bounds() -> None:
    targets = [target(name) for name in "abc"]
    plan, decision = chosen(*targets)
    assert plan == Plan(targets=tuple(targets), attempts=2, timeouts=POLICY.timeouts)
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


@given(targets=TARGETS, mode=st.sampled_from(sorted(ORDERS)), seed=st.integers(0, 2**32 - 1), data=st.data())
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


@given(targets=TARGETS, seed=st.integers(0, 2**32 - 1))
def test_every_order_keeps_every_target_once(targets: list[Target], seed: int) -> None:
    for order in ORDERS.values():
        assert sorted(map(str, order(targets, seed))) == sorted(map(str, targets))
    assert ORDERS["priority"](targets, seed) == targets


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


def test_a_view_of_the_fleet_does_not_change() -> None:
    """A decision sees one moment."""
    missing = {"a": "credential_missing"}
    fleet = Fleet(missing)
    view = fleet.view()
    missing["b"] = "down"
    assert dict(view.unavailable) == {"a": "credential_missing"}
    assert repr(fleet) == "Fleet(unavailable: a: credential_missing)"
    assert repr(Fleet({})) == "Fleet(unavailable: none)"
