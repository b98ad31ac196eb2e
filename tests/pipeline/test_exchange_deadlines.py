"""Each wait has its own bound, by a clock that is moved by hand."""

import pytest

from gateway.domain.fault import FaultKind
from gateway.domain.ledger import Outcome
from tests.pipeline.driver import Play, World, configured
from tests.pipeline.wire import DONE, PING, ROLE, chunk, error, finish, reply


def test_connecting_has_its_own_bound() -> None:
    """F2: 2 s to a connection that takes the request, for streams and others."""
    for stream in (True, False):
        play = Play(stream=stream).wait(1.9)
        assert play.tried == "a"
        play.wait(0.1)
        assert (play.tried, play.aborted) == ("ab", [1])


def test_the_first_content_is_awaited_from_dispatch() -> None:
    """F4, F5: neither a late connection nor a head that dribbles in nor pings win the backend more time."""
    play = Play().wait(1.5).sent().wait(10.0).head().wait(5.0).data(PING, ROLE).wait(3.4)
    assert play.tried == "a"
    play.wait(0.1)
    assert (play.tried, play.aborted) == ("ab", [1])
    assert play.exchange.attempts[0].fault is not None
    assert play.exchange.attempts[0].fault.phase == "first_token"


def test_every_attempt_has_its_own_waits() -> None:
    play = Play().sent().wait(20.0).wait(1.9).sent().wait(18.0)
    assert play.tried == "ab"
    assert play.wait(0.2).tried == "abc"


def test_pings_renew_the_wait_for_bytes() -> None:
    """A stream that says nothing for 15 s has stalled."""
    play = Play().head().data(chunk("Hi"))
    play.wait(14.0).data(PING).wait(14.0).data(PING).wait(14.9)
    assert not play.finished
    play.wait(0.1)
    assert (play.code, play.param, play.aborted) == ("upstream_timeout", "idle", [1])


def test_pings_do_not_renew_the_wait_for_content() -> None:
    """60 s without content end the stream, though pings arrive."""
    play = Play().head().data(chunk("Hi"))
    for _ in range(5):
        play.wait(10.0).data(PING)
    play.wait(9.9)
    assert not play.finished
    play.wait(0.1)
    assert (play.code, play.param) == ("upstream_timeout", "progress")


def test_content_renews_the_wait_for_content() -> None:
    """Also when it comes shortly before that wait is over."""
    play = Play().head().data(chunk("Hi"))
    for _ in range(5):
        play.wait(11.0).data(PING)
    play.data(chunk(" there")).wait(14.9)
    assert not play.finished
    play.data(chunk("!"), finish(), DONE)
    assert (play.text, play.done) == ("Hi there!", True)


def test_a_backend_is_not_blamed_for_the_clients_slowness() -> None:
    """F43: while it is held back no wait of its own runs; they go on where they were."""
    play = Play().head().data(chunk("Hi")).wait(14.0).slow().wait(100.0).data(chunk(" there")).wait(100.0).ready()
    play.wait(14.9)
    assert not play.finished
    play.wait(0.1)
    assert (play.text, play.code, play.param) == ("Hi there", "upstream_timeout", "idle")

    play = Play().head().data(chunk("Hi")).wait(10.0).slow().wait(100.0).ready()
    for _ in range(4):
        play.wait(10.0).data(PING)
    play.wait(9.9)
    assert not play.finished
    play.wait(0.1)
    assert play.param == "progress"


def test_a_slow_client_has_the_total_and_no_more() -> None:
    play = Play().head().data(chunk("Hi")).slow().wait(600.0)
    assert (play.code, play.param, play.outstanding) == ("upstream_timeout", "total", 0)
    before = Play().slow().ready()
    assert before.wait(2.0).tried == "ab"


@pytest.mark.parametrize("stream", [True, False])
def test_the_total_bounds_everything(stream: bool) -> None:
    """From accepting the request, all attempts together; nobody is tried after it."""
    play = Play(World(configured(timeouts={"total": 5})), stream=stream).wait(1.5).failed(FaultKind.CONNECT)
    play.sent().wait(3.4)
    assert (play.tried, play.error) == ("ab", None)
    play.wait(0.1)
    assert (play.tried, play.status, play.code, play.param) == ("ab", 504, "upstream_timeout", "total")  # fmt: skip
    assert (play.aborted, play.outstanding) == ([2], 0)


def test_the_total_ends_a_stream_that_goes_on_and_on() -> None:
    play = Play(World(configured(timeouts={"total": 5}))).head()
    for _ in range(4):
        play.data(chunk("x")).wait(1.0)
    play.data(chunk("x")).wait(1.0)
    assert (play.text, play.param, play.done) == ("xxxxx", "total", False)


def test_an_unstreamed_answer_is_bounded_by_the_total_alone() -> None:
    """It comes in one piece after unknown work."""
    play = Play(stream=False).sent().wait(500.0)
    assert (play.tried, play.answer(200, reply("Hi")).text) == ("a", "Hi")
    assert Play(stream=False).sent().wait(600.0).status == 504


def test_the_body_of_an_error_is_not_awaited_for_long() -> None:
    for stream in (True, False):
        play = Play(stream=stream).head(500).data(error()[:5]).wait(14.9)
        assert play.tried == "a"
        assert play.wait(0.1).tried == "ab"


def test_a_request_whose_time_passed_before_it_could_be_tried_is_told_so() -> None:
    """A body that trickled in, for example: nothing is sent, what was reserved is given back."""
    play = Play(World(configured(timeouts={"total": 5})), opened=False).wait(6.0).open()
    assert (play.tried, play.status, play.code, play.outstanding) == ("", 504, "upstream_timeout", 0)
    assert [(row.attempt, row.outcome, row.charge_nano_usd) for row in play.rows] == [(0, Outcome.FAILED, 0)]


def test_a_timer_that_fires_early_does_nothing() -> None:
    play = Play()
    play.exchange.tick(play.now + 1.999)
    assert (play.exchange.actions, play.tried) == ([], "a")


def test_rows_carry_the_time_their_attempt_ended() -> None:
    play = Play().wait(1.0).failed(FaultKind.CONNECT).wait(1.0).head().data(chunk("Hi"), finish(), DONE)
    first, second = (row.at for row in play.rows)
    assert (first, second) == (1_800_000_001.0, 1_800_000_002.0)
