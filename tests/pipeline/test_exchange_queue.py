"""Waiting for a turn where backends work on as much as they bear, and for limits that have room again in a moment."""

from random import Random

import pytest

from gateway.admission.fairness import MOST_PER_TENANT
from gateway.auth.keys import digest, mint
from gateway.domain.tenant import ApiKey
from gateway.pipeline import RequestHead
from tests.pipeline.driver import Play, World, configured
from tests.pipeline.wire import ask, reply

TENANTS = ("quiet", "loud", "vip")
KEYS = {name: mint(bytes([number]) * 32).encode() for number, name in enumerate(TENANTS)}
HEADS = {name: RequestHead(((b"authorization", b"Bearer " + key),)) for name, key in KEYS.items()}


def world(slots: int, *, critical: str | None = None, **weights: int) -> World:
    """One backend that bears so many requests at once, and three tenants; one of them may be critical."""
    tenants = {name: {"policy": "high" if name == critical else "standard"} for name in TENANTS}
    for name, weight in weights.items():
        tenants[name]["weight"] = weight  # type: ignore[assignment]  # as it stands in a file
    book = configured(
        targets=1, places={"a": {"limits": {"concurrency": slots}}}, tenants=tenants, is_ranked=critical is not None
    )
    keys = [ApiKey(public_id=name.ljust(12, "x"), tenant=name, digest=digest(key)) for name, key in KEYS.items()]
    return World(book, keys=keys)


def asked(place: World, tenant: str, **fields: object) -> Play:
    return Play(place, stream=False, head=HEADS[tenant], body=ask(stream=False, max_tokens=10, **fields))


def done(play: Play) -> Play:
    return play.answer(200, reply("Hi", {"prompt_tokens": 10, "completion_tokens": 10}))


def test_a_request_waits_until_there_is_room() -> None:
    place = world(1)
    first, second = asked(place, "quiet"), asked(place, "loud")
    assert (first.tried, second.tried, second.finished) == ("a", "", False)
    place.now += 1.0
    done(first)
    assert second.tried == "a"
    assert done(second).status == 200
    assert (second.exchange.queued_s, second.exchange.overhead_s(place.now)) == (1.0, 0.0)
    assert not place.house.lobby.is_busy


def test_who_comes_later_stands_behind_those_who_wait() -> None:
    place = world(1)
    first, *waiting = [asked(place, "loud") for _ in range(4)]
    done(first)
    for play in waiting:
        late = asked(place, "loud")
        assert (play.tried, late.tried) == ("a", "")
        late.hang_up()
        done(play)


def test_a_tenant_with_much_waiting_does_not_keep_another_one_waiting() -> None:
    """The quiet one's request comes with the first of the others, though they all stand there before it."""
    place = world(1)
    running, *loud = [asked(place, "loud") for _ in range(20)]
    quiet = asked(place, "quiet")
    done(running)
    done(loud[0])
    assert quiet.tried == "a"


def test_a_tenant_has_only_so_many_waiting() -> None:
    """The rest is told at once to come back; another tenant still finds a place."""
    place = world(1)
    plays = [asked(place, "loud") for _ in range(MOST_PER_TENANT + 5)]
    assert [play.status for play in plays[-4:]] == [503] * 4
    assert sum(play.finished for play in plays) == 4
    assert not asked(place, "quiet").finished


def test_who_has_left_takes_no_turn() -> None:
    place = world(1)
    running, gone, next_one = asked(place, "loud"), asked(place, "loud"), asked(place, "loud")
    gone.hang_up()
    done(running)
    assert (gone.tried, gone.finished, next_one.tried) == ("", True, "a")


def test_a_turn_that_comes_as_its_client_leaves_is_passed_on() -> None:
    place = world(1)
    running, leaving, next_one = asked(place, "loud"), asked(place, "loud"), asked(place, "loud")
    leaving.exchange._turn.ticket.call = lambda: leaving.exchange.client_gone(place.now)  # type: ignore[union-attr]
    done(running)
    leaving.exchange.turn(place.now)
    leaving._perform()
    assert (leaving.tried, next_one.tried) == ("", "a")


@pytest.mark.parametrize(("deadline_s", "waited_s"), [(None, 2.0), (4.0, 1.0)])
def test_nobody_waits_for_longer_than_a_quarter_of_its_time(deadline_s: float | None, waited_s: float) -> None:
    place = world(1)
    asked(place, "loud")
    head = RequestHead(HEADS["quiet"].headers, deadline_s=deadline_s)
    play = Play(place, stream=False, head=head).wait(waited_s - 0.01)
    assert not play.finished
    assert play.wait(0.01).code == "overloaded"
    assert (play.granted, place.limiter.outstanding(place.now)) == (0, 2)  # the first one's, and its backend's


def test_a_fifth_is_kept_for_critical_requests_where_there_are_any() -> None:
    place = world(10, critical="vip")
    plays = [asked(place, "loud") for _ in range(9)]
    assert [play.tried for play in plays] == ["a"] * 8 + [""]
    assert [asked(place, "vip").tried for _ in range(2)] == ["a", "a"]
    done(plays[0])  # What is free now belongs to the critical ones.
    assert plays[8].tried == ""
    assert asked(place, "vip").tried == "a"


def test_critical_requests_go_first() -> None:
    place = world(1, critical="vip")
    running, *_ = [asked(place, "loud") for _ in range(5)]
    vip = asked(place, "vip")
    done(running)
    assert vip.tried == "a"


def test_shutting_down_ends_the_wait() -> None:
    place = world(1)
    asked(place, "loud")
    play = asked(place, "quiet").shut_down()
    assert (play.status, play.code) == (503, "gateway_draining")


def test_one_tenant_at_twenty_times_its_share_leaves_another_its_own() -> None:
    """Two tenants, one backend of ten slots and half a second an answer: twenty answers a second.

    The quiet one asks for half of its share, the loud one for twenty times its own, in bursts. Of the quiet one's
    requests at least 99.5 % succeed, and none waits for long; the backend is never idle while somebody waits.
    """
    place, random = world(10), Random(7)
    running: list[tuple[float, Play]] = []
    waiting: list[Play] = []
    asked_by: dict[str, list[Play]] = {"quiet": [], "loud": []}
    for step in range(3000):  # of ten milliseconds
        place.now += 0.01
        for due, play in tuple(running):
            if due <= place.now:
                running.remove((due, play))
                done(play)
        arrivals = ["quiet"] * (random.random() < 0.05) + ["loud"] * (20 if step % 10 == 0 else 0)
        for tenant in arrivals:
            play = asked(place, tenant)
            asked_by[tenant].append(play)
            waiting.append(play)
        for play in tuple(waiting):
            play.wait(0.0)
            if play.dispatched:
                running.append((place.now + random.uniform(0.4, 0.6), play))
            if play.dispatched or play.finished:
                waiting.remove(play)
        assert len(running) == 10 or not waiting
    served = {name: [play for play in plays if play.dispatched] for name, plays in asked_by.items()}
    assert len(asked_by["loud"]) >= 20 * 10 * 30  # Its share of twenty a second is ten.
    assert len(served["quiet"]) >= 0.995 * len(asked_by["quiet"]) > 100
    waits = sorted(play.exchange.decided_at - play.exchange.started_at for play in served["quiet"])
    assert waits[int(0.99 * len(waits))] < 0.5


def test_a_gateway_that_is_late_refuses_the_lowest_class_before_it_reads_the_body() -> None:
    place = World(configured(policy={"priority": "batch"}))
    place.house.lobby.pressure.note(0.2)
    play = Play(place, stream=False, body=b"not even JSON")
    assert (play.status, play.code, play.tried) == (503, "overloaded", "")
    assert play.error is not None
    assert 1 <= (play.error.retry_after_s or 0) <= 3
    standard = World(configured())
    standard.house.lobby.pressure.note(2.0)
    assert Play(standard, stream=False).tried == "a"


def limited(limits: dict[str, object]) -> World:
    return World(configured(policy={"limits": limits | {"on_exceed": "queue"}}))


def test_a_limit_that_has_room_soon_is_waited_for() -> None:
    place = limited({"requests_per_minute": 60, "burst_seconds": 1})
    first, second = Play(place, stream=False), Play(place, stream=False)
    assert (first.tried, second.tried, second.finished) == ("a", "", False)
    assert second.wait(1.0).tried == "a"
    assert second.answer(200, reply("Hi")).status == 200
    assert (second.exchange.queued_s, second.exchange.overhead_s(place.now)) == (1.0, 0.0)


def test_a_slot_is_waited_for() -> None:
    place = limited({"concurrency": 1})
    first, second = Play(place, stream=False), Play(place, stream=False)
    second.wait(0.5)
    assert second.tried == ""
    first.answer(200, reply("Hi"))
    assert second.wait(0.1).tried == "a"


def test_a_limit_that_has_no_room_for_long_is_not_waited_for() -> None:
    place = limited({"requests_per_minute": 6, "burst_seconds": 10})
    assert [Play(place, stream=False).status for _ in range(2)] == [None, 429]


def test_waiting_for_a_limit_ends_with_the_time_for_it() -> None:
    place = limited({"concurrency": 1})
    Play(place, stream=False)
    play = Play(place, stream=False).wait(2.1)
    assert (play.status, play.code) == (429, "rate_limit_exceeded")


def test_only_so_many_wait_for_a_limit_of_their_own_and_who_leaves_makes_room() -> None:
    place = limited({"concurrency": 1})
    plays = [Play(place, stream=False) for _ in range(MOST_PER_TENANT + 2)]
    assert [play.status for play in plays] == [None] * (MOST_PER_TENANT + 1) + [429]
    plays[1].hang_up()
    assert Play(place, stream=False).status is None
