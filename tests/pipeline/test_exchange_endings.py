"""One ending, whatever happens: the ledger before the client, hanging up, shutting down and crashing in every state."""

from collections.abc import Callable

import pytest

from gateway.admission.limits import Denied, Unavailable
from gateway.domain.ledger import Outcome
from gateway.domain.usage import UsageSource
from tests.pipeline.driver import Play, World, configured
from tests.pipeline.wire import DONE, ROLE, ask, chunk, error, finish, reply, usage_chunk

PROMPT = 9


def whole(play: Play) -> Play:
    """A successful answer."""
    if not play.stream:
        return play.answer(200, reply("Hi"))
    return play.head().data(chunk("Hi"), finish(), usage_chunk(), DONE)


# The ledger.


def test_success_is_told_only_when_the_ledger_has_it() -> None:
    """I10: content flows, but `[DONE]` waits; of an unstreamed answer everything waits."""
    play = whole(Play(ledger="waits"))
    assert (play.text, play.done, play.finished) == ("Hi", False, False)
    play.wrote()
    assert (play.done, play.finished, play.error) == (True, True, None)

    play = whole(Play(stream=False, ledger="waits"))
    assert (play.status, play.body, play.finished) == (None, b"", False)
    assert play.wrote().body == reply("Hi")


@pytest.mark.parametrize("late", [True, False], ids=["no answer for 5 s", "an error"])
def test_what_the_ledger_cannot_record_is_no_success(late: bool) -> None:
    """503 where nothing was sent, an error event and no `[DONE]` where the stream had begun."""
    plays = [whole(Play(stream=stream, ledger="waits" if late else "fails")) for stream in (True, False)]
    for play in plays:
        if late:
            play.wait(4.9)
            assert not play.finished
            play.wait(0.1)
        assert (play.code, play.done, play.finished, play.outstanding) == ("overloaded", False, True, 0)
        assert play.wrote().finished
    assert [play.status for play in plays] == [200, 503]
    assert plays[1].body == b""


def test_an_error_stays_what_it_was_when_the_ledger_fails() -> None:
    play = Play(World(configured(targets=1)), ledger="fails").answer(500, error())
    assert (play.status, play.code, play.finished) == (502, "upstream_error", True)


def test_nothing_is_begun_that_could_not_be_recorded() -> None:
    """503 before a reservation, with a time to come back."""
    world = World()
    world.healthy = False
    play = Play(world)
    assert (play.status, play.code, play.tried, play.granted) == (503, "overloaded", "", 0)
    assert play.error is not None
    assert play.error.retry_after_s


# Limits and mistakes on the way in.


def test_a_denied_request_takes_nothing_and_sends_nothing() -> None:
    """I5: 429 with the wait; the limits that would have granted stay as they were."""
    world = World(configured(limits={"requests_per_minute": 2, "concurrency": 1}))
    first = Play(world)
    denied = Play(world)
    assert (denied.status, denied.code, denied.tried, denied.rows) == (429, "rate_limit_exceeded", "", [])
    assert (denied.finished, denied.outstanding) == (True, 1)
    assert isinstance(denied.exchange.denied, Denied)
    whole(first)
    again = whole(Play(world))
    assert (again.text, again.outstanding) == ("Hi", 0)
    assert [level.remaining for level in again.exchange.levels if level.kind == "requests"] == [0]


def test_limits_that_cannot_be_checked_refuse_and_take_nothing() -> None:
    """503 `limits_unavailable`, with when to come back: not a denial, which would name a limit."""
    play = Play(reserves=False).limits_unavailable()
    assert (play.status, play.code, play.tried, play.rows, play.finished) == (503, "limits_unavailable", "", [], True)
    assert play.error is not None
    assert play.error.retry_after_s == Unavailable().retry_after_s


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b"", 400, "invalid_json"),
        (ask(model="nobody-has-this"), 404, "model_not_found"),
        (ask(messages=[]), 400, None),
    ],
)
def test_a_wrong_request_is_told_so_before_anything_is_taken(body: bytes, status: int, code: str | None) -> None:
    play = Play(body=body)
    assert (play.status, play.code, play.tried, play.granted, play.rows) == (status, code, "", 0, [])
    assert play.finished


def test_who_has_no_valid_key_is_refused_before_the_body_is_read() -> None:
    play = Play(World(keys=[]), opened=False)
    play.exchange.authenticate(0.0)
    assert play.wait(0.0).exchange.actions
    play.request_body = b"{"
    play.open()
    assert (play.status, play.code, play.granted) == (401, "invalid_api_key", 0)


# Hanging up, shutting down, crashing: in every state.

STATES: dict[str, Callable[[], Play]] = {
    "b half body": lambda: Play(opened=False),
    "c while reserving": lambda: Play(reserves=False),
    "d connecting": Play,
    "e sent": lambda: Play().sent(),
    "e first token": lambda: Play().head().data(ROLE),
    "e whole, sent": lambda: Play(stream=False).head().data(reply("Hi")[:9]),
    "e after a failover": lambda: Play().answer(500, error()).sent(),
    "f content": lambda: Play().head().data(ROLE, chunk("Hello"), chunk(" world")),
    "g after the finish_reason": lambda: Play().head().data(chunk("Hello"), finish()),
    "h settling": lambda: whole(Play(ledger="waits")),
    "h whole, settling": lambda: whole(Play(stream=False, ledger="waits")),
    "done": lambda: whole(Play()),
}
EVERY_STATE = pytest.mark.parametrize("state", STATES)

GONE: dict[str, list[tuple[int, Outcome, UsageSource, int]]] = {
    "b half body": [],
    "c while reserving": [(0, Outcome.CLIENT_GONE, UsageSource.ESTIMATED, 0)],
    "d connecting": [(1, Outcome.CLIENT_GONE, UsageSource.ESTIMATED, 0)],
    "e sent": [(1, Outcome.CLIENT_GONE, UsageSource.ESTIMATED, PROMPT * 1000)],
    "e first token": [(1, Outcome.CLIENT_GONE, UsageSource.ESTIMATED, PROMPT * 1000)],
    "e whole, sent": [(1, Outcome.CLIENT_GONE, UsageSource.ESTIMATED, PROMPT * 1000)],
    "e after a failover": [
        (1, Outcome.FAILED, UsageSource.ESTIMATED, 0),
        (2, Outcome.CLIENT_GONE, UsageSource.ESTIMATED, PROMPT * 2000),
    ],
    "f content": [(1, Outcome.CLIENT_GONE, UsageSource.COUNTED, PROMPT * 1000 + 2 * 2000)],
    "g after the finish_reason": [(1, Outcome.OK, UsageSource.COUNTED, PROMPT * 1000 + 2000)],
    "h settling": [(1, Outcome.OK, UsageSource.PROVIDER, 18_000)],
    "h whole, settling": [(1, Outcome.OK, UsageSource.PROVIDER, 18_000)],
    "done": [(1, Outcome.OK, UsageSource.PROVIDER, 18_000)],
}
"""F44: attempt, outcome, usage's source and charge for a client that hangs up there."""


def finished(play: Play) -> Play:
    """Everything that was still owed to the exchange arrives."""
    play.reserve()
    if play.settled and not play.finished:
        play.wrote()
    return play.wait(700.0)


@EVERY_STATE
def test_a_client_that_hangs_up_pays_for_what_it_got(state: str) -> None:
    """F44: nothing before the backend has the request, the prompt then, what was delivered later.

    The backend is closed at once.
    """
    play = STATES[state]()
    running = bool(play.dispatched) and not play.settled
    finished(play.hang_up().hang_up())
    assert [(row.attempt, row.outcome, row.usage.source, row.charge_nano_usd) for row in play.rows] == GONE[state]
    assert (play.finished, play.error, play.outstanding) == (True, None, 0)
    assert play.aborted == ([len(play.dispatched)] if running else [])


@EVERY_STATE
@pytest.mark.parametrize("stop", [Play.shut_down, Play.crash], ids=["shutdown", "crash"])
def test_stopping_ends_every_request_honestly(state: str, stop: Callable[[Play], Play]) -> None:
    """F39: an error, or an error event where content was sent; what is whole stays a success.

    Nobody pays for what we broke off before its first word.
    """
    play = STATES[state]()
    began, is_whole = play.status is not None, state[0] in "gh" or state == "done"
    stop(stop(play))
    if state != "c while reserving" or stop is Play.crash:
        assert play.finished or play.settled
    finished(play)
    code = "gateway_draining" if stop is Play.shut_down else "internal_error"
    assert (play.finished, play.code) == (True, None if is_whole else code)
    assert play.status == (200 if began or is_whole else 503 if stop is Play.shut_down else 500)
    if is_whole and play.stream:
        assert play.done
    paid = GONE[state][-1][3] if is_whole or state == "f content" else 0
    assert sum(row.charge_nano_usd for row in play.rows) == paid
    assert play.settled or not play.granted or state == "c while reserving"


def test_nothing_more_is_sent_to_a_client_that_left_while_the_ledger_wrote() -> None:
    """F44h: it has its answer, which is a success; there is nobody to say `[DONE]` to."""
    play = whole(Play(ledger="waits")).hang_up().wrote()
    assert (play.text, play.done, play.finished, play.exchange.outcome) == ("Hi", False, True, Outcome.OK)


def test_an_answer_of_the_limits_after_a_crash_changes_nothing() -> None:
    """Asking them is what broke: nothing is dispatched for it, and the lease ends by itself."""
    play = Play(reserves=False).crash()
    assert (play.status, play.finished) == (500, True)
    assert play.reserve().exchange.actions == []
    assert play.tried == ""


def test_our_own_stop_is_our_cost() -> None:
    """The backend may bill the prompt; the tenant, who got an error, does not pay it."""
    (row,) = Play().head().shut_down().rows
    assert (row.outcome, row.charge_nano_usd, row.cost_nano_usd) == (Outcome.SHUTDOWN, 0, PROMPT * 1000)


def test_a_grant_that_comes_after_the_shutdown_is_given_back() -> None:
    """Nothing is sent upstream for it."""
    play = Play(reserves=False).shut_down().reserve()
    assert (play.status, play.code, play.tried, play.outstanding) == (503, "gateway_draining", "", 0)
    assert [row.outcome for row in play.rows] == [Outcome.SHUTDOWN]


def test_a_denial_that_comes_after_the_shutdown_is_still_a_shutdown() -> None:
    world = World(configured(limits={"concurrency": 1}))
    Play(world)
    assert Play(world, reserves=False).shut_down().reserve().code == "gateway_draining"


def test_a_refusal_has_no_effect_where_there_is_an_ending() -> None:
    """The body was late and then too large: the first is what the client is told."""
    play = Play(body=b"{")
    assert play.error is not None
    play.exchange.refuse(play.error)
    assert play.exchange.actions == []


def test_a_body_that_comes_after_the_client_is_gone_is_not_looked_at() -> None:
    play = Play(opened=False).hang_up()
    play.exchange.accept(play.request_body, play.now)
    assert (play.exchange.actions, play.granted) == ([], 0)
