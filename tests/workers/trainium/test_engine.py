"""The engine decides alone: these tests play every order of submits, aborts and steps against a checking runner."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.workers.trainium.fakes import CheckingRunner, CountingReader, next_token
from workers.trainium.engine.scheduler import Batch, Prefill, Scheduler
from workers.trainium.engine.sequences import Emitted, Sampling, Sequence
from workers.trainium.engine.shapes import Buckets, Shape, choose_decode, choose_prefill
from workers.trainium.engine.slots import Slots

MAX_LEN = 64
BUCKETS = Buckets(prefill=(8, 16), decode=(1, 3), context=(32, MAX_LEN))
END = 5


def sequence(name: str, prompt: list[int], max_tokens: int, stop_at: int | None = None) -> Sequence:
    return Sequence(name, tuple(prompt), Sampling(max_tokens, 0.0), CountingReader(stop_at), frozenset({END}))


def expected_tokens(prompt: list[int], max_tokens: int, stop_at: int | None = None) -> tuple[int, str]:
    """How many tokens the fake model makes alone, and why it ends."""
    memory = list(prompt)
    for produced in range(1, max_tokens + 1):
        token = next_token(memory)
        if token in (END, stop_at):
            return produced, "stop"
        memory.append(token)
    return max_tokens, "length"


def run_to_end(scheduler: Scheduler, runner: CheckingRunner) -> dict[str, list[Emitted]]:
    emitted: dict[str, list[Emitted]] = defaultdict(list)
    while (batch := scheduler.schedule(runner.ready)) is not None:
        for item in scheduler.update(batch, runner.run(batch)):
            emitted[item.id].append(item)
    return emitted


class Engine(RuleBasedStateMachine):
    """Submits, aborts and steps in any order; shapes become ready while it runs."""

    @initialize(slots=st.integers(1, 3))
    def start(self, slots: int) -> None:
        """An engine with some slots, of which only the first two shapes are compiled."""
        self.scheduler = Scheduler(slots, MAX_LEN)
        self.order = BUCKETS.shapes()
        self.runner = CheckingRunner(slots, MAX_LEN, self.order[:2])
        self.pending: Batch | None = None
        self.alive: dict[str, tuple[list[int], int]] = {}
        self.count = 0

    @rule(size=st.integers(1, 40), max_tokens=st.integers(1, 24), seed=st.integers(0, 96))
    def submit(self, size: int, max_tokens: int, seed: int) -> None:
        """A client asks."""
        prompt = [(seed + 7 * index) % 97 for index in range(size)]
        self.count += 1
        name = f"s{self.count}"
        self.alive[name] = (prompt, max_tokens)
        self.scheduler.submit(sequence(name, prompt, max_tokens))

    @precondition(lambda self: self.pending is None)
    @rule()
    def schedule(self) -> None:
        """The engine thread asks for work; there is some as long as anybody lives."""
        self.pending = self.scheduler.schedule(self.runner.ready)
        assert (self.pending is None) == (not self.alive)

    @precondition(lambda self: self.pending is not None)
    @rule()
    def finish_step(self) -> None:
        """The device answers."""
        assert self.pending is not None
        batch, self.pending = self.pending, None
        for item in self.scheduler.update(batch, self.runner.run(batch)):
            assert item.id in self.alive, "an ended sequence speaks"
            prompt, max_tokens = self.alive[item.id]
            if item.finish is not None:
                del self.alive[item.id]
                assert (item.produced, item.finish) == expected_tokens(prompt, max_tokens)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        """A client leaves, wherever its sequence is."""
        name = data.draw(st.sampled_from(sorted(self.alive)))
        ended = self.scheduler.abort(name)
        assert ended is not None
        assert ended.finish == "abort"
        assert self.scheduler.abort(name) is None
        del self.alive[name]

    @rule()
    def another_shape_is_compiled(self) -> None:
        """The loading thread goes on in the background."""
        self.runner.ready = self.order[: len(self.runner.ready) + 1]

    @invariant()
    def every_slot_has_one_living_owner_or_none(self) -> None:
        """Nothing leaks and nothing is owned twice."""
        if not hasattr(self, "scheduler"):
            return
        owners = list(self.scheduler.slots.owners.values())
        assert len(set(owners)) == len(owners) == self.scheduler.running
        assert set(owners) <= set(self.alive)
        assert self.scheduler.running + self.scheduler.waiting == len(self.alive)
        assert self.scheduler.slots.free + len(owners) == self.scheduler.slots.count

    def teardown(self) -> None:
        """Whatever happened before, everything that was admitted ends and every slot comes back."""
        if not hasattr(self, "scheduler"):
            return
        if self.pending is not None:
            self.finish_step()
        for _ in range(10_000):
            self.schedule()
            if self.pending is None:
                break
            self.finish_step()
        assert not self.alive
        assert self.scheduler.slots.free == self.scheduler.slots.count


TestEngine = Engine.TestCase
TestEngine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


@given(
    prompts=st.lists(st.lists(st.integers(0, 96), min_size=1, max_size=40), min_size=1, max_size=8),
    max_tokens=st.integers(1, 24),
)
@settings(max_examples=80, deadline=None)
def test_a_sequence_says_the_same_alone_and_in_company(prompts: list[list[int]], max_tokens: int) -> None:
    """Batching, chunking and slot reuse never change what a sequence produces."""
    scheduler = Scheduler(3, MAX_LEN)
    for index, prompt in enumerate(prompts):
        scheduler.submit(sequence(str(index), prompt, max_tokens))
    emitted = run_to_end(scheduler, CheckingRunner(3, MAX_LEN, BUCKETS.shapes()))
    for index, prompt in enumerate(prompts):
        last = emitted[str(index)][-1]
        assert (last.produced, last.finish) == expected_tokens(prompt, max_tokens)


def test_prefill_and_decode_alternate_while_both_wait() -> None:
    """A long prompt stalls running sequences for one chunk at a time."""
    scheduler = Scheduler(2, MAX_LEN)
    runner = CheckingRunner(2, MAX_LEN, (Shape("prefill", 8, MAX_LEN), Shape("decode", 2, MAX_LEN)))
    scheduler.submit(sequence("running", [1], 20))
    first = scheduler.schedule(runner.ready)
    assert first is not None
    scheduler.update(first, runner.run(first))
    scheduler.submit(sequence("long", [1] * 32, 1))
    kinds = []
    for _ in range(8):
        batch = scheduler.schedule(runner.ready)
        assert batch is not None
        kinds.append("prefill" if isinstance(batch, Prefill) else "decode")
        scheduler.update(batch, runner.run(batch))
    assert kinds == ["decode", "prefill"] * 4


def test_sequences_are_admitted_in_the_order_they_came() -> None:
    """First come, first served."""
    scheduler = Scheduler(1, MAX_LEN)
    for name in ("a", "b", "c"):
        scheduler.submit(sequence(name, [1], 2))
    emitted = run_to_end(scheduler, CheckingRunner(1, MAX_LEN, BUCKETS.shapes()))
    assert list(emitted) == ["a", "b", "c"]


def test_a_stop_string_ends_the_sequence_with_reason_stop() -> None:
    """The reader's word ends it, in the step that produced the token."""
    prompt = [3, 1, 4]
    stop_at = next_token([*prompt, next_token(prompt)])
    scheduler = Scheduler(1, MAX_LEN)
    scheduler.submit(sequence("a", prompt, 20, stop_at))
    emitted = run_to_end(scheduler, CheckingRunner(1, MAX_LEN, BUCKETS.shapes()))
    assert (emitted["a"][-1].finish, emitted["a"][-1].produced) == ("stop", 2)


def test_seeded_draws_are_asked_for_once_per_token() -> None:
    """A prompt of several chunks uses up no more of the stream than a short one: seeds survive other buckets."""
    asked: list[int] = []

    def draw() -> float:
        asked.append(1)
        return 0.5

    scheduler = Scheduler(1, MAX_LEN)
    scheduler.submit(Sequence("a", (1,) * 40, Sampling(6, 1.0, 1.0, draw), CountingReader(), frozenset()))
    run_to_end(scheduler, CheckingRunner(1, MAX_LEN, BUCKETS.shapes()))
    assert len(asked) == 6


@pytest.mark.parametrize(("size", "max_tokens"), [(0, 1), (1, 0), (MAX_LEN, 1), (40, 25)])
def test_a_sequence_that_does_not_fit_is_refused(size: int, max_tokens: int) -> None:
    """The scheduler never lets a sequence grow past its slot."""
    with pytest.raises(ValueError, match="do not fit"):
        Scheduler(1, MAX_LEN).submit(sequence("a", [1] * size, max_tokens))


def test_when_the_device_fails_everything_ends_with_an_error() -> None:
    """Running and waiting alike, and the slots come back."""
    scheduler = Scheduler(1, MAX_LEN)
    scheduler.submit(sequence("a", [1], 4))
    scheduler.submit(sequence("b", [1], 4))
    scheduler.schedule(BUCKETS.shapes())
    assert {item.id: item.finish for item in scheduler.fail_all()} == {"a": "error", "b": "error"}
    assert scheduler.slots.free == 1


def test_giving_a_slot_back_twice_is_an_error() -> None:
    """Otherwise two sequences would share it later."""
    slots = Slots(1)
    slot = slots.take("a")
    assert slot is not None
    slots.give_back(slot)
    with pytest.raises(KeyError):
        slots.give_back(slot)


@given(start=st.integers(0, MAX_LEN - 1), remaining=st.integers(1, MAX_LEN), count=st.integers(2, 8))
def test_a_prefill_chunk_never_passes_the_end_of_its_context(start: int, remaining: int, count: int) -> None:
    """A dynamic slice past the end would be moved back in silence, and overwrite older keys."""
    remaining = min(remaining, MAX_LEN - start)
    shape, moved = choose_prefill(BUCKETS.shapes()[:count], start, remaining, MAX_LEN)
    assert 0 <= moved <= start
    assert moved + shape.size <= shape.context
    assert moved + shape.size > start, "the chunk must make progress"


@given(rows=st.integers(1, 3), length=st.integers(1, MAX_LEN), count=st.integers(2, 8))
def test_the_first_two_shapes_serve_every_step(rows: int, length: int, count: int) -> None:
    """The worker is ready after two executables."""
    shape = choose_decode(BUCKETS.shapes()[:count], rows, length)
    assert shape.size >= rows
    assert shape.context >= length
