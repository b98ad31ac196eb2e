"""What the fleet makes of every fault, and what a view of it shows."""

import pytest

from gateway.domain.backend import Backend, Prices, ServedModel
from gateway.domain.fault import EFFECT, NO_EFFECT, RECOURSE, Fault, FaultKind, Phase, Recourse
from gateway.domain.ledger import Outcome
from gateway.domain.plan import Target
from gateway.routing.concurrency import START
from gateway.routing.fleet import Fleet, expected_s
from gateway.routing.tally import Standing

K = FaultKind
T = 1000.0


def target(backend: str, model: str = "m", weight: int = 1) -> Target:
    facts = ServedModel()
    return Target(
        backend=backend,
        model=model,
        weight=weight,
        place=Backend(dialect="openai", base_url=f"https://{backend}.example/v1", models={model: facts}),
        facts=facts,
        prices=Prices(input=0, output=0).table(),  # type: ignore[arg-type]  # 0 is exact in any form
    )


A, A2, B = target("a"), target("a", "other"), target("b")


def fleet() -> Fleet:
    return Fleet({}, draw=lambda: 0.5)


def fault(kind: FaultKind, wait_s: float | None = None, phase: Phase | None = None) -> Fault:
    return Fault(kind=kind, message="as scripted", retry_after_s=wait_s, phase=phase)


def fails(house: Fleet, where: Target, what: Fault, *, times: int = 1, now: float = T) -> None:
    for _ in range(times):
        epoch = house.dispatched(where, now)
        finish(house, where, epoch, now, what)


def answers(house: Fleet, where: Target, now: float = T) -> None:
    finish(house, where, house.dispatched(where, now), now)


def finish(
    house: Fleet, where: Target, epoch: int, now: float, what: Fault | None = None, *, outcome: Outcome | None = None
) -> None:
    ended = outcome or (Outcome.OK if what is None else Outcome.FAILED)
    house.finished(where, epoch, now, outcome=ended, fault=what, waited_s=20.0, prompt_tokens=0)


def seen(house: Fleet, where: Target, now: float = T) -> Standing:
    return house.view([where], now).standings[where.name]


def test_every_kind_of_fault_has_its_effect() -> None:
    """And what may be tried elsewhere costs a token of the budget, unless the backend never saw it."""
    assert set(EFFECT) == set(RECOURSE) == set(FaultKind)
    free = {kind for kind in FaultKind if EFFECT[kind].retry_cost == 0 and RECOURSE[kind] is not Recourse.NONE}
    assert free == {K.CONNECT, K.LIMITED, K.SATURATED, K.STALE, K.TLS}
    assert all(EFFECT[kind] is NO_EFFECT for kind in FaultKind if RECOURSE[kind] is Recourse.NONE)


JUDGED: list[tuple[FaultKind, Phase | None, int, str | None, str | None, str | None]] = [
    # After so many: what bars this target, another model of the backend, another backend.
    (K.CONNECT, None, 3, "breaker_open", None, None),
    (K.TLS, None, 3, "breaker_open", None, None),
    (K.TIMEOUT, "connect", 3, "breaker_open", None, None),
    (K.TIMEOUT, "first_token", 5, "breaker_open", None, None),
    (K.TIMEOUT, "idle", 5, "breaker_open", None, None),
    (K.TIMEOUT, "progress", 5, "breaker_open", None, None),
    (K.TIMEOUT, "total", 50, None, None, None),
    (K.SATURATED, None, 50, None, None, None),
    (K.STALE, None, 50, None, None, None),
    (K.LOST, None, 5, "breaker_open", None, None),
    (K.PROTOCOL, None, 5, "breaker_open", None, None),
    (K.TRUNCATED, None, 5, "breaker_open", None, None),
    (K.SERVER_ERROR, None, 5, "breaker_open", None, None),
    (K.OVERLOADED, None, 5, "breaker_open", None, None),
    (K.RATE_LIMITED, None, 1, "cooling", None, None),
    (K.QUOTA, None, 1, "credential_ejected", "credential_ejected", None),
    (K.AUTH, None, 1, "credential_ejected", "credential_ejected", None),
    (K.MODEL_MISSING, None, 1, "model_ejected", None, None),
    (K.REJECTED, None, 50, None, None, None),
    (K.CONTEXT, None, 50, None, None, None),
    (K.CONTENT_FILTER, None, 50, None, None, None),
]


@pytest.mark.parametrize(
    ("kind", "phase", "times", "here", "sibling", "elsewhere"),
    JUDGED,
    ids=[f"{kind} {phase or ''}".strip() for kind, phase, *_ in JUDGED],
)
def test_what_a_fault_bars(
    *, kind: FaultKind, phase: Phase | None, times: int, here: str | None, sibling: str | None, elsewhere: str | None
) -> None:
    """After that many of them, and not one earlier."""
    house = fleet()
    fails(house, A, fault(kind, phase=phase), times=times - 1)
    assert seen(house, A).barred is None
    fails(house, A, fault(kind, phase=phase))
    assert [seen(house, each).barred for each in (A, A2, B)] == [here, sibling, elsewhere]
    assert house.is_open_to(A, T) is (here is None)
    assert house.is_open_to(A, T, panics=True) is (here in {None, "breaker_open"})


@pytest.mark.parametrize(
    ("kind", "length_s"), [(K.RATE_LIMITED, 7.0), (K.AUTH, 900.0), (K.QUOTA, 900.0), (K.MODEL_MISSING, 900.0)]
)
def test_what_is_barred_comes_back_in_time(kind: FaultKind, length_s: float) -> None:
    """F6, F8, F24: after a quarter of an hour one request finds out whether somebody has acted."""
    house = fleet()
    fails(house, A, fault(kind, 7.0))
    assert seen(house, A, T + length_s - 1).wait_s == pytest.approx(1)
    assert seen(house, A, T + length_s).barred is None


def test_a_success_ends_no_cooldown_and_no_ejection() -> None:
    """What began before we were refused may still end well."""
    house = fleet()
    epoch = house.dispatched(A, T)
    fails(house, A, fault(K.RATE_LIMITED, 7.0))
    finish(house, A, epoch, T)
    assert seen(house, A).barred == "cooling"


@pytest.mark.parametrize("outcome", [Outcome.CLIENT_GONE, Outcome.SHUTDOWN])
def test_a_client_that_leaves_says_nothing_of_the_backend(outcome: Outcome) -> None:
    house = fleet()
    fails(house, A, fault(K.LOST), times=4)
    finish(house, A, house.dispatched(A, T), T, outcome=outcome)
    assert seen(house, A).barred is None
    fails(house, A, fault(K.LOST))
    assert seen(house, A).barred == "breaker_open"


def test_a_rejected_request_shows_a_sound_backend() -> None:
    """Somebody's wrong requests must not keep a breaker half open."""
    house = fleet()
    fails(house, A, fault(K.LOST), times=5)
    fails(house, A, fault(K.REJECTED), times=3, now=T + 6)
    assert seen(house, A, T + 6).ramp == 0.1


def test_in_flight_counts_what_began_and_has_not_ended() -> None:
    house = fleet()
    epochs = [house.dispatched(A, T) for _ in range(3)]
    assert [seen(house, each).in_flight for each in (A, B)] == [3, 0]
    for epoch in epochs:
        finish(house, A, epoch, T)
    assert seen(house, A).in_flight == 0


def test_the_same_model_at_the_same_backend_is_one_target_however_it_is_listed() -> None:
    """Another weight in another route is no other machine."""
    house = fleet()
    fails(house, A, fault(K.LOST), times=5)
    assert seen(house, target("a", weight=7)).barred == "breaker_open"


def test_latency_takes_the_worse_at_once_and_the_better_by_and_by() -> None:
    """Peak-EWMA with a decay of ten seconds, in units of what the prompt's length lets expect."""
    house = fleet()
    house.answered(A, 0, T, ttft_s=2 * expected_s(8000), prompt_tokens=8000)
    assert seen(house, A).latency == pytest.approx(2.0)
    house.answered(A, 0, T, ttft_s=1 * expected_s(0), prompt_tokens=0)
    assert seen(house, A).latency == pytest.approx(2.0)
    house.answered(A, 0, T + 10, ttft_s=1 * expected_s(0), prompt_tokens=0)
    assert seen(house, A).latency == pytest.approx(1.0)
    house.answered(A, 0, T + 20, ttft_s=0.1 * expected_s(0), prompt_tokens=0)
    assert 0.36 < seen(house, A).latency < 0.44
    house.answered(A, 0, T + 20, ttft_s=9 * expected_s(0), prompt_tokens=0)
    assert seen(house, A).latency == pytest.approx(9.0)


def test_a_failure_enters_the_latency_as_what_it_would_have_cost_to_wait() -> None:
    house = fleet()
    fails(house, A, fault(K.SERVER_ERROR))
    fails(house, B, fault(K.RATE_LIMITED))
    assert seen(house, A).latency == pytest.approx(20.0 / expected_s(0))
    assert seen(house, B).latency == 0.0


def test_a_view_of_the_fleet_does_not_change() -> None:
    """A decision sees one moment."""
    house = fleet()
    view = house.view([A, B], T)
    fails(house, A, fault(K.LOST), times=5)
    assert [each.barred for each in view.standings.values()] == [None, None]
    assert set(view.standings) == {"a/m", "b/m"}


def test_troubles_name_backends_and_targets_that_are_not_well() -> None:
    """What `/readyz` shows: nothing of a fleet in good health."""
    house = Fleet({"gone": "credential_missing"}, draw=lambda: 0.5)
    missing = {"gone": "credential_missing"}
    answers(house, B)
    house.view([target("gone")], T)
    assert house.troubles(T) == missing
    fails(house, A, fault(K.LOST), times=5)
    fails(house, B, fault(K.RATE_LIMITED, 9.0))
    fails(house, target("c"), fault(K.AUTH))
    fails(house, target("d"), fault(K.MODEL_MISSING))
    assert house.troubles(T) == missing | {
        "a/m": "breaker_open",
        "b/m": "cooling",
        "c": "credential_ejected",
        "d/m": "model_ejected",
    }
    answers(house, A, T + 6)
    assert house.troubles(T + 1000) == missing | {"a/m": "half_open"}
    assert repr(house) == "Fleet(5 targets seen, unavailable: gone: credential_missing)"


def test_a_lost_credential_bars_its_backend_until_it_is_restored() -> None:
    """Though no request was ever sent there: whoever fetches it knows before one fails."""
    house = fleet()
    house.lost("a", T)
    house.lost("c", T)
    view = house.view([A, B], T)
    assert [view.standings[name].barred for name in ("a/m", "b/m")] == ["credential_ejected", None]
    assert house.troubles(T) == {"a": "credential_ejected", "c": "credential_ejected"}
    house.restored("a")
    house.restored("b")
    assert house.view([A], T).standings["a/m"].barred is None
    assert house.troubles(T) == {"c": "credential_ejected"}


def begun(house: Fleet, where: Target, many: int, now: float = T) -> list[int]:
    return [house.dispatched(where, now) for _ in range(many)]


def test_a_target_works_on_no_more_than_its_limit() -> None:
    """And has room again with the first answer."""
    house = fleet()
    epochs = begun(house, A, int(START) - 1)
    assert (seen(house, A).barred, house.has_room(A)) == (None, True)
    epochs += begun(house, A, 1)
    assert (seen(house, A).barred, house.has_room(A), house.is_open_to(A, T)) == ("saturated", False, False)
    assert seen(house, B).barred is None
    finish(house, A, epochs.pop(), T, outcome=Outcome.CLIENT_GONE)
    assert seen(house, A).barred is None


def test_a_panic_does_not_overrule_a_limit() -> None:
    house = fleet()
    fails(house, A, fault(K.LOST), times=5)
    assert house.is_open_to(A, T, panics=True)
    begun(house, A, int(START))
    assert (seen(house, A).barred, seen(house, A).is_full) == ("breaker_open", True)
    assert not house.is_open_to(A, T, panics=True)


LOADED: list[tuple[FaultKind, Phase | None, bool]] = [
    (K.OVERLOADED, None, True),
    (K.RATE_LIMITED, None, True),
    (K.TIMEOUT, "first_token", True),
    (K.TIMEOUT, "idle", True),
    (K.TIMEOUT, "connect", False),
    (K.TIMEOUT, "total", False),
    (K.SERVER_ERROR, None, False),
    (K.SATURATED, None, False),
    (K.REJECTED, None, False),
]


@pytest.mark.parametrize(("kind", "phase", "cuts"), LOADED)
def test_what_may_come_of_too_much_load_lowers_the_limit(*, kind: FaultKind, phase: Phase | None, cuts: bool) -> None:
    house = fleet()
    begun(house, A, int(0.7 * START))
    fails(house, A, fault(kind, phase=phase))
    later = T + 100  # The cooldown is over.
    assert house.has_room(A) is not cuts
    assert seen(house, A, later).is_full is cuts


def test_half_open_probes_teach_nothing_of_the_limit() -> None:
    """They are few because we hold the others back."""
    house = fleet()
    fails(house, A, fault(K.LOST), times=5)
    begun(house, A, int(0.7 * START))  # in a panic
    fails(house, A, fault(K.OVERLOADED), now=T + 6)
    assert house.has_room(A)


def test_a_backend_is_in_doubt_while_a_breaker_of_it_has_opened_and_nobody_finds_out() -> None:
    """Not while a request does, nor for a reason that no look could lift."""
    house = fleet()
    fails(house, A2, fault(K.LOST), times=5)
    answers(house, A)
    fails(house, B, fault(K.RATE_LIMITED, 9.0))
    assert house.suspects(T) == {"a"}
    assert house.suspects(T + 6) == {"a"}
    epoch = house.dispatched(A2, T + 6)
    assert house.suspects(T + 6) == set()
    finish(house, A2, epoch, T + 6, outcome=Outcome.CLIENT_GONE)
    assert house.suspects(T + 6) == {"a"}
    fails(house, A, fault(K.AUTH), now=T + 6)
    assert house.suspects(T + 6) == set()


def test_a_backend_that_answers_a_look_may_be_tried_with_each_of_its_models() -> None:
    """One request each, and no other backend."""
    house = fleet()
    for where in (A, A2, B):
        fails(house, where, fault(K.LOST), times=5)
    house.reached("a", T)
    assert [seen(house, where).barred for where in (A, A2, B)] == [None, None, "breaker_open"]
    house.dispatched(A, T)
    assert [seen(house, where).barred for where in (A, A2)] == ["half_open_busy", None]
