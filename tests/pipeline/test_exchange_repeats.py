"""Requests under an `Idempotency-Key`: run once, charged once, answered as often as they are asked."""

import msgspec
import pytest

from gateway.domain.fault import FaultKind
from gateway.domain.ledger import Outcome
from tests.pipeline.driver import HEAD, Play, World, configured
from tests.pipeline.wire import DONE, ask, chunk, finish, reply

KEYED = msgspec.structs.replace(HEAD, idempotency_key="k1")


def play(world: World, **more: object) -> Play:
    """An unstreamed request under the key."""
    return Play(world, **({"stream": False, "head": KEYED} | more))  # type: ignore[arg-type]  # by name


def test_the_answer_is_given_again_and_charged_once() -> None:
    world = World()
    first = play(world).answer(200, reply("Hello"))
    again = play(world)
    assert (again.status, again.body, again.finished) == (200, first.body, True)
    assert (again.dispatched, again.granted, again.rows) == ([], 0, [])
    assert again.exchange.was_kept
    assert len(world.ledger) == 1


def test_while_it_runs_another_one_is_told_to_come_again() -> None:
    world = World()
    first = play(world)
    early = play(world)
    assert (early.status, early.code) == (409, "request_in_flight")
    assert early.error is not None
    assert (early.error.should_retry, early.error.retry_after_s) == (True, 1.0)
    first.answer(200, reply("Hello"))
    assert play(world).body == first.body


def test_it_is_in_flight_until_the_ledger_has_it() -> None:
    """Success is told to nobody before."""
    world = World()
    first = play(world, ledger="waits").answer(200, reply("Hello"))
    assert play(world).code == "request_in_flight"
    first.wrote()
    assert play(world).body == first.body != b""


def test_another_body_under_the_key_is_refused() -> None:
    world = World()
    play(world).answer(200, reply("Hello"))
    other = play(world, body=ask(stream=False, max_tokens=7))
    assert (other.status, other.code, other.param) == (422, "idempotency_key_reused", "Idempotency-Key")
    assert other.error is not None
    assert other.error.should_retry is False


def test_what_failed_may_be_tried_again() -> None:
    """By a backend, by the ledger, by a limit, by a crash: the key is free, and nothing is kept."""
    world = World(configured(targets=1, limits={"requests_per_minute": 4}))
    assert play(world).failed(FaultKind.LOST).status == 502
    assert play(world, ledger="fails").answer(200, reply("Hello")).status == 503
    assert play(world).crash().status == 500
    assert play(world).answer(400, b'{"error": {"message": "no"}}').status == 400
    assert play(world).status == 429
    world.now += 60
    assert play(world).answer(200, reply("Hello")).status == 200


def test_a_client_that_hangs_up_while_it_waits_for_a_limit_leaves_the_key_free() -> None:
    """Nothing runs under it: whoever comes again is the first."""
    world = World(configured(policy={"limits": {"requests_per_minute": 60, "burst_seconds": 1, "on_exceed": "queue"}}))
    Play(world, stream=False).answer(200, reply("Hello"))
    waiting = play(world)
    assert not waiting.finished
    waiting.hang_up()
    world.now += 1
    assert play(world).answer(200, reply("Hello")).status == 200


def test_a_client_that_hangs_up_finds_its_answer_when_it_comes_again() -> None:
    """Nothing is broken off: it would be paid twice."""
    world = World()
    first = play(world).head()
    first.hang_up()
    assert (first.finished, first.aborted) == (False, [])
    assert play(world).code == "request_in_flight"
    first.data(reply("Hello")).ended()
    assert [row.outcome for row in first.rows] == [Outcome.OK]
    assert play(world).body == first.body
    assert len(world.ledger) == 1


def test_the_clients_patience_ends_its_wait_and_not_the_request() -> None:
    """An SDK that gives up after ten seconds asks again."""
    world = World()
    first = play(world, head=msgspec.structs.replace(KEYED, read_timeout_s=10.0)).head().wait(15)
    assert not first.finished
    first.data(reply("Hello")).ended()
    assert play(world).status == 200


def test_a_shutdown_frees_the_key() -> None:
    world = World()
    assert play(world).shut_down().status == 503
    assert play(world).status is None, "it is run"


def test_a_stream_has_no_second_time() -> None:
    """The key is not read: it runs, and is charged, as often as it is asked."""
    world = World()
    for _ in range(2):
        done = Play(world, head=KEYED).head().data(chunk("Hello"), finish(), DONE)
        assert done.done
    assert len(world.ledger) == 2


@pytest.mark.parametrize("reserves", [True, False])
def test_a_client_that_hangs_up_before_anything_is_sent_leaves_the_key_free(reserves: bool) -> None:
    world = World()
    first = play(world, reserves=False)
    first.hang_up().reserve()
    assert first.finished
    assert first.dispatched == []
    assert play(world, reserves=reserves).code is None
