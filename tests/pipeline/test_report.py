"""What a finished exchange tells telemetry: by outcome, attempt by attempt."""

from collections.abc import Callable

import pytest

from gateway.domain.fault import FaultKind
from gateway.domain.usage import UsageSource
from gateway.pipeline import record_of
from gateway.telemetry.record import RequestRecord
from tests.pipeline.driver import START, Play, World, configured
from tests.pipeline.wire import DONE, ask, chunk, error, finish, reply, usage_chunk


def told(play: Play) -> RequestRecord:
    """The record of a play that is over."""
    assert play.finished
    return record_of(play.exchange, route="/v1/chat/completions", operation="chat", status=play.status, now=play.now)


def whole(play: Play) -> Play:
    return play.head().data(chunk("Hi"), finish(), usage_chunk(), DONE)


def alone() -> Play:
    """With one backend only."""
    return Play(World(configured(targets=1)))


def limited() -> Play:
    world = World(configured(limits={"concurrency": 1}))
    Play(world)
    return Play(world)


OUTCOMES: list[tuple[str, Callable[[], Play], str, str | None]] = [
    ("whole", lambda: whole(Play()), "ok", None),
    ("failed over", lambda: whole(Play().answer(500, error())), "ok", None),
    ("nobody answered", lambda: alone().answer(500, error()), "upstream_error", "upstream_error"),
    ("broke off", lambda: Play().head().data(chunk("Hi")).ended(), "upstream_error", "upstream_interrupted"),
    ("the backend refused it", lambda: Play().answer(400, error("bad")), "rejected", "bad"),
    ("not JSON", lambda: Play(body=b"{"), "rejected", "invalid_json"),
    ("no such model", lambda: Play(body=ask(model="x")), "rejected", "model_not_found"),
    ("over a limit", limited, "rejected", "rate_limit_exceeded"),
    ("client left", lambda: Play().head().hang_up(), "client_gone", None),
    ("client left early", lambda: Play(opened=False).hang_up(), "client_gone", None),
    ("shutdown", lambda: Play().shut_down(), "internal", "gateway_draining"),
    ("crash", lambda: Play().crash(), "internal", "internal_error"),
    ("crash on the way in", lambda: Play(opened=False).crash(), "internal", "internal_error"),
    ("the ledger failed", lambda: whole(Play(ledger="fails")), "internal", "overloaded"),
]


@pytest.mark.parametrize(("play", "outcome", "code"), [pytest.param(*row, id=name) for name, *row in OUTCOMES])
def test_every_ending_has_its_outcome(play: Callable[[], Play], outcome: str, code: str | None) -> None:
    """An answer that became our error never passes for `ok`."""
    record = told(play())
    assert (record.outcome, record.error_code) == (outcome, code)


def test_who_asked_is_told_by_public_names() -> None:
    record = told(whole(Play()))
    assert (record.tenant, record.key_id, record.method, record.model) == ("acme", "abcdefghijkl", "POST", "assistant")
    assert record.request_id == f"req-{'1':0>32}"


def test_a_failover_is_told_attempt_by_attempt() -> None:
    play = Play().wait(1.0).failed(FaultKind.STALE).wait(1.0).answer(500, error()).wait(1.0)
    record = told(whole(play))
    tries = [(each.number, each.reason, each.backend, each.status, each.decision, each.bytes_forwarded) for each in record.attempts]  # fmt: skip  # noqa: E501
    assert tries == [
        (1, "initial", "a", None, "retry", False),
        (2, "retry", "a", 500, "failover", False),
        (3, "failover", "b", 200, None, True),
    ]
    assert [each.started - START for each in record.attempts] == [0.0, 1.0, 2.0]
    assert [each.ended and each.ended - START for each in record.attempts] == [1.0, 2.0, 3.0]
    assert (record.served_by, record.stream, record.ttft_s, record.overhead_s) == ("b", True, 3.0, 0.0)
    assert record.attempts[2].cost_nano_usd == record.cost_nano_usd == 36_000
    assert record.attempts[2].server_address == "b.example"
    assert record.attempts[2].server_port == 443
    assert record.attempts[2].finish_reasons == ("stop",)


def test_the_last_fault_of_a_failed_request_was_given_up() -> None:
    record = told(alone().answer(500, error()))
    assert [each.decision for each in record.attempts] == ["give_up"]
    assert (record.served_by, record.usage, record.ttft_s) == (None, None, None)


def test_the_way_in_is_told_with_its_times() -> None:
    play = Play(reserves=False).wait(0.5).reserve().wait(1.0)
    record = told(whole(play))
    assert record.routing is not None
    assert (record.routing.started, record.routing.ended, record.routing.decision.model) == (START, START, "assistant")
    assert record.reservation is not None
    assert (record.reservation.decision, record.reservation.ended - START) == ("admitted", 0.5)
    assert record.reservation.reservation_id == play.exchange.id
    assert record.settlement is not None
    assert (record.settlement.actual_tokens, record.settlement.source) == (14, UsageSource.PROVIDER)
    assert record.settlement.reserved_tokens == record.reservation.reserved_tokens > 14


def test_a_denial_names_its_limit_and_reserves_nothing() -> None:
    record = told(limited())
    assert record.reservation is not None
    assert (record.reservation.decision, record.reservation.dimension) == ("denied", "concurrency")
    assert (record.reservation.reserved_tokens, record.reservation.reservation_id) == (0, None)
    assert (record.attempts, record.settlement, record.cost_nano_usd) == ([], None, None)


def test_an_unstreamed_answer_is_told_alike() -> None:
    record = told(Play(stream=False).wait(1.0).answer(200, reply("Hi")))
    assert (record.stream, record.outcome, record.served_by, record.ttft_s) == (False, "ok", "a", 1.0)
