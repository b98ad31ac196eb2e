"""The real model: greedy text is token-exact against an independent float64 implementation of the same weights."""

from pathlib import Path

import pytest

from tests.workers.trainium.fakes import CountingReader
from tests.workers.trainium.reference import ReferenceLlama
from workers.trainium.config import default_cache_dir
from workers.trainium.engine.scheduler import Scheduler
from workers.trainium.engine.sequences import Sampling, Sequence
from workers.trainium.engine.shapes import Buckets
from workers.trainium.model.gguf import GgufFile
from workers.trainium.model.runner import Capacity, JaxRunner, use_compilation_cache
from workers.trainium.text import ChatTemplate, Message, Vocabulary

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

NEW_TOKENS = 8
SLOTS = 8
BUCKETS = Buckets(prefill=(64,), decode=(1, SLOTS), context=(256,))
CHATS = (
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Wie heißt die Hauptstadt von Österreich? 🏔️",
    "Summarize in one sentence: " + "The quick brown fox jumps over the lazy dog, and then it rests. " * 7,
)
TEXTS = (
    "Once upon a time",
    "def fibonacci(n):\n    ",
    "1, 2, 3, 4, 5, 6, 7, 8,",
    "The three laws of thermodynamics are:\n\n1. ",
    "To be, or not to be, that is the question: " * 6,
    "The capital of Italy is",
    "Roses are red,",
    "import numpy as np\n",
    "E = mc^2 means that",
    "Il était une fois",
    "Dear Sir or Madam,\n\n",
    "SELECT name FROM users WHERE",
    "Water boils at",
    '{"name": "Anna", "age":',
    "Once there were three little",
    "北京是",
)


@pytest.fixture(scope="module")
def vocabulary(smollm2_path: Path) -> Vocabulary:
    return Vocabulary.from_gguf(GgufFile(smollm2_path))


@pytest.fixture(scope="module")
def prompts(smollm2_path: Path, vocabulary: Vocabulary) -> list[list[int]]:
    template = ChatTemplate(GgufFile(smollm2_path).text("tokenizer.chat_template"))
    texts = [template.render([Message(role="user", content=chat)]) for chat in CHATS]
    return [list(vocabulary.encode(text)) for text in (*texts, *TEXTS)]


@pytest.fixture(scope="module")
def answers(smollm2_path: Path, vocabulary: Vocabulary, prompts: list[list[int]]) -> list[list[int]]:
    """All prompts at once on a few slots, greedily."""
    use_compilation_cache(default_cache_dir() / "executables")
    runner = JaxRunner.load(
        GgufFile(smollm2_path), Capacity(SLOTS, 256), platform="cpu", dtype="float32", report=lambda _done, _total: None
    )
    for shape in BUCKETS.shapes():
        runner.compile(shape)
    scheduler = Scheduler(SLOTS, 256)
    readers = [CountingReader() for _ in prompts]
    for index, (prompt, reader) in enumerate(zip(prompts, readers, strict=True)):
        scheduler.submit(Sequence(str(index), tuple(prompt), Sampling(NEW_TOKENS, 0.0), reader, frozenset()))
    while (batch := scheduler.schedule(runner.ready)) is not None:
        scheduler.update(batch, runner.run(batch))
    return [_until_end(reader.tokens, vocabulary) for reader in readers]


def _until_end(tokens: list[int], vocabulary: Vocabulary) -> list[int]:
    for index, token in enumerate(tokens):
        if token in vocabulary.end_tokens:
            return tokens[: index + 1]
    return tokens


def test_an_answer_cut_anywhere_is_continued_exactly(
    prompts: list[list[int]], answers: list[list[int]], vocabulary: Vocabulary
) -> None:
    """Its text so far, encoded apart from the prompt, gives back the tokens that were generated.

    So the continued prompt is, token by token, what the model had read; what follows is then the same. Cuts inside a
    character are left out: no client can have seen one.
    """
    exact = total = 0
    for answer in answers:
        for size in range(1, len(answer)):
            try:
                text = b"".join(vocabulary.bytes_of(token) for token in answer[:size]).decode()
            except UnicodeDecodeError:
                continue
            total += 1
            exact += vocabulary.encode(text) == tuple(answer[:size])
    assert len(prompts) >= 20
    assert exact >= 0.95 * total > 100


def test_prompts_are_short_and_longer_than_one_bucket(prompts: list[list[int]]) -> None:
    """The set covers both, or the tests below say less than they claim."""
    sizes = [len(prompt) for prompt in prompts]
    assert min(sizes) < BUCKETS.prefill[0] < 2 * BUCKETS.prefill[0] < max(sizes)


def test_greedy_text_equals_the_reference_token_by_token(
    prompts: list[list[int]], answers: list[list[int]], smollm2_path: Path, vocabulary: Vocabulary
) -> None:
    """At every position the reference, given the same tokens so far, chooses the very token the worker chose.

    By induction that is the text the reference would write by itself, found with one pass instead of one per token. One
    test for all prompts, since model and reference take most of the time.
    """
    reference = ReferenceLlama(smollm2_path)
    found = reference.greedy_choices_of(
        [(prompt + answer[:-1], len(prompt) - 1) for prompt, answer in zip(prompts, answers, strict=True)]
    )
    assert answers == [choices for choices, _ in found]
    assert min(lead for _, lead in found) > 1e-3, "a tie would make this test say nothing"
    # Exactness says nothing if both sides misread the file in the same way.
    said = b"".join(vocabulary.bytes_of(token) for token in answers[0])
    assert said == b"The capital of France is Paris."


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Hello world", ["Hello", " world"]),
        ("in 2024", ["in", " ", "2", "0", "2", "4"]),
        ("<|im_start|>user\n", ["", "user", "\n"]),
    ],
)
def test_the_tokenizer_splits_as_the_model_was_trained(text: str, pieces: list[str], vocabulary: Vocabulary) -> None:
    """Digits one by one, spaces with the word that follows, control tokens whole."""
    assert [vocabulary.bytes_of(token).decode() for token in vocabulary.encode(text)] == pieces
