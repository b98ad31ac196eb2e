"""What a limit means, by table, by property and against a model that is too simple to be wrong."""

from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admission.limits import MOST_DEBT_S, SLOT_WAIT_S, Denied, Dimension, Granted, Kind, Used
from gateway.admission.tally import Tally

START = 1_700_000_000.0
TTL_S = 60.0


def requests(limit: int = 60, key: str = "r") -> Dimension:
    return Dimension(key, "requests", limit, limit / 60, 1)


def tokens(cost: int, limit: int = 600, key: str = "t") -> Dimension:
    return Dimension(key, "tokens", limit, limit / 60, cost)


def slots(limit: int, key: str = "c") -> Dimension:
    return Dimension(key, "concurrency", limit, 0.0, 1)


def budget(cost: int, limit: int = 1000, key: str = "b", ends_at: float = START + 3600) -> Dimension:
    return Dimension(key, "budget_usd", limit, 0.0, cost, ends_at)


def tokens_used(amount: int) -> Used:
    return Used(tokens=amount)


def nano_usd(amount: int) -> Used:
    return Used(nano_usd=amount)


def remaining(answer: Granted | Denied) -> list[int]:
    return [level.remaining for level in answer.levels]


def test_two_hundred_requests_at_once_at_a_bucket_worth_fifty_admit_fifty() -> None:
    """A burst gets what is in the bucket and not one more."""
    limiter = Tally()
    answers = [limiter.reserve(f"r{n}", (requests(50),), START, TTL_S) for n in range(200)]
    assert [isinstance(answer, Granted) for answer in answers] == [True] * 50 + [False] * 150


def test_levels_of_every_dimension_come_with_the_grant() -> None:
    """The headers need no second call: what is left, and the seconds until the bucket is full."""
    granted = Tally().reserve("a", (requests(60), tokens(120, 600), slots(4)), START, TTL_S)
    assert [(level.kind, level.limit, level.remaining, level.reset_s) for level in granted.levels] == [
        ("requests", 60, 59, 1.0),
        ("tokens", 600, 480, 12.0),
        ("concurrency", 4, 3, 0.0),
    ]


def test_a_denial_consumes_nothing() -> None:
    """The dimensions that would have granted are left as they were."""
    limiter = Tally()
    dimensions = (requests(60), tokens(400, 600), slots(4))
    limiter.reserve("a", dimensions, START, TTL_S)
    denied = limiter.reserve("b", dimensions, START, TTL_S)
    assert isinstance(denied, Denied)
    assert remaining(denied) == [59, 200, 3]
    assert limiter.outstanding(START) == 1


def test_the_wait_named_by_a_denial_is_exact() -> None:
    """One millisecond before it the request is still denied; at it, granted."""
    limiter = Tally()
    limiter.reserve("a", (tokens(500, 600),), START, TTL_S)
    denied = limiter.reserve("b", (tokens(123, 600),), START, TTL_S)
    assert isinstance(denied, Denied)
    assert denied.retry_after_s is not None
    assert denied.retry_after_s == pytest.approx(2.3)
    assert isinstance(limiter.reserve("c", (tokens(123, 600),), START + 2.299, TTL_S), Denied)
    assert isinstance(limiter.reserve("d", (tokens(123, 600),), START + denied.retry_after_s, TTL_S), Granted)


def test_the_longest_wait_is_the_one_that_is_named() -> None:
    """Whoever waits for the shortest would only be denied again."""
    limiter = Tally()
    dimensions = (tokens(10, 10, "small"), tokens(600, 600, "large"))
    limiter.reserve("a", (*dimensions, requests(1)), START, TTL_S)
    denied = limiter.reserve("b", (tokens(1, 10, "small"), tokens(500, 600, "large"), requests(1)), START, TTL_S)
    assert isinstance(denied, Denied)
    assert denied.dimension.kind == "requests"
    assert denied.retry_after_s == 60.0


def test_a_cost_beyond_the_capacity_is_told_from_one_that_can_wait() -> None:
    """No wait would help, so none is named, even though another dimension could be waited for."""
    limiter = Tally()
    limiter.reserve("a", (requests(1),), START, TTL_S)
    denied = limiter.reserve("b", (requests(1), tokens(601, 600)), START, TTL_S)
    assert isinstance(denied, Denied)
    assert denied.retry_after_s is None
    assert denied.dimension.kind == "tokens"


def test_settling_gives_back_what_was_not_used() -> None:
    """Tokens are corrected; the request stays counted."""
    limiter = Tally()
    limiter.reserve("a", (requests(60), tokens(500)), START, TTL_S)
    assert limiter.settle("a", tokens_used(100), START) == "settled"
    assert remaining(limiter.reserve("b", (requests(60), tokens(0)), START, TTL_S)) == [58, 500]


def test_settling_for_more_than_was_reserved_puts_the_bucket_into_debt() -> None:
    """The debt is paid by refilling before anything is granted again."""
    limiter = Tally()
    limiter.reserve("a", (tokens(600),), START, TTL_S)
    limiter.settle("a", tokens_used(1200), START)
    denied = limiter.reserve("b", (tokens(1),), START, TTL_S)
    assert isinstance(denied, Denied)
    assert denied.retry_after_s == pytest.approx(60.1)
    assert (denied.levels[0].remaining, denied.levels[0].reset_s) == (0, 120.0)


def test_a_refund_never_fills_a_bucket_beyond_its_capacity() -> None:
    """What refilled meanwhile is not added on top."""
    limiter = Tally()
    limiter.reserve("a", (tokens(500),), START, 600.0)
    limiter.settle("a", tokens_used(0), START + 300)
    assert remaining(limiter.reserve("b", (tokens(0),), START + 300, TTL_S)) == [600]


def test_a_second_settlement_changes_nothing() -> None:
    """Only the first counts, and the caller learns which it was."""
    limiter = Tally()
    limiter.reserve("a", (tokens(500), slots(1)), START, TTL_S)
    assert limiter.settle("a", tokens_used(100), START) == "settled"
    assert limiter.settle("a", tokens_used(100), START) == "repeated"
    assert limiter.settle("never reserved", tokens_used(100), START) == "repeated"
    assert remaining(limiter.reserve("b", (tokens(0), slots(1)), START, TTL_S)) == [500, 0]


@pytest.mark.parametrize("settled", [False, True])
def test_a_repeated_reservation_is_granted_and_takes_nothing(settled: bool) -> None:
    """Also when it is closed already: a late repetition must not open it again."""
    limiter = Tally()
    dimensions = (requests(60), tokens(300), slots(1))
    limiter.reserve("a", dimensions, START, TTL_S)
    if settled:
        limiter.settle("a", tokens_used(300), START)
    again = limiter.reserve("a", dimensions, START, TTL_S)
    assert isinstance(again, Granted)
    assert remaining(again) == [59, 300, 1 if settled else 0]
    assert limiter.outstanding(START) == (0 if settled else 1)


def test_concurrency_counts_requests_in_flight() -> None:
    """A slot is free again as soon as its holder settles."""
    limiter = Tally()
    limiter.reserve("a", (slots(1),), START, TTL_S)
    denied = limiter.reserve("b", (slots(1),), START, TTL_S)
    assert isinstance(denied, Denied)
    assert denied.retry_after_s == SLOT_WAIT_S
    limiter.settle("a", tokens_used(0), START)
    assert isinstance(limiter.reserve("c", (slots(1),), START, TTL_S), Granted)


def test_a_vanished_holder_frees_its_slot_by_expiring() -> None:
    """However many leases expired at once, they deny nobody; what they reserved in buckets stands."""
    limiter = Tally()
    for n in range(500):
        limiter.reserve(f"r{n}", (slots(500), tokens(1, 600)), START, TTL_S)
    assert isinstance(limiter.reserve("x", (slots(500),), START + TTL_S - 0.001, TTL_S), Denied)
    assert isinstance(limiter.reserve("y", (slots(1),), START + TTL_S, TTL_S), Granted)  # fewer than expired
    assert limiter.outstanding(START + TTL_S) == 1


def test_settling_after_the_lease_expired_frees_and_refunds_nothing_twice() -> None:
    """The tokens reserved stand as the charge, whether or not a sweep has seen the expiry before."""
    for swept in (False, True):
        limiter = Tally()
        limiter.reserve("a", (tokens(600, 6000), slots(2)), START, TTL_S)
        now = START + TTL_S
        if swept:
            limiter.reserve("other", (), now, TTL_S)
        assert limiter.settle("a", tokens_used(0), now) == "late"
        assert remaining(limiter.reserve("b", (tokens(0, 6000), slots(2)), now, TTL_S)) == [6000, 1]


def test_a_renewed_lease_lives_on() -> None:
    """A long stream keeps its slot as long as it renews; an expired one cannot be revived."""
    limiter = Tally()
    limiter.reserve("a", (slots(1),), START, 10.0)
    assert limiter.renew("a", START + 9, 10.0)
    assert isinstance(limiter.reserve("b", (slots(1),), START + 18, TTL_S), Denied)
    assert not limiter.renew("a", START + 19, 10.0)
    assert isinstance(limiter.reserve("c", (slots(1),), START + 19, TTL_S), Granted)
    assert not limiter.renew("unknown", START, 10.0)


def test_a_clock_that_steps_back_refills_nothing_twice() -> None:
    """The time between the two readings counts once."""
    limiter = Tally()
    limiter.reserve("a", (tokens(600),), START, TTL_S)
    for now, expected in ((START + 10, 100), (START, 100), (START + 10, 100), (START + 11, 110)):
        assert remaining(limiter.reserve(f"at {now}", (tokens(599),), now, TTL_S)) == [expected]


def test_a_changed_limit_holds_from_the_next_request_on() -> None:
    """A lower one caps what is left; a refund of the old time does not lift the level above it."""
    limiter = Tally()
    limiter.reserve("a", (tokens(500, 600),), START, TTL_S)
    assert remaining(limiter.reserve("b", (tokens(0, 60),), START, TTL_S)) == [60]
    limiter.settle("a", tokens_used(0), START)
    assert remaining(limiter.reserve("c", (tokens(0, 60),), START, TTL_S)) == [60]


def test_a_request_without_limits_holds_a_reservation_all_the_same() -> None:
    """Nothing is sent upstream for a request that holds none."""
    limiter = Tally()
    assert limiter.reserve("a", (), START, TTL_S) == Granted("a", ())
    assert limiter.outstanding(START) == 1
    assert limiter.settle("a", tokens_used(10), START) == "settled"


def test_input_output_and_money_are_charged_each_with_its_own_amount() -> None:
    """One settlement corrects every kind of dimension by the field that it counts."""
    limiter = Tally()
    kinds: tuple[Kind, ...] = ("tokens", "input_tokens", "output_tokens")
    buckets = tuple(Dimension(kind, kind, 600, 10.0, 100) for kind in kinds)
    counters = (budget(100), Dimension("bt", "budget_tokens", 1000, 0.0, 100, START + 3600))
    limiter.reserve("a", (*buckets, *counters), START, TTL_S)
    limiter.settle("a", Used(tokens=30, input_tokens=20, output_tokens=10, nano_usd=7), START)
    free = tuple(msgspec.structs.replace(dimension, cost=0) for dimension in (*buckets, *counters))
    assert remaining(limiter.reserve("b", free, START, TTL_S)) == [570, 580, 590, 993, 970]


def test_a_budget_never_refills_and_says_when_its_period_ends() -> None:
    """The wait is to the end of the period, however little is missing."""
    limiter = Tally()
    limiter.reserve("a", (budget(900),), START, TTL_S)
    limiter.settle("a", nano_usd(950), START)
    denied = limiter.reserve("b", (budget(51),), START + 600, TTL_S)
    assert isinstance(denied, Denied)
    assert (denied.retry_after_s, denied.levels[0].remaining, denied.levels[0].reset_s) == (3000.0, 50, 3000.0)
    assert isinstance(limiter.reserve("c", (budget(50),), START + 600, TTL_S), Granted)


def test_a_request_dearer_than_the_whole_budget_can_never_be_granted() -> None:
    denied = Tally().reserve("a", (budget(1001),), START, TTL_S)
    assert isinstance(denied, Denied)
    assert denied.retry_after_s is None


def test_what_a_vanished_holder_reserved_of_a_budget_comes_back() -> None:
    """Else crashes would eat the budget; a denial looks for expired leases first."""
    limiter = Tally()
    for n in range(100):
        limiter.reserve(f"r{n}", (budget(10),), START, TTL_S)
    assert isinstance(limiter.reserve("x", (budget(1),), START + TTL_S - 0.001, TTL_S), Denied)
    assert isinstance(limiter.reserve("y", (budget(1000),), START + TTL_S, TTL_S), Granted)


@pytest.mark.parametrize("swept", [False, True])
def test_a_settlement_after_the_lease_expired_is_charged_to_the_budget_once(swept: bool) -> None:
    """In full, because the reservation was given back; never a second time."""
    limiter = Tally()
    limiter.reserve("a", (budget(400),), START, TTL_S)
    now = START + TTL_S
    if swept:
        limiter.reserve("other", (), now, TTL_S)
    assert [limiter.settle("a", nano_usd(300), now) for _ in range(3)] == ["late", "repeated", "repeated"]
    assert remaining(limiter.reserve("b", (budget(0),), now, TTL_S)) == [700]


def test_a_settlement_of_another_process_is_charged_to_the_budget_once() -> None:
    """Its journal names the dimensions. A counter that is missing is left to whoever seeds it from the ledger."""
    limiter = Tally()
    assert limiter.settle("theirs", nano_usd(300), START, (budget(400), tokens(10))) == "late"
    limiter.seed("b", 300, START + 3600)
    assert limiter.settle("theirs too", nano_usd(50), START, (budget(400),)) == "late"
    assert limiter.settle("theirs too", nano_usd(50), START, (budget(400),)) == "repeated"
    assert remaining(limiter.reserve("b", (budget(0), tokens(0)), START, TTL_S)) == [650, 600]


def test_seeding_begins_a_counter_and_changes_none() -> None:
    limiter = Tally()
    assert limiter.seed("b", 600, START + 3600)
    assert not limiter.seed("b", 10, START + 3600)
    assert remaining(limiter.reserve("a", (budget(100),), START, TTL_S)) == [300]


def test_growing_charges_more_at_once_and_the_settlement_corrects_it() -> None:
    """Nothing is denied; a repeated call changes nothing, because it names the total."""
    limiter = Tally()
    limiter.reserve("a", (requests(60), tokens(500), slots(1), budget(900)), START, TTL_S)
    for _ in range(2):
        assert limiter.grow("a", Used(tokens=200, nano_usd=200), START)
    assert remaining(limiter.reserve("b", (tokens(0), budget(0)), START, TTL_S)) == [0, 0]
    limiter.settle("a", Used(tokens=550, nano_usd=950), START)
    assert remaining(limiter.reserve("c", (requests(60), tokens(0), budget(0)), START, TTL_S)) == [58, 50, 50]
    assert not limiter.grow("a", Used(tokens=900), START)


def test_what_a_vanished_holder_grew_by_comes_back_too() -> None:
    limiter = Tally()
    limiter.reserve("a", (budget(400),), START, TTL_S)
    limiter.grow("a", nano_usd(500), START)
    assert not limiter.grow("a", nano_usd(600), START + TTL_S)
    assert remaining(limiter.reserve("b", (budget(0),), START + TTL_S, TTL_S)) == [1000]


def test_debt_is_bounded() -> None:
    """A wrong guess of a million tokens locks nobody out for days; a level below the bound is not lifted to it."""
    limiter = Tally()
    limiter.reserve("a", (tokens(600),), START, TTL_S)
    limiter.settle("a", tokens_used(1_000_000), START)
    denied = limiter.reserve("b", (tokens(0),), START, TTL_S)
    assert isinstance(denied, Denied)
    assert denied.retry_after_s == MOST_DEBT_S


def test_memory_stays_bounded() -> None:
    """Full buckets, closed reservations and stale expiries are forgotten; their number does not grow with traffic."""
    limiter = Tally()
    limiter.reserve("busy", (tokens(599, 600, "busy"),), START, TTL_S)
    for n in range(3_000):  # at one moment: looks at all buckets several times, may forget none that is not full
        limiter.reserve(f"same moment {n}", (tokens(0, 600, f"full {n}"),), START, TTL_S)
    assert remaining(limiter.reserve("again", (tokens(0, 600, "busy"),), START, TTL_S)) == [1]
    for n in range(100_000):
        now = START + n
        limiter.reserve(f"r{n}", (requests(60, f"tenant {n}"), slots(4, f"slots {n}")), now, 1e9)
        limiter.settle(f"r{n}", tokens_used(0), now)
        limiter.reserve(f"b{n}", (budget(1, key=f"budget {n}", ends_at=now + 60),), now, 60.0)
        limiter.settle(f"b{n}", nano_usd(1), now)
    assert len(limiter._buckets) < 2_100  # inside, because memory is what is promised
    assert len(limiter._expiries) < 2_100
    assert len(limiter._counters) < 16_000  # an hour of them, at most twice
    assert len(limiter._closed) + len(limiter._closed_before) <= 65_536
    assert limiter.outstanding(START + 1e5) == 0
    assert not limiter._taken


def test_it_says_what_it_holds() -> None:
    """For the failure messages of tests."""
    limiter = Tally()
    limiter.reserve("a", (requests(), tokens(1)), START, TTL_S)
    assert repr(limiter) == "Tally(1 outstanding, 2 buckets, 0 budgets)"


# Commands for the properties: (verb, reservation, tokens, milliseconds since the command before).
Command = tuple[str, int, int, int]
commands = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "settle", "renew"]),
        st.integers(0, 9),
        st.integers(0, 700),
        st.sampled_from([0, 0, 1, 250, 5_000, 61_000]),
    ),
    max_size=60,
)
DIMENSIONS = (Dimension("r", "requests", 6, 0.5, 1), Dimension("c", "concurrency", 3, 0.0, 1))


def dimensions_for(cost: int) -> tuple[Dimension, ...]:
    return (*DIMENSIONS, Dimension("t", "tokens", 600, 10.0, cost))


class Model:
    """The same rules with exact arithmetic, no sweeping and no forgetting."""

    def __init__(self) -> None:
        self.requests = Fraction(6)
        self.tokens = Fraction(600)
        self.live: dict[str, tuple[int, Fraction]] = {}
        self.closed: set[str] = set()

    def advance(self, milliseconds: int, now: Fraction) -> None:
        """Refill, and close what has expired."""
        self.requests = min(Fraction(6), self.requests + Fraction(milliseconds, 2_000))
        self.tokens = min(Fraction(600), self.tokens + Fraction(milliseconds, 100))
        for name in [name for name, (_, end) in self.live.items() if end <= now]:
            del self.live[name]
            self.closed.add(name)

    def reserve(self, name: str, cost: int, now: Fraction) -> bool:
        """Whether it is granted."""
        if name in self.live or name in self.closed:
            return True
        if self.requests < 1 or self.tokens < cost or len(self.live) >= 3:
            return False
        self.requests -= 1
        self.tokens -= cost
        self.live[name] = (cost, now + 30)
        return True

    def settle(self, name: str, used: int) -> bool:
        """Whether it was live."""
        if name not in self.live:
            return False
        cost, _ = self.live.pop(name)
        self.closed.add(name)
        self.tokens = min(Fraction(600), self.tokens + cost - used)
        return True

    def renew(self, name: str, now: Fraction) -> bool:
        """Whether it is live."""
        if name not in self.live:
            return False
        self.live[name] = (self.live[name][0], now + 30)
        return True


def obey(limiter: Tally, command: Command, now: float) -> Granted | Denied | bool:
    verb, number, amount, _ = command
    if verb == "reserve":
        return limiter.reserve(str(number), dimensions_for(amount), now, 30.0)
    if verb == "settle":
        return limiter.settle(str(number), tokens_used(amount), now) == "settled"
    return limiter.renew(str(number), now, 30.0)


@settings(deadline=None)
@given(commands)
def test_it_agrees_with_the_model(script: list[Command]) -> None:
    """Every answer and every level, for any order of reserving, settling, renewing, repeating and waiting."""
    limiter, model, elapsed_ms = Tally(), Model(), 0
    for command in script:
        verb, number, amount, wait_ms = command
        elapsed_ms += wait_ms
        now = Fraction(elapsed_ms, 1000)
        model.advance(wait_ms, now)
        answer = obey(limiter, command, float(now))
        if verb == "reserve":
            assert isinstance(answer, Granted) == model.reserve(str(number), amount, now)
            assert not isinstance(answer, bool)
            expected: list[Fraction | int] = [model.requests, 3 - len(model.live), model.tokens]
            assert remaining(answer) == [max(0, int(level + Fraction(1, 10**6))) for level in expected]
            assert answer.levels[2].reset_s == pytest.approx(float((600 - model.tokens) / 10), abs=1e-6)
        elif verb == "settle":
            assert answer == model.settle(str(number), amount)
        else:
            assert answer == model.renew(str(number), now)
        assert limiter.outstanding(float(now)) == len(model.live)


@settings(deadline=None)
@given(commands)
def test_repeating_every_call_has_no_effect(script: list[Command]) -> None:
    """A store that answers twice, or a caller that asks twice, leaves the same levels behind."""
    once, twice, now = Tally(), Tally(), 0.0
    for command in script:
        now += command[3] / 1000
        obey(once, command, now)
        obey(twice, command, now)
        obey(twice, command, now)
    probe = (*dimensions_for(0),)
    assert once.reserve("probe", probe, now, 30.0) == twice.reserve("probe", probe, now, 30.0)
    assert once.outstanding(now) == twice.outstanding(now)


@settings(deadline=None)
@given(commands)
def test_nothing_is_outstanding_once_all_is_settled(script: list[Command]) -> None:
    """Every slot is free again and no level is above its capacity."""
    limiter, now = Tally(), 0.0
    for command in script:
        now += command[3] / 1000
        obey(limiter, command, now)
    for number in range(10):
        limiter.settle(str(number), tokens_used(0), now)
    assert limiter.outstanding(now) == 0
    levels = limiter.reserve("probe", dimensions_for(0), now + 1e6, 30.0).levels
    assert [level.remaining for level in levels] == [5, 2, 600]


@settings(deadline=None)
@given(commands)
def test_what_is_admitted_in_any_window_is_at_most_rate_times_window_plus_burst(script: list[Command]) -> None:
    """Debits less refunds from any moment up to any grant: a bucket cannot be talked into more."""
    limiter, now = Tally(), 0.0
    costs: dict[str, int] = {}
    debits: list[tuple[float, int, bool]] = []  # when, how much, whether by a grant
    for command in script:
        verb, number, amount, wait_ms = command
        now += wait_ms / 1000
        answer = obey(limiter, command, now)
        if verb == "reserve" and isinstance(answer, Granted) and str(number) not in costs:
            costs[str(number)] = amount
            debits.append((now, amount, True))
        elif verb == "settle" and answer is True:
            debits.append((now, amount - costs[str(number)], False))
    for first, (start, _, _) in enumerate(debits):
        taken = 0
        for end, amount, is_grant in debits[first:]:
            taken += amount
            if is_grant:
                assert taken <= 600 + 10.0 * (end - start) + 1e-3
