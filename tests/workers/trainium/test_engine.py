"""The engine decides alone: these tests play every order of submits, aborts and steps against a checking runner."""

import random
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


def sequence(
    name: str,
    prompt: list[int],
    max_tokens: int,
    stop_at: int | None = None,
    *,
    salt: str = "",
    priority: int = 0,
) -> Sequence:
    sampling = Sampling(max_tokens, 0.0)
    return Sequence(name, tuple(prompt), sampling, CountingReader(stop_at), frozenset({END}), salt, priority)


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
    """Submits, aborts and steps in any order; shapes become ready while it runs; prompts begin alike."""

    @initialize(slots=st.integers(1, 3))
    def start(self, slots: int) -> None:
        """An engine with some slots, of which only the first two shapes are compiled."""
        self.scheduler = Scheduler(slots, MAX_LEN)
        self.order = BUCKETS.shapes()
        self.runner = CheckingRunner(slots, MAX_LEN, self.order[:2])
        self.pending: Batch | None = None
        self.alive: dict[str, tuple[list[int], int]] = {}
        self.count = 0

    @rule(
        size=st.integers(1, 40),
        max_tokens=st.integers(1, 24),
        seed=st.integers(0, 2),
        parting=st.integers(0, 40),
        salt=st.sampled_from("ab"),
        priority=st.integers(0, 2),
    )
    def submit(self, *, size: int, max_tokens: int, seed: int, parting: int, salt: str, priority: int) -> None:
        """A client asks; many prompts begin alike and part somewhere."""
        prompt = [(seed + 7 * index + 11 * (index >= parting)) % 97 for index in range(size)]
        self.count += 1
        name = f"s{self.count}"
        self.alive[name] = (prompt, max_tokens)
        self.scheduler.submit(sequence(name, prompt, max_tokens, salt=salt, priority=priority))

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

    @invariant()
    def what_is_believed_of_the_cache_is_what_it_holds(self) -> None:
        """Token by token; while a step is under way the slots still say what was before it."""
        if hasattr(self, "scheduler") and self.pending is None:
            for slot, memory in enumerate(self.runner.memory):
                held = self.scheduler.slots.held(slot)
                assert tuple(memory[: len(held)]) == held

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
    scheduler.submit(Sequence("a", (1,) * 40, Sampling(6, 1.0, 1.0, draw=draw), CountingReader(), frozenset()))
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
    placement = slots.take("a", [1], "", copyable=0)
    assert placement is not None
    slots.give_back(placement.slot)
    with pytest.raises(KeyError):
        slots.give_back(placement.slot)


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


def shared_prefix(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def play(seed: int) -> int:
    """One random life of an engine, with every promise checked; returns how many tokens came from the cache."""
    rng = random.Random(seed)
    slots = rng.randint(1, 4)
    scheduler = Scheduler(slots, MAX_LEN)
    order = Buckets((8, 16), tuple(sorted({1, slots})), (32, MAX_LEN)).shapes()
    runner = CheckingRunner(slots, MAX_LEN, order[: rng.choice((2, len(order)))])
    families = [[rng.randrange(97) for _ in range(40)] for _ in range(2)]
    sequences: dict[str, Sequence] = {}
    alive: set[str] = set()
    for step in range(400):
        if step < 60 and rng.random() < 0.3:
            prompt = [
                *rng.choice(families)[: rng.randint(0, 40)],
                *(rng.randrange(97) for _ in range(rng.randint(1, 9))),
            ]
            made = sequence(
                f"s{step}", prompt[:40], rng.randint(1, 20), salt=rng.choice("ab"), priority=rng.randint(0, 1)
            )
            sequences[made.id] = made
            alive.add(made.id)
            scheduler.submit(made)
        if alive and step < 60 and rng.random() < 0.05:
            name = rng.choice(sorted(alive))
            assert scheduler.abort(name) is not None
            alive.remove(name)
        batch = scheduler.schedule(runner.ready)
        assert (batch is None) == (not alive), "work waits although a step is possible, or a step has no work"
        if batch is not None:
            for item in scheduler.update(batch, runner.run(batch)):
                if item.finish is not None:
                    alive.remove(item.id)
                    made = sequences[item.id]
                    assert (item.produced, item.finish) == expected_tokens(list(made.prompt), made.sampling.max_tokens)
        owners = scheduler.slots.owners
        assert len(set(owners.values())) == len(owners) == scheduler.running <= slots
        assert scheduler.used_positions <= slots * MAX_LEN
        assert set(owners.values()) <= alive
        for slot, memory in enumerate(runner.memory):
            held = scheduler.slots.held(slot)
            assert tuple(memory[: len(held)]) == held
    assert not alive, "an admitted sequence never ended"
    assert scheduler.slots.free == slots
    for one in sequences.values():
        assert one.cached < len(one.prompt)
        assert not one.cached or any(
            shared_prefix(one.prompt, other.prompt) >= min(one.cached, len(other.prompt))
            for other in sequences.values()
            if other is not one and other.salt == one.salt
        ), "a prompt of another salt was used"
    return sum(one.cached for one in sequences.values())


@pytest.mark.parametrize("block", range(4))
def test_thousands_of_random_schedules_keep_every_promise(block: int) -> None:
    """Nothing leaks or is owned twice, what is cached is right and one's own, and everything admitted ends."""
    assert sum(play(seed) for seed in range(block * 500, (block + 1) * 500)) > 1000


FULL = BUCKETS.shapes()


def cached_of(*prompts: list[int], salts: str = "aaaa", slots: int = 3) -> list[int]:
    """Prompts one after the other: how many tokens of each were in the cache."""
    scheduler, runner, found = Scheduler(slots, MAX_LEN), CheckingRunner(slots, MAX_LEN, FULL), []
    for index, (prompt, salt) in enumerate(zip(prompts, salts, strict=False)):
        one = sequence(str(index), prompt, 1, salt=salt)
        scheduler.submit(one)
        run_to_end(scheduler, runner)
        found.append(one.cached)
    return found


def test_a_prompt_starts_where_it_parts_from_one_that_was_there() -> None:
    """All but its last token at most; a follow-up takes the whole conversation so far."""
    first = list(range(30))
    assert cached_of(first, first, [*first, 50, 51], [*first[:20], 60]) == [0, 29, 30, 20]


def test_a_cached_prompt_is_nobody_elses() -> None:
    """The time to the first token would tell what others asked."""
    first = list(range(30))
    assert cached_of(first, first, first, salts="aba") == [0, 0, 29]


def test_prompts_at_the_same_time_wait_for_the_one_that_reads_their_beginning() -> None:
    """It is computed once and copied, not computed four times."""
    scheduler, max_len = Scheduler(4, 256), 256
    shapes = Buckets((32,), (1, 4), (max_len,)).shapes()
    prompt = [index % 97 for index in range(200)]
    together = [sequence(str(index), [*prompt, index], 4) for index in range(4)]
    for one in together:
        scheduler.submit(one)
    emitted = run_to_end(scheduler, CheckingRunner(4, max_len, shapes))
    assert [one.cached for one in together] == [0, 192, 192, 192]
    for index, one in enumerate(together):
        last = emitted[one.id][-1]
        assert (last.produced, last.finish) == expected_tokens([*prompt, index], 4)


def test_what_follows_a_common_beginning_is_kept() -> None:
    """A second conversation takes a copy of the system prompt, and the first goes on from its own end."""
    system = list(range(20))
    one, other = [*system, *range(40, 60)], [*system, *range(60, 80)]
    assert cached_of(one, other, [*one, 90], [*other, 91]) == [0, 20, 40, 40]


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    """Prompts being read take turns, chunk by chunk, and the long one keeps its share."""
    scheduler = Scheduler(3, 512)
    runner = CheckingRunner(3, 512, (Shape("prefill", 8, 512), Shape("decode", 3, 512)))
    scheduler.submit(sequence("long", [index % 90 for index in range(400)], 1))
    order: list[tuple[str, int]] = []
    for step in range(140):
        if step % 10 == 5:
            scheduler.submit(sequence(f"short{step}", [95, step % 97, 3], 1))
        batch = scheduler.schedule(runner.ready)
        if batch is None:
            break
        order += [(item.id, step) for item in scheduler.update(batch, runner.run(batch))]
    ended = dict(order)
    assert all(ended[name] - int(name.removeprefix("short")) <= 4 for name in ended if name != "long")
    assert ended["long"] <= 80


def test_priority_goes_before_arrival() -> None:
    """The smaller number first; equals in the order they came."""
    scheduler = Scheduler(1, MAX_LEN)
    for name, priority in (("d", 5), ("b", 1), ("c", 1), ("a", -1)):
        scheduler.submit(sequence(name, [1, 2, 3], 2, priority=priority))
    assert list(run_to_end(scheduler, CheckingRunner(1, MAX_LEN, FULL))) == ["a", "b", "c", "d"]
