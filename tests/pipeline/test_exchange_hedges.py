"""A second try beside one that is slow to begin: one answer, one bill, and the loser closed at once."""

import msgspec
import pytest

from gateway.domain.fault import FaultKind
from gateway.domain.ledger import Outcome
from gateway.domain.usage import UsageSource
from gateway.routing.hedging import BURST
from tests.pipeline.driver import HEAD, Play, World, configured
from tests.pipeline.wire import DONE, PING, ROLE, chunk, error, finish, usage_chunk

AFTER_S = 0.5
BOOK = configured(policy={"hedge": {"after": AFTER_S}})
WHOLE = (chunk("Hello"), finish(), usage_chunk(), DONE)


def late(world: World | None = None) -> Play:
    """The first try has its head and is silent until a second one runs beside it."""
    play = Play(World(BOOK) if world is None else world).head().data(ROLE).wait(AFTER_S)
    assert play.tried == "ab"
    return play.head()


def outcomes(play: Play) -> list[Outcome]:
    return [row.outcome for row in play.rows]


def test_a_try_that_is_not_late_has_none_beside_it() -> None:
    play = Play(World(BOOK)).head().data(ROLE, PING).wait(AFTER_S - 0.01)
    assert play.data(*WHOLE).tried == "a"


def test_the_second_comes_first() -> None:
    """The client gets its answer and pays for it alone; the first one's prompt is our cost."""
    play = late().data(*WHOLE, attempt=2)
    assert (play.text, play.done, play.aborted) == ("Hello", True, [1])
    lost, kept = play.rows
    assert outcomes(play) == [Outcome.OUTRUN, Outcome.OK]
    assert (lost.charge_nano_usd, lost.usage.source, lost.usage.output_tokens) == (0, UsageSource.ESTIMATED, 0)
    assert lost.cost_nano_usd > 0
    assert kept.charge_nano_usd == kept.cost_nano_usd > 0
    assert play.settled[0].used.tokens == kept.usage.total_tokens


def test_the_first_comes_first_after_all() -> None:
    play = late().data(*WHOLE, attempt=1)
    assert (play.text, play.done, play.aborted) == ("Hello", True, [2])
    assert outcomes(play) == [Outcome.OK, Outcome.OUTRUN]
    assert [row.charge_nano_usd > 0 for row in play.rows] == [True, False]


def test_of_two_at_the_same_moment_the_one_that_is_read_first_is_it() -> None:
    """The other one's words are not heard: no byte of them, and no end."""
    play = late().data(chunk("One"), attempt=2).data(chunk("Two"), finish(), DONE, attempt=1)
    assert (play.text, play.done) == ("One", False)
    play.data(finish(), DONE, attempt=2)
    assert (play.text, play.done) == ("One", True)


@pytest.mark.parametrize("loser", [1, 2])
@pytest.mark.parametrize("status", [429, 500])
def test_an_error_of_one_leaves_the_race_to_the_other(loser: int, status: int) -> None:
    """No third target is asked: one is at work."""
    play = Play(World(BOOK)).sent().wait(AFTER_S)
    play.head(status, attempt=loser).data(error(), attempt=loser).ended(loser)
    assert play.tried == "ab"
    play.head(attempt=3 - loser).data(*WHOLE, attempt=3 - loser)
    assert (play.text, play.done, play.error) == ("Hello", True, None)
    assert sorted(outcomes(play)) == [Outcome.FAILED, Outcome.OK]


def test_when_both_have_failed_the_third_is_asked() -> None:
    play = late().failed(FaultKind.LOST, 1).failed(FaultKind.LOST, 2)
    assert play.tried == "abc"
    assert play.head().data(*WHOLE).done


def test_both_and_no_more_within_the_plans_attempts() -> None:
    """Of two allowed tries the second is the one beside."""
    play = late(World(configured(policy={"hedge": {"after": AFTER_S}}, attempts=2)))
    play.failed(FaultKind.LOST, 1).failed(FaultKind.LOST, 2)
    assert (play.tried, play.code) == ("ab", "upstream_error")


def test_both_run_out_of_time_together() -> None:
    """Each has its own: the first one's ends earlier."""
    play = late().wait(20.0)
    assert play.aborted == [1, 2]
    assert play.tried == "abc"


def test_the_winner_breaks_off_after_its_content() -> None:
    """It is too late for the other: an honest end."""
    play = late().data(chunk("Hel"), attempt=2).failed(FaultKind.LOST, 2)
    assert (play.text, play.code, play.done) == ("Hel", "upstream_interrupted", False)
    assert play.tried == "ab"
    assert outcomes(play) == [Outcome.OUTRUN, Outcome.INTERRUPTED]
    assert [row.charge_nano_usd > 0 for row in play.rows] == [False, True]


def test_what_the_first_says_of_the_request_is_final() -> None:
    """It would have been so without a second one."""
    play = Play(World(BOOK)).sent().wait(AFTER_S).head(attempt=2)
    play.head(400, attempt=1).data(error("bad", "invalid_request_error"), attempt=1).ended(1)
    assert (play.status, play.tried, play.aborted) == (400, "ab", [2])
    assert outcomes(play) == [Outcome.REJECTED, Outcome.OUTRUN]


def test_what_the_second_says_of_the_request_is_not_heard_while_the_first_runs() -> None:
    play = Play(World(BOOK)).head().wait(AFTER_S)
    play.head(400, attempt=2).data(error("bad", "invalid_request_error"), attempt=2).ended(2)
    assert not play.finished
    assert play.data(*WHOLE, attempt=1).done


def test_a_client_that_leaves_closes_both_and_pays_for_one() -> None:
    play = late().hang_up()
    assert sorted(play.aborted) == [1, 2]
    assert outcomes(play) == [Outcome.CLIENT_GONE, Outcome.OUTRUN]
    assert sum(row.charge_nano_usd > 0 for row in play.rows) == 1


def test_the_end_of_the_gateway_closes_both() -> None:
    play = late().shut_down()
    assert sorted(play.aborted) == [1, 2]
    assert (play.status, play.code) == (503, "gateway_draining")


def test_the_requests_own_time_ends_both() -> None:
    play = Play(World(BOOK), head=msgspec.structs.replace(HEAD, deadline_s=1.0)).head().wait(1.0)
    assert sorted(play.aborted) == [1, 2]
    assert (play.status, play.param) == (504, "total")


def test_an_unstreamed_answer_has_no_first_token_to_wait_for() -> None:
    assert Play(World(BOOK), stream=False).head().wait(AFTER_S * 2).tried == "a"


def test_nobody_is_asked_beside_who_has_failed_lately_or_is_of_the_same_provider() -> None:
    world = World(BOOK)
    Play(world).failed(FaultKind.LOST).failed(FaultKind.LOST)  # `a` and `b`; `c` is well
    assert Play(world).head().wait(AFTER_S).tried == "ac"


def test_a_sick_alternative_is_not_asked() -> None:
    world = World(configured(policy={"hedge": {"after": AFTER_S}}, targets=2))
    Play(world).failed(FaultKind.LOST).failed(FaultKind.LOST)
    assert Play(world).head().wait(AFTER_S).tried == "a"


def test_the_budget_ends_them() -> None:
    """Five are saved up, and each request pays a twentieth."""
    world = World(BOOK)
    tried = [Play(world).head().wait(AFTER_S).tried for _ in range(8)]
    assert tried == ["ab"] * int(BURST) + ["a"] * 3


def test_those_that_never_come_first_end_by_themselves() -> None:
    world = World(configured(policy={"hedge": {"after": AFTER_S, "share": 0.2}}))
    sent = 0
    for _ in range(200):
        play = Play(world).head().data(ROLE).wait(AFTER_S)
        sent += len(play.dispatched) - 1
        play.data(*WHOLE, attempt=1)
    assert sent == 20


def test_without_the_policys_word_there_is_none() -> None:
    assert Play().head().wait(19.9).tried == "a"


def test_without_experience_there_is_none_unless_the_policy_says_after_what() -> None:
    assert Play(World(configured(policy={"hedge": {}}))).head().wait(19.9).tried == "a"


def test_a_held_back_stream_is_raced_for_too() -> None:
    """Its content decides, though nothing of it goes out before it is whole."""
    world = World(configured(policy={"hedge": {"after": AFTER_S}}, on_midstream_failure="restart"))
    play = late(world).data(chunk("Hel"), attempt=2)
    assert (play.status, play.aborted) == (None, [1])
    play.data(chunk("lo"), finish(), DONE, attempt=2)
    assert (play.text, play.done) == ("Hello", True)


def test_a_slow_first_one_is_known_to_be_slow() -> None:
    """Its breaker is not told: nobody waited long enough."""
    world = World(BOOK)
    late(world).data(*WHOLE, attempt=2)
    target = world.book.policies["standard"].routes["assistant"].leaves[0]
    standing = world.house.fleet.view([target], world.now).standings[target.name]
    assert standing.latency > 1
    assert (standing.barred, standing.in_flight) == (None, 0)
