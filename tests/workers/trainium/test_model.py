"""The forward pass and the runner, on a tiny model, against an independent reference."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.monitoring
import numpy as np
import pytest

from tests.workers.trainium.reference import ReferenceLlama
from tests.workers.trainium.tiny import VOCAB
from workers.trainium.engine.scheduler import Controls, Copy, Decode, Prefill, Row, Scheduler
from workers.trainium.engine.sequences import Sampling, Sequence
from workers.trainium.engine.shapes import Buckets, Shape
from workers.trainium.errors import ModelUnavailable
from workers.trainium.model.gguf import GgufFile
from workers.trainium.model.graphs import problems_of
from workers.trainium.model.runner import Capacity, JaxRunner
from workers.trainium.model.weights import open_weights
from workers.trainium.steering import Penalties, RowSteering

from tests.workers.trainium.fakes import CountingReader  # isort: skip

MAX_LEN = 96
BUCKETS = Buckets(prefill=(8, 32), decode=(1, 3), context=(48, MAX_LEN))
GREEDY = Controls()


@pytest.fixture(scope="module")
def runner(tiny_path: Path) -> JaxRunner:
    runner = JaxRunner.load(
        GgufFile(tiny_path), Capacity(3, MAX_LEN), platform="cpu", dtype="float32", report=lambda _done, _total: None
    )
    for shape in BUCKETS.shapes():
        runner.compile(shape)
    return runner


@pytest.fixture(scope="module")
def reference(tiny_path: Path) -> ReferenceLlama:
    return ReferenceLlama(tiny_path)


def generate(
    runner: JaxRunner, prompts: list[list[int]], count: int, sampling: Callable[[], Sampling] | None = None
) -> list[list[int]]:
    """Run all prompts at once; the tokens of each."""
    scheduler = Scheduler(runner.capacity.slots, MAX_LEN)
    readers = [CountingReader() for _ in prompts]
    for index, (prompt, reader) in enumerate(zip(prompts, readers, strict=True)):
        chosen = sampling() if sampling is not None else Sampling(count, 0.0)
        scheduler.submit(Sequence(str(index), tuple(prompt), chosen, reader, frozenset()))
    while (batch := scheduler.schedule(runner.ready)) is not None:
        scheduler.update(batch, runner.run(batch))
    return [reader.tokens for reader in readers]


def prompts_of(*sizes: int) -> list[list[int]]:
    rng = np.random.default_rng(11)
    return [[int(token) for token in rng.integers(0, VOCAB, size)] for size in sizes]


def test_greedy_text_equals_the_reference_token_by_token(runner: JaxRunner, reference: ReferenceLlama) -> None:
    """Short prompts, prompts of several chunks, up to the end of the slot; more prompts than slots."""
    prompts = prompts_of(1, 5, 8, 9, 31, 40, 70, 84)
    for prompt, tokens in zip(prompts, generate(runner, prompts, 12), strict=True):
        choices, lead = reference.greedy_choices(prompt + tokens[:-1], len(prompt) - 1)
        assert lead > 1e-4, "a tie would make this test say nothing"
        assert tokens == choices


def test_a_sequence_gives_the_same_tokens_alone_and_in_a_batch(runner: JaxRunner) -> None:
    """Neighbours in the batch and former owners of the slot leave no trace."""
    prompts = prompts_of(4, 17, 33, 60)
    together = generate(runner, prompts, 20)
    assert [generate(runner, [prompt], 20)[0] for prompt in prompts] == together


def test_a_cached_prompt_gives_the_same_tokens_as_a_computed_one(runner: JaxRunner) -> None:
    """Found in place or copied from another slot, while its owner is still at work."""
    prompts = [[*prompts_of(50)[0], index] for index in range(3)]
    scheduler = Scheduler(3, MAX_LEN)
    readers = [CountingReader() for _ in range(6)]
    made = [
        Sequence(str(index), tuple(prompts[index % 3]), Sampling(12, 0.0), reader, frozenset())
        for index, reader in enumerate(readers)
    ]
    for one in made:
        scheduler.submit(one)
    kinds = set()
    while (batch := scheduler.schedule(runner.ready)) is not None:
        kinds.add(batch.shape.kind)
        scheduler.update(batch, runner.run(batch))
    assert kinds == {"prefill", "decode", "copy"}
    assert sum(one.cached > 30 for one in made) == 5
    assert [reader.tokens for reader in readers] == [generate(runner, [prompt], 12)[0] for prompt in prompts] * 2


def test_aborted_neighbours_change_nothing(runner: JaxRunner) -> None:
    """They end in the middle of a prompt or of an answer, and the others go on as if they had never been."""
    prompts = prompts_of(9, 60, 20, 33)
    scheduler, readers = Scheduler(3, MAX_LEN), [CountingReader() for _ in prompts]
    for index, (prompt, reader) in enumerate(zip(prompts, readers, strict=True)):
        scheduler.submit(Sequence(str(index), tuple(prompt), Sampling(16, 0.0), reader, frozenset()))
    step = 0
    while (batch := scheduler.schedule(runner.ready)) is not None:
        scheduler.update(batch, runner.run(batch))
        step += 1
        if step in (2, 7):
            assert scheduler.abort("1" if step == 2 else "0") is not None
    for index in (2, 3):
        assert readers[index].tokens == generate(runner, [prompts[index]], 16)[0]


def test_donated_caches_are_reused(runner: JaxRunner) -> None:
    """The memory of the caches is where it was, and the arrays given away are gone: nothing was copied."""
    old = runner._caches.keys[0]
    where = old.unsafe_buffer_pointer()
    for batch in (
        Prefill(Shape("prefill", 8, 48), "a", 0, 0, (1, 2), GREEDY),
        Decode(Shape("decode", 3, 48), (Row("a", 0, 2, 1, GREEDY),)),
        Copy(Shape("copy", 0, 48), "a", 0, 1, 2),
    ):
        runner.run(batch)
        assert old.is_deleted()
        old = runner._caches.keys[0]
        assert old.unsafe_buffer_pointer() == where


def test_a_seed_gives_the_same_tokens_again(runner: JaxRunner) -> None:
    """And another seed gives others."""

    def seeded(seed: int) -> Callable[[], Sampling]:
        def make() -> Sampling:
            generator = np.random.Generator(np.random.Philox(seed))
            return Sampling(16, 1.0, 0.95, draw=lambda: float(generator.random(dtype=np.float32)))

        return make

    prompt = prompts_of(6)
    assert generate(runner, prompt, 16, seeded(1)) == generate(runner, prompt, 16, seeded(1))
    assert generate(runner, prompt, 16, seeded(1)) != generate(runner, prompt, 16, seeded(2))


def test_logprobs_equal_the_references(runner: JaxRunner, reference: ReferenceLlama) -> None:
    """The chosen token's and its rivals', of a chunk and of a decode step, steered or not."""
    prompt = prompts_of(12)[0]
    steering = RowSteering(VOCAB, Penalties(bias={9: 50.0}), prompt)
    asked = Controls(top_logprobs=4, steering=steering)
    first = runner.run(Prefill(Shape("prefill", 32, 48), "a", 0, 0, tuple(prompt), asked))[0]
    second = runner.run(Decode(Shape("decode", 3, 48), (Row("a", 0, 12, first.token, asked),)))[0]
    logits = reference.logits([*prompt, first.token], 11)
    for picked, row in zip((first, second), logits - np.log(np.exp(logits).sum(-1, keepdims=True)), strict=True):
        assert picked.token == 9
        assert picked.logprobs is not None
        assert abs(picked.logprobs.chosen - row[9]) < 1e-4
        assert [token for token, _ in picked.logprobs.top] == np.argsort(-row)[:4].tolist()
        assert np.abs(np.array([value for _, value in picked.logprobs.top]) - np.sort(row)[::-1][:4]).max() < 1e-4


def test_bfloat16_chooses_as_float32_does_but_for_near_ties(tiny_path: Path, reference: ReferenceLlama) -> None:
    """The type that devices use; its graphs run here too, only slowly."""
    small = JaxRunner.load(
        GgufFile(tiny_path), Capacity(1, MAX_LEN), platform="cpu", dtype="bfloat16", report=lambda _done, _total: None
    )
    small.compile(Shape("prefill", 32, MAX_LEN))
    prompts = prompts_of(*range(2, 32))
    chosen = [
        small.run(Prefill(Shape("prefill", 32, MAX_LEN), "a", 0, 0, tuple(prompt), GREEDY))[0].token
        for prompt in prompts
    ]
    expected = [reference.greedy_choices(prompt, len(prompt) - 1)[0][0] for prompt in prompts]
    agreeing = sum(ours == theirs for ours, theirs in zip(chosen, expected, strict=True))
    assert agreeing >= 0.8 * len(prompts)


@pytest.mark.parametrize("shape", BUCKETS.shapes(), ids=str)
def test_graphs_keep_to_what_neuron_supports(runner: JaxRunner, shape: Shape) -> None:
    """Static shapes, 32-bit types, a short list of operations, and caches that are updated in place."""
    assert problems_of(runner.lower(shape).as_text(), shape, donated=2 * runner.arch.layers) == []


def test_no_request_adds_an_executable(tiny_path: Path) -> None:
    """One compilation for each shape, and none for whatever requests ask for."""
    shapes = Buckets(prefill=(32,), decode=(3,), context=(MAX_LEN,)).shapes()
    compiled: list[str] = []

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    fresh = JaxRunner.load(
        GgufFile(tiny_path), Capacity(3, MAX_LEN), platform="cpu", dtype="float32", report=lambda _done, _total: None
    )
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        for shape in shapes:
            fresh.compile(shape)
        assert len(compiled) == len(shapes)
        rng, scheduler = np.random.default_rng(8), Scheduler(3, MAX_LEN)
        common = prompts_of(40)[0]
        for index in range(60):
            prompt = [*common[: int(rng.integers(0, 40))], *(int(token) for token in rng.integers(0, VOCAB, 5))]
            steering = RowSteering(VOCAB, Penalties(0.5, 0.5, 1.2, {3: 2.0}), prompt) if index % 3 == 0 else None
            sampling = Sampling(
                int(rng.integers(1, 30)), float(index % 2), 0.9, 5 * (index % 2), 0.1, index % 4 or None, steering
            )
            scheduler.submit(Sequence(str(index), tuple(prompt), sampling, CountingReader(), frozenset({7})))
        kinds = set()
        while (batch := scheduler.schedule(fresh.ready)) is not None:
            kinds.add(batch.shape.kind)
            scheduler.update(batch, fresh.run(batch))
        assert kinds == {"prefill", "decode", "copy"}
        assert len(compiled) == len(shapes)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (Prefill(Shape("prefill", 8, 48), "a", 0, 44, (1,) * 4, GREEDY), "do not fit"),
        (Prefill(Shape("prefill", 8, 48), "a", 0, -1, (1,), GREEDY), "do not fit"),
        (Prefill(Shape("prefill", 8, 48), "a", 0, 0, (1,) * 9, GREEDY), "do not fit"),
        (Prefill(Shape("prefill", 8, 48), "a", 3, 0, (1,), GREEDY), "out of range"),
        (Prefill(Shape("prefill", 8, 48), "a", 0, 0, (VOCAB,), GREEDY), "out of range"),
        (Decode(Shape("decode", 1, 48), (Row("a", 0, 48, 1, GREEDY),)), "outside"),
        (Decode(Shape("decode", 1, 48), (Row("a", -1, 4, 1, GREEDY),)), "out of range"),
        (Decode(Shape("decode", 1, 48), (Row("a", 0, 4, -1, GREEDY),)), "out of range"),
        (Decode(Shape("decode", 1, 48), ()), "do not fit"),
        (Copy(Shape("copy", 0, 48), "a", 0, 3, 4), "out of range"),
        (Copy(Shape("copy", 0, 48), "a", 0, 1, 49), "do not fit"),
    ],
)
def test_a_batch_outside_its_bounds_never_reaches_the_device(
    runner: JaxRunner, batch: Prefill | Decode | Copy, message: str
) -> None:
    """A CPU would clamp the index in silence and corrupt another sequence; other devices would fault."""
    with pytest.raises(ValueError, match=message):
        runner.run(batch)


def test_a_shape_that_is_not_compiled_raises(runner: JaxRunner) -> None:
    """It never compiles in the middle of serving."""
    with pytest.raises(KeyError):
        runner.run(Decode(Shape("decode", 2, 48), (Row("a", 0, 4, 1, GREEDY),)))


def test_a_model_of_another_family_is_refused(tmp_path: Path) -> None:
    """By name, before its tensors are misread."""
    import gguf

    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(str(path), "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelUnavailable, match="`mamba` model"):
        open_weights(GgufFile(path))
