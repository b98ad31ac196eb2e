"""Held-back streams, signs of life, and how long a client is willing to wait."""

import msgspec
import pytest

from gateway.domain.fault import FaultKind
from gateway.domain.ledger import Outcome
from gateway.domain.usage import UsageSource
from tests.pipeline.driver import HEAD, Play, World, configured, spent
from tests.pipeline.wire import DONE, PING, ROLE, chunk, finish, reply, usage_chunk

BUFFERED = msgspec.structs.replace(HEAD, wants_buffer=True)
WAITING = b": waiting\n\n"


# x-gateway-buffer, or `on_midstream_failure: restart`: the stream is held back until it is whole.


def held_back() -> Play:
    return Play(head=BUFFERED)


def test_a_held_back_stream_goes_out_when_it_is_whole() -> None:
    play = held_back().head().data(ROLE, chunk("Hel"), chunk("lo"))
    assert play.status is None
    play.data(finish(), DONE)
    assert [play.status, play.text, play.done] == [200, "Hello", True]


def test_a_cut_in_a_held_back_stream_starts_over_unseen() -> None:
    """The client sees one backend's answer; the other one's work is in the ledger as our cost."""
    play = held_back().head().data(ROLE, chunk("Wrong")).failed(FaultKind.LOST)
    play.head().data(ROLE, chunk("Right"), finish(), DONE)
    assert [play.tried, play.text, play.done] == ["ab", "Right", True]
    lost, kept = play.rows
    assert (lost.outcome, lost.charge_nano_usd) == (Outcome.FAILED, 0)
    assert (lost.usage.source, lost.cost_nano_usd > 0) == (UsageSource.COUNTED, True)
    assert (kept.outcome, kept.charge_nano_usd > 0) == (Outcome.OK, True)


def test_a_policy_may_hold_streams_back_for_everybody() -> None:
    world = World(configured(on_midstream_failure="restart"))
    play = Play(world).head().data(chunk("Wrong")).failed(FaultKind.LOST)
    assert [play.status, play.tried] == [None, "ab"]


def test_a_held_back_stream_that_stalls_starts_over() -> None:
    """The waits between its events are the same as of any stream."""
    play = held_back().head().data(chunk("Hi")).wait(14.9)
    assert play.tried == "a"
    assert play.wait(0.2).tried == "ab"


def test_a_held_back_stream_that_fails_everywhere_is_one_plain_error() -> None:
    play = held_back()
    for _ in range(3):
        play.head().data(chunk("Hi")).failed(FaultKind.LOST)
    assert [play.status, play.code, play.finished] == [502, "upstream_error", True]


def test_usage_in_a_held_back_stream_is_hidden_as_in_any_other() -> None:
    play = held_back().head().data(chunk("Hi"), finish(), usage_chunk(), DONE)
    assert b"usage" not in play.body


def test_an_unstreamed_answer_is_held_back_anyway() -> None:
    play = Play(head=BUFFERED, stream=False).head().data(reply("Hello")).ended()
    assert (play.status, play.text) == (200, "Hello")


# Signs of life.


def test_a_client_that_waits_for_long_is_shown_that_we_are_there() -> None:
    """Proxies between us and the client give up on silence; failover stays free."""
    world = World(configured(timeouts={"first_token": 50}))
    play = Play(world).head().wait(29.9)
    assert play.status is None
    play.wait(0.2)
    assert [play.status, play.body] == [200, WAITING]
    play.wait(20.0)
    assert (play.tried, play.aborted) == ("ab", [1])
    play.head().data(ROLE, chunk("Hello"), finish(), DONE)
    assert [play.text, play.done, play.status] == ["Hello", True, 200]


def test_an_error_after_a_sign_of_life_is_an_event() -> None:
    """The 200 is out: what would have been a status is told in the stream, without `[DONE]`."""
    play = Play(World(configured(targets=1, timeouts={"first_token": 50}))).head().wait(30.1).wait(20.0)
    assert [play.status, play.code, play.done] == [200, "upstream_timeout", False]


def test_a_held_back_stream_shows_signs_of_life_while_it_grows() -> None:
    play = held_back().head()
    for _ in range(7):
        play.data(chunk("word ")).wait(10.0)
    assert play.body == WAITING * 2
    play.data(finish(), DONE)
    assert play.text == "word " * 7


def test_a_stream_that_has_begun_needs_no_signs_of_life() -> None:
    play = Play().head().data(chunk("Hi"))
    for _ in range(5):
        play.wait(10.0).data(PING)
    assert WAITING not in play.body


# How long the client waits.


def test_a_deadline_of_the_clients_ends_the_request() -> None:
    """`x-request-deadline-ms`: nobody works for a client that is gone by then."""
    for stream in (True, False):
        play = Play(head=msgspec.structs.replace(HEAD, deadline_s=5.0), stream=stream).head().wait(4.9)
        assert not play.finished
        play.wait(0.2)
        assert (play.status, play.code, play.param, play.tried) == (504, "upstream_timeout", "total", "a")


def test_a_deadline_beyond_the_policys_total_changes_nothing() -> None:
    play = Play(
        World(configured(timeouts={"total": 30})), head=msgspec.structs.replace(HEAD, deadline_s=90.0), stream=False
    )
    play.head().wait(30.1)
    assert (play.code, play.param) == ("upstream_timeout", "total")


def test_the_sdks_read_timeout_bounds_an_unstreamed_answer_only() -> None:
    """Its client hears nothing before the whole answer; a stream's client hears every piece."""
    head = msgspec.structs.replace(HEAD, read_timeout_s=5.0)
    assert Play(head=head, stream=False).head().wait(5.1).code == "upstream_timeout"
    assert not Play(head=head).head().wait(5.1).finished


@pytest.mark.parametrize(("is_retry", "tried"), [(False, "ab"), (True, "a")])
def test_the_sdks_retries_buy_no_further_ones_of_ours(is_retry: bool, tried: str) -> None:
    """Only first requests deposit into the retry budget: retries of two layers must not multiply."""
    world = spent(World(), sick="b")
    head = msgspec.structs.replace(HEAD, is_retry=is_retry)
    for _ in range(11):
        Play(world, head=head).head().data(chunk(""), finish(), DONE)
    play = Play(world, head=msgspec.structs.replace(HEAD, is_retry=True)).failed(FaultKind.LOST)
    assert play.tried == tried


# How long we wait: less than the policy says, where experience says that more is in vain.


def quick(world: World) -> None:
    """Many streams of `a`, each answered at once."""
    for _ in range(300):
        Play(world).head().data(chunk("Hi"), finish(), DONE)
        world.now += 0.1
    for _ in range(8):  # Waits change slowly, and are looked at when they are asked for.
        world.now += 60.0
        for _ in range(50):
            Play(world).head().data(chunk("Hi"), finish(), DONE)


def test_a_backend_that_is_quick_is_given_up_sooner_where_another_could_answer() -> None:
    """Three seconds instead of the policy's twenty."""
    world = World()
    quick(world)
    play = Play(world).head().wait(3.1)
    assert play.tried == "ab"


def test_the_last_one_has_all_the_time_that_the_policy_gives() -> None:
    """Haste would only turn a slow answer into none."""
    world = World(configured(targets=1))
    quick(world)
    play = Play(world).head().wait(19.9)
    assert not play.finished


def test_a_hung_backend_fails_over_unstreamed_too_once_its_answers_are_known() -> None:
    """An answer in one piece has no first token to wait for; what its others took tells when to give up."""
    world = World()
    for _ in range(300):
        Play(world, stream=False).head().data(reply("Hi")).ended()
        world.now += 0.1
    for _ in range(10):
        world.now += 60.0
        for _ in range(50):
            Play(world, stream=False).head().data(reply("Hi")).ended()
    play = Play(world, stream=False).sent().wait(19.9)
    assert play.tried == "a"
    play.wait(0.2)
    assert (play.tried, play.aborted) == ("ab", [1])
    fault = play.exchange.attempts[0].fault
    assert fault is not None
    assert (fault.kind, fault.phase) == (FaultKind.TIMEOUT, "first_token")
