"""What clients wish of their requests' way: it narrows what the policy allows, and orders what is left."""

from collections.abc import Mapping, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.backend import Prices
from gateway.domain.errors import ContextTooLong, InvalidRequest, Overloaded, RateLimited
from gateway.domain.plan import Decision, Plan, Route, Target
from gateway.domain.policy import Caps, Independence, Policy, Strategy
from gateway.domain.preferences import MaxPrice, Preferences
from gateway.domain.usage import Estimate
from gateway.routing.choose import choose, refusal
from gateway.routing.shares import NOTHING, Used
from gateway.routing.tally import Standing
from tests.routing.test_choose import POLICY, asking, barred, target, view

PRICES = {"a": (4.0, 16.0), "b": (1.0, 4.0), "c": (2.0, 2.0)}


def places(names: str = "abc", *, context: int | None = None) -> list[Target]:
    made = [target(name, context=context) for name in names]
    for each in made:
        asked, answered = PRICES[each.backend]
        prices = Prices(input=asked, output=answered).table()  # type: ignore[arg-type]  # exact in any form
        object.__setattr__(each, "prices", prices)
    return made


def chosen(
    wishes: Preferences,
    targets: Sequence[Target] | None = None,
    *,
    health: Mapping[str, Standing] | None = None,
    policy: Policy = POLICY,
    mode: str = "priority",
    used: Used = NOTHING,
    seed: int = 1,
) -> tuple[Plan | None, Decision]:
    targets = places() if targets is None else targets
    return choose(
        msgspec.structs.replace(asking(), preferences=wishes),
        Estimate(prompt_tokens=100, output_tokens=100),
        policy=policy,
        policy_label="standard@1",
        route=Route(Strategy(mode=mode), tuple(targets)),  # type: ignore[arg-type]  # a table of modes
        tenant="acme",
        fleet=view(targets, {}, health or {}),
        seed=seed,
        decision_id="d1",
        used=used,
    )


def order(plan: Plan | None) -> str:
    return "" if plan is None else "".join(each.backend for each in plan.targets)


TABLE = [
    ("nothing", Preferences(), "abc", {}),
    ("only", Preferences(only=("c", "a")), "ac", {"b": "only"}),
    ("only with a stranger", Preferences(only=("b", "zz")), "b", {"a": "only", "c": "only"}),
    ("ignore", Preferences(ignore=("a", "zz")), "bc", {"a": "ignore"}),
    ("order", Preferences(order=("c", "zz", "b")), "cba", {}),
    ("order, twice", Preferences(order=("c", "b", "c")), "cba", {}),
    ("sort by cost", Preferences(sort="cost"), "cba", {}),
    ("first this, then by cost", Preferences(sort="cost", order=("a",)), "acb", {}),
    ("a price for prompts", Preferences(max_price=MaxPrice(input=2)), "bc", {"a": "max_price"}),
    ("a price for answers", Preferences(max_price=MaxPrice(output=3)), "c", {"a": "max_price", "b": "max_price"}),
]


@pytest.mark.parametrize(("wishes", "left", "removed"), [pytest.param(*row[1:], id=row[0]) for row in TABLE])
def test_wishes_narrow_and_order(wishes: Preferences, left: str, removed: Mapping[str, str]) -> None:
    """Each target that is left out has the wish that removed it."""
    plan, decision = chosen(wishes)
    assert order(plan) == left
    assert {each.target[0]: each.excluded for each in decision.candidates if each.excluded} == {
        name: f"preference:{wish}" for name, wish in removed.items()
    }
    assert decision.strategy == (wishes.sort or "priority")


NAMES = st.lists(st.sampled_from("abcz"), max_size=3).map(tuple)


@given(
    wishes=st.builds(
        Preferences,
        order=NAMES,
        only=st.none() | NAMES,
        ignore=NAMES,
        sort=st.sampled_from([None, "cost", "latency"]),
        max_price=st.none() | st.builds(MaxPrice, input=st.none() | st.floats(0, 5), output=st.none()),
    ),
    mode=st.sampled_from(["priority", "weighted", "latency", "least_busy", "cost"]),
    health=st.dictionaries(st.sampled_from("abc"), st.just(barred("breaker_open", 4.0)), max_size=2),
    seed=st.integers(0, 99),
)
def test_wishes_never_widen(wishes: Preferences, mode: str, health: Mapping[str, Standing], seed: int) -> None:
    """Whatever is wished, nobody is asked who would not be without the wish."""
    without, _ = chosen(Preferences(), health=health, mode=mode, seed=seed)
    plan, decision = chosen(wishes, health=health, mode=mode, seed=seed)
    if not decision.panics:  # Then those that are held are all that the wishes leave.
        assert set(order(plan)) <= set(order(without))
    assert len(decision.candidates) == 3


def test_a_cap_holds_whatever_is_wished() -> None:
    """A client may not make one provider larger than its policy lets it be."""
    policy = msgspec.structs.replace(POLICY, independence=Independence(max_share=Caps(provider=0.5)))
    plan, _ = chosen(Preferences(order=("a",)), policy=policy, used={"a": 900, "b": 50, "c": 50})
    assert order(plan)[0] != "a"
    assert "a" in order(plan)


def test_who_wishes_everybody_away_is_told_so() -> None:
    """Waiting would not help, and it is no fault of a backend."""
    plan, decision = chosen(Preferences(only=("a",), max_price=MaxPrice(input=1)), health={"a": barred("breaker_open")})
    assert plan is None
    error = refusal(decision)
    assert isinstance(error, InvalidRequest)
    assert (error.http_status, error.param) == (400, "gateway")
    assert "`gateway.max_price`, `gateway.only`" in error.message


@pytest.mark.parametrize(
    ("health", "context", "kind"),
    [
        (barred("cooling", 7.0), None, RateLimited),
        (barred("credential_missing"), None, Overloaded),
        (Standing(None, None, 1.0, 0, 0.0, 0.0), 10, ContextTooLong),
    ],
    ids=["cooling", "without a credential", "too long"],
)
def test_where_the_wishes_leave_somebody_the_others_causes_are_told(
    health: Standing, context: int | None, kind: type[Exception]
) -> None:
    """The client can do something about them, or wait."""
    plan, decision = chosen(Preferences(only=("a",)), places(context=context), health={"a": health})
    assert plan is None
    assert isinstance(refusal(decision), kind)
