"""What a drill did, from finished requests; and drills as the log tells of them."""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.drill import Drill, DrillLife, DrillPart
from gateway.control.drill_report import ENOUGH, Collector, added_up, quantile_ms
from gateway.control.events import NOTHING, Action, Event
from gateway.control.state import State, after
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.plan import Candidate, Decision
from gateway.telemetry.record import AttemptRecord, RequestRecord, ReservationRecord, RoutingRecord
from gateway.upstream.drilling import Behalf

NOW = 1_800_000_000.0
DRILL = Drill(
    id="d-1",
    fault="refuse",
    without={"provider": "one"},
    tenant=None,
    model=None,
    percent=100.0,
    starts_at=NOW,
    ends_at=NOW + 300,
    stop_below=0.9,
    reason="",
)
REFUSED = Fault(kind=FaultKind.CONNECT, message="")


def request(
    number: int = 1, *tries: tuple[str, Fault | None], at: float = NOW + 1, took: float = 0.2, **more: Any
) -> RequestRecord:
    """A finished request, whose tries took a tenth of a second each and cost 100 nano-dollars."""
    excluded: dict[str, str | None] = more.pop("excluded", {})
    candidates = [Candidate(name, 0 if why is None else None, why) for name, why in excluded.items()]
    decision = Decision(f"x{number}", "assistant", "standard@1", "priority", 1, tuple(candidates))
    record = RequestRecord(
        request_id=f"r{number}", method="POST", route="/v1/chat/completions", started=50.0, wall_started=at,
        ended=50.0 + took, status=200, tenant="acme", model="assistant",
        routing=RoutingRecord(decision=decision, started=50.0, ended=50.0), cost_nano_usd=100 * len(tries),
    )  # fmt: skip
    record.attempts = [
        AttemptRecord(
            number=position, reason="initial", backend=backend, model="m", provider=backend, operation="chat",
            started=50.0, ended=50.1, fault=fault, cost_nano_usd=100,
        )
        for position, (backend, fault) in enumerate(tries, start=1)
    ]  # fmt: skip
    for name, value in more.items():
        setattr(record, name, value)
    return record


def collector(drill: Drill = DRILL, before: Iterable[RequestRecord] = ()) -> Collector:
    return Collector(drill, "g1", before, backends=frozenset({"first"}), since=NOW)


def struck(number: int = 1, attempt: int = 1) -> Behalf:
    return Behalf(f"x{number}", attempt, "acme", "assistant")


def test_a_struck_request_is_marked_and_counted() -> None:
    """Its struck tries are the drill's, what they took was lost, what they cost was for nothing."""
    made = collector(before=[request(0, ("first", None), took=0.1), request(0, ("first", None), outcome="internal")])
    made.strike(struck(), "first")
    assert made.awaits == 1
    record = request(1, ("first", REFUSED), ("second", None))
    made.note(record)
    assert made.awaits == 0
    assert [each.drill for each in record.attempts] == ["d-1", None]
    report = added_up([made.part()])
    assert report is not None
    assert (report.requests, report.served, report.affected, report.struck, report.affected_served) == (1, 1, 1, 1, 1)
    assert [(each.backend, each.tries, each.reached) for each in report.tries] == [("first", 1, 0)]
    assert (report.cost_nano_usd, report.usual_nano_usd, report.wasted_nano_usd) == (200, 100, 100)
    assert report.lost_p50_ms == pytest.approx(100, rel=0.06)
    assert report.added_p50_ms == pytest.approx(100, rel=0.12)


@pytest.mark.parametrize(
    ("record", "counted", "affected"),
    [
        (request(excluded={"first/m": "breaker_open", "second/m": None}), 1, 1),
        (request(excluded={"first/m": "capability:vision", "second/m": None}), 1, 0),
        (request(excluded={"second/m": "breaker_open", "first/m": None}), 1, 0),
        (request(outcome="rejected", status=503, error_code="no_backend_available", routing=None), 1, 1),
        (request(outcome="rejected", status=429, error_code="rate_limit_exceeded", routing=None), 0, 0),
        (request(outcome="rejected", status=400, error_code="context_length_exceeded"), 0, 0),
        (request(outcome="client_gone", status=None), 0, 0),
        (request(at=NOW - 1), 0, 0),
        (request(at=NOW + 300), 0, 0),
    ],
    ids=["kept away", "unfit", "another's trouble", "nobody left", "limited", "its own fault", "gone", "early", "late"],
)  # fmt: skip
def test_who_counts_and_who_is_affected(record: RequestRecord, counted: int, affected: int) -> None:
    """By what routing made of the struck backend, and by how the request ended."""
    made = collector()
    made.note(record)
    report = added_up([made.part()])
    assert report is not None
    assert (report.requests, report.affected) == (counted, affected)


@pytest.mark.parametrize(
    ("scope", "counted"), [({"tenant": "other"}, 0), ({"model": "other"}, 0), ({"tenant": "acme"}, 1)]
)
def test_only_its_scope_is_counted(scope: dict[str, str], counted: int) -> None:
    made = collector(msgspec.structs.replace(DRILL, **scope))
    made.note(request())
    assert made.part().requests == counted


def test_what_ran_out_is_told_in_its_order() -> None:
    """A limit of a tenant, of a backend that was not struck, and the code of a refusal."""
    made = collector()
    made.strike(struck(3), "first")
    full = Fault(kind=FaultKind.LIMITED, message="")
    made.note(request(2, ("second", full), at=NOW + 9, outcome="upstream_error", status=503, error_code="overloaded"))
    made.note(request(3, ("first", Fault(kind=FaultKind.RATE_LIMITED, message="")), ("second", full), at=NOW + 5))
    denied = ReservationRecord(decision="denied", started=50.0, ended=50.0, dimension="tokens")
    made.note(request(4, at=NOW + 7, outcome="rejected", status=429, reservation=denied))
    report = added_up([made.part()])
    assert report is not None
    assert [(met.what, met.where, met.count) for met in report.limits] == [
        ("limited", "second", 2),
        ("tokens", "assistant", 1),
        ("overloaded", "assistant", 1),
    ]


def test_it_stops_when_too_few_of_the_last_are_served() -> None:
    """Not before enough were asked, and not for what was long ago."""
    made = collector()
    failed: dict[str, Any] = {"outcome": "upstream_error", "status": 502, "error_code": "upstream_error"}
    for number in range(ENOUGH - 1):
        made.note(request(number, **failed))
    assert made.too_few() is None
    made.note(request(99, **failed))
    assert made.too_few() == "0 of the last 20 requests were served; the bound is 90.0%"
    for number in range(89):
        made.note(request(number))
    assert made.too_few() is not None
    made.note(request(99))
    assert made.too_few() is None


def test_gateways_add_up() -> None:
    """Each of them counts its own; the first of what ran out is the first anywhere."""
    first, second = collector(), collector()
    first.note(request(1, ("second", Fault(kind=FaultKind.OVERLOADED, message="")), at=NOW + 8))
    second.strike(struck(), "first")
    second.note(request(1, ("first", REFUSED), ("second", Fault(kind=FaultKind.OVERLOADED, message="")), at=NOW + 2))
    parts = [first.part(), msgspec.structs.replace(second.part(), gateway="g2")]
    report = added_up(msgspec.json.decode(msgspec.json.encode(parts), type=list[DrillPart]))
    assert report is not None
    assert (report.gateways, report.requests, report.struck) == (("g1", "g2"), 2, 1)
    (met,) = report.limits
    assert met.count == 2
    assert met.first_at == pytest.approx(NOW + 2.2)
    assert added_up([]) is None


@given(values=st.lists(st.floats(0.001, 500), min_size=1, max_size=60), part=st.sampled_from([0.5, 0.95]))
def test_quantiles_are_right_to_five_percent(values: list[float], part: float) -> None:
    made = collector(before=[request(0, took=value) for value in values])
    found = quantile_ms(made.part().usual, part)
    exact = sorted(values)[max(0, -(-len(values) * int(part * 100) // 100) - 1)] * 1000
    assert found is not None
    assert exact * 0.999 - 0.06 <= found <= exact * 1.051 + 0.06


@pytest.mark.parametrize(
    ("now", "phase"), [(NOW - 1, "planned"), (NOW, "running"), (NOW + 299, "running"), (NOW + 300, "ended")]
)
def test_a_drill_knows_its_time(now: float, phase: str) -> None:
    assert DrillLife(drill=DRILL, by="environment").phase(now) == phase


def test_the_log_tells_what_became_of_it() -> None:
    """The first who ends it did; what gateways tell comes on top."""
    part = collector().part()
    steps: list[tuple[Action, str, object]] = [
        ("drill.plan", "environment", DRILL),
        ("drill.stop", "gateway g1", {"because": "too few"}),
        ("drill.abort", "k1", {"because": None}),
        ("drill.report", "gateway g1", part),
        ("drill.report", "gateway g2", part),
    ]
    events = [
        Event(seq=seq, at=NOW + seq, actor=actor, action=action, resource="d-1", before=NOTHING, previous="",
              after=msgspec.Raw(msgspec.json.encode(body)))
        for seq, (action, actor, body) in enumerate(steps, start=1)
    ]  # fmt: skip
    life = after(State(), events).drills["d-1"]
    assert (life.phase(NOW + 9), life.over_at, life.over_by, life.because) == (
        "stopped",
        NOW + 2,
        "gateway g1",
        "too few",
    )
    assert (life.drill, life.by, len(life.parts)) == (DRILL, "environment", 2)
    assert not life.overlaps(NOW, NOW + 1, NOW + 9)
