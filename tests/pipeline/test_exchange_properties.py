"""What holds for every order of events, thousands of them: the invariants of accounting, played at random.

The driver itself asserts on the way: nothing upstream without a reservation, no body without a head, one head, one
error, one settlement, nothing after the end.
"""

from collections.abc import Callable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.policies import PolicyBook
from gateway.domain.fault import FaultKind
from gateway.domain.ledger import Outcome
from gateway.domain.wire import Headers
from tests.pipeline.driver import JSON, Play, World, configured
from tests.pipeline.wire import DONE, GARBAGE, PING, ROLE, error, error_event, finish, reply, text_of, usage_chunk
from tests.pipeline.wire import chunk as piece

ONE_AT_ONCE = {"limits": {"requests_per_minute": 6, "concurrency": 9}}
LIMITED = {"a": ONE_AT_ONCE, "b": {"limits": {"input_tokens_per_minute": 6}}, "c": ONE_AT_ONCE}
"""No backend takes two tries at once, and the second one can take none."""
BOOKS = [
    configured(),
    configured(targets=1),
    configured(targets=2, attempts=2, timeouts={"total": 30}),
    configured(limits={"requests_per_minute": 1000, "tokens_per_minute": 100_000, "concurrency": 1}),
    configured(quirks={"requires_finish_reason": False}),
    configured(policy={"hedge": {"after": 0.3}}),
    configured(policy={"hedge": {"after": 0.3}}, targets=2, attempts=2),
    configured(policy={"hedge": {"after": 0.3}}, places=LIMITED),
]
KINDS = [FaultKind.CONNECT, FaultKind.STALE, FaultKind.LOST, FaultKind.PROTOCOL]
STATUSES = [200, 200, 200, 302, 400, 401, 404, 429, 500, 503]
WAITS = [0.0, 0.5, 2.0, 14.0, 15.0, 20.0, 60.0, 601.0]


class Backends:
    """What each attempt said so far, each in words of its own."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.said: dict[int, str] = {}

    def speak(self, play: Play) -> None:
        """One of the running attempts sends something: mostly content."""
        number = running(play, self.random)
        if number is None:
            return
        answer(play, 200, attempt=number)
        word = f"{play.exchange.attempts[number - 1].target.backend}{number}.{len(self.said.get(number, ''))} "
        if play.stream:
            others = [ROLE, PING, GARBAGE, finish(), usage_chunk(), DONE, error_event()]
        else:
            others = [reply(word), error("x"), b"<html>"]
        data = self.random.choice([*others, *[piece(word)] * (8 if play.stream else 0)])
        if data == piece(word):
            self.said[number] = self.said.get(number, "") + word
        elif data == reply(word) and not play.stream:
            self.said[number] = word
        cut = self.random.randrange(len(data) + 1) if self.random.random() < 0.3 else len(data)
        play.data(data[:cut], data[cut:], attempt=number)


def running(play: Play, random: Random) -> int | None:
    """One of the attempts that are not over: of two in a race either."""
    numbers = [each.number for each in play.exchange.attempts if not each.is_over()]
    assert len(numbers) <= 2
    return random.choice(numbers) if numbers else None


def answer(play: Play, status: int, headers: Headers | None = None, *, attempt: int | None) -> None:
    """The head comes once, if the attempt still runs: that is the transport's promise."""
    if attempt is not None and play.exchange.attempts[attempt - 1].status is None:
        play.head(status, headers, attempt)


def step(play: Play, backends: Backends) -> None:
    """One random event: mostly those of a backend that works."""
    random = backends.random
    other = random.randrange(1, 5)
    one = running(play, random)
    events: list[tuple[int, Callable[[], object]]] = [
        (12, lambda: backends.speak(play)),
        (4, lambda: answer(play, 200, attempt=one)),
        (2, lambda: play.sent(one)),
        (2, lambda: answer(play, random.choice(STATUSES), attempt=one)),
        (2, lambda: play.ended(one)),
        (2, lambda: play.failed(random.choice(KINDS), one)),
        (2, lambda: play.wait(random.choice(WAITS))),
        (1, lambda: answer(play, 200, JSON, attempt=one)),
        (1, lambda: play.failed(FaultKind.LOST, attempt=other)),
        (1, lambda: play.ended(attempt=other)),
        (1, play.reserve),
        (1, play.slow),
        (1, play.ready),
        (1, lambda: play.wrote(random.choice([None, OSError()]))),
        (1, lambda: random.random() < 0.2 and play.hang_up()),
        (1, lambda: random.random() < 0.1 and play.shut_down()),
        (1, lambda: random.random() < 0.1 and not play._reserve and play.crash()),
    ]
    random.choices([act for _, act in events], [weight for weight, _ in events])[0]()


@settings(max_examples=4000, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(0, 40),
    book=st.sampled_from(BOOKS),
    stream=st.booleans(),
    ledger=st.sampled_from(["writes", "writes", "waits", "fails"]),
    reserves=st.booleans(),
)
def test_whatever_happens_in_whatever_order(
    *, seed: int, steps: int, book: PolicyBook, stream: bool, ledger: str, reserves: bool
) -> None:
    """I1, I3, I4, I7, I10 to I12 and I14 of every script."""
    world = World(book)
    play = Play(world, stream=stream, ledger=ledger, reserves=reserves)
    backends = Backends(Random(seed))
    for _ in range(steps):
        step(play, backends)
    # What is still owed arrives: the limits' answer, the ledger's, or time.
    play.reserve()
    play.wait(2000.0)
    if play.settled and ledger == "waits":
        play.wrote()

    # I3, I4: settled once if reserved, and nothing is held afterwards.
    assert play.finished
    assert len(play.settled) == play.granted
    assert play.outstanding == 0
    assert not play.held_places

    # I11: one ending. Success is `[DONE]` or a whole body, and never beside an error.
    outcome = play.exchange.outcome
    is_success = play.done if stream else play.body != b""
    if play.error is not None:
        assert not is_success
    elif outcome is Outcome.OK and not play.exchange._gone:
        assert is_success
    else:
        assert play.exchange._gone

    # I10: what the client takes for success is in the ledger.
    if is_success:
        assert ledger != "fails"
        assert [row.outcome for row in play.rows].count(Outcome.OK) == 1

    # I12: the delivered text is the beginning of what one attempt said.
    if play.body:
        assert any(text.startswith(play.text) for text in [*backends.said.values(), ""] if text or not play.text)

    # I14: the plan's attempts, and each connection that was stale once more.
    plan = play.exchange.job.plan
    places = [each.target.backend for each in play.dispatched]
    assert len(set(places)) <= min(plan.attempts, len(plan.targets))
    assert all(places.count(place) <= 2 for place in places)

    # I7: only the attempt that was delivered is charged, at its own price; every attempt has its row.
    if ledger != "fails" and play.settled:
        assert [row.attempt for row in play.rows] == (list(range(1, len(play.exchange.attempts) + 1)) or [0])
        paid = [row for row in play.rows if row.charge_nano_usd]
        assert len(paid) <= 1
        for row in paid:
            prices = play.exchange.attempts[row.attempt - 1].target.prices
            assert row.charge_nano_usd == row.cost_nano_usd == prices.charge(row.usage)
            assert row.attempt == play.exchange.tries.current.number
            assert play.settled[0].used.tokens == row.usage.total_tokens

    # Every attempt that was given up was closed; the loser of a race costs its prompt, and only once it was sent.
    for attempt in play.exchange.attempts:
        assert attempt.is_over()
        if attempt.outcome is Outcome.OUTRUN:
            assert attempt.number in play.aborted
            assert attempt.usage is not None
            assert (attempt.usage.prompt_tokens > 0) is attempt.was_sent()
            assert not attempt.text

    # Routing was told of each end as often as of each beginning.
    targets = book.policies["standard"].routes["assistant"].leaves
    assert not any(each.in_flight for each in world.house.fleet.view(targets, world.now).standings.values())


@settings(max_examples=300, deadline=None)
@given(cuts=st.lists(st.integers(0, 400), max_size=12), tail=st.sampled_from([b"", DONE, error_event()]))
def test_how_a_stream_is_cut_into_reads_changes_nothing(cuts: list[int], tail: bytes) -> None:
    """The client gets the same bytes, the ledger the same row."""
    whole = ROLE + PING + piece("Hello") + GARBAGE + piece(" world") + finish() + usage_chunk() + tail
    places = sorted({min(cut, len(whole)) for cut in cuts})
    reads = [whole[start:end] for start, end in zip([0, *places], [*places, len(whole)], strict=True)]
    one = Play().head().data(whole).ended()
    many = Play().head().data(*reads).ended()
    assert text_of(many.body, stream=True) == text_of(one.body, stream=True) == "Hello world"
    assert many.body.replace(PING, b"") == one.body.replace(PING, b"")
    assert [(row.outcome, row.usage, row.charge_nano_usd) for row in many.rows] == [
        (row.outcome, row.usage, row.charge_nano_usd) for row in one.rows
    ]
