"""The real model: greedy text is token-exact against an independent float64 implementation of the same weights."""

from pathlib import Path

import pytest

from tests.workers.trainium.exactness import BUCKETS, TIE, Compared, Model, ask, compare, load
from tests.workers.trainium.reference import ReferenceLlama
from workers.trainium.text import Vocabulary

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

NEW_TOKENS = 8


@pytest.fixture(scope="module")
def model(smollm2_path: Path) -> Model:
    return load(smollm2_path)


@pytest.fixture(scope="module")
def vocabulary(model: Model) -> Vocabulary:
    return model.vocabulary


@pytest.fixture(scope="module")
def prompts(model: Model) -> list[list[int]]:
    return model.prompts


@pytest.fixture(scope="module")
def answers(model: Model) -> list[list[int]]:
    """All prompts at once on a few slots, greedily."""
    return ask(model, model.prompts, NEW_TOKENS).tokens


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
            exact += vocabulary.encode_begun(text) == tuple(answer[:size])
    assert len(prompts) >= 20
    assert exact == total > 100


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
    assert min(min(leads) for _, leads in found) > TIE, "a tie would make this test say nothing"
    # Exactness says nothing if both sides misread the file in the same way.
    said = b"".join(vocabulary.bytes_of(token) for token in answers[0])
    assert said == b"The capital of France is Paris."


@pytest.mark.parametrize(
    ("ours", "lead", "verdict"),
    [
        ([1, 2, 3], 1.0, Compared(same=1)),
        ([1, 7, 8], 0.0005, Compared(excused=1)),
        ([1, 7, 3], 0.002, Compared(wrong=1)),
        ([1], 1.0, Compared(wrong=1)),
    ],
)
def test_a_difference_is_excused_only_at_a_tie(ours: list[int], lead: float, verdict: Compared) -> None:
    """Where two answers part, and nowhere else."""
    assert compare([ours], [[1, 2, 3]], [[0.0, lead, 0.0]]) == verdict


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


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Dear Sir.\n\n", ["Dear", " Sir", ".", "\n", "\n"]),
        ("# \n", ["#", " ", "\n"]),
        ("# ", ["#", " "]),
        ("if x:\n   ", ["if", " x", ":", "\n   "]),
    ],
)
def test_a_begun_answer_is_split_as_the_model_wrote_it(text: str, pieces: list[str], vocabulary: Vocabulary) -> None:
    """Before a word, white space is split in another way than at the end of a text."""
    assert [vocabulary.bytes_of(token).decode() for token in vocabulary.encode_begun(text)] == pieces
