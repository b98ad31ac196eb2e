"""Sampling on the device: greedy is arg-max, the nucleus is exact, draws follow the distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workers.trainium.model.logprobs import read_logprobs
from workers.trainium.model.sampling import sample, steer
from workers.trainium.steering import Penalties, RowSteering

SIZES = (1, 97, 128, 512, 1000)
LEAST = 64
"""Rows of a batch: fewer are filled up, for each number of them would be compiled by itself."""
_sample = jax.jit(sample)

Logits = npt.NDArray[np.float32]


def draw(
    logits: Logits,
    temperature: float,
    top_p: float,
    uniforms: npt.NDArray[np.float32],
    *,
    top_k: int = 0,
    min_p: float = 0.0,
) -> list[int]:
    """One token per uniform number, all from the same logits (v,)."""
    wanted = len(uniforms)
    count = max(wanted, LEAST)
    uniforms = np.resize(uniforms, count)
    rows = [np.full(count, temperature), np.full(count, top_p), uniforms, np.full(count, top_k), np.full(count, min_p)]
    controls = np.stack(rows).astype(np.float32)
    table = np.repeat(logits[:, None], count, axis=1)
    return [int(token) for token in np.asarray(_sample(jnp.asarray(table), jnp.asarray(controls)))[:wanted]]


def probabilities(logits: Logits, temperature: float, top_p: float) -> npt.NDArray[np.float64]:
    """The distribution by the book: sort, cumulate, cut, normalize."""
    scaled = logits.astype(np.float64) / temperature
    mass = np.exp(scaled - scaled.max())
    mass /= mass.sum()
    if top_p >= 1:
        # By definition everything: a cumulated float reaches 1 before the tail is in.
        return np.asarray(mass)
    order = np.argsort(-mass, kind="stable")
    before = np.cumsum(mass[order]) - mass[order]
    kept = order[before < top_p] if top_p > 0 else order[:1]
    out = np.zeros_like(mass)
    out[kept] = mass[kept]
    normal: npt.NDArray[np.float64] = out / out.sum()
    return normal


@pytest.mark.parametrize("size", SIZES)
def test_temperature_zero_takes_the_most_likely_token(size: int) -> None:
    """Whatever the other controls say."""
    logits = np.random.default_rng(size).normal(size=size).astype(np.float32)
    assert draw(logits, 0.0, 0.3, np.array([0.0, 0.5, 0.999], np.float32)) == [int(logits.argmax())] * 3


def test_among_equals_the_lowest_id_wins() -> None:
    """So that greedy text does not depend on the device."""
    logits = np.zeros(300, np.float32)
    logits[[40, 200]] = 3
    assert draw(logits, 0.0, 1.0, np.zeros(1, np.float32)) == [40]


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from(SIZES),
    temperature=st.sampled_from([0.2, 0.7, 1.0, 2.0]),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 1.0]),
)
@example(seed=159, size=97, temperature=0.2, top_p=1.0)
@settings(max_examples=60, deadline=None)
def test_no_draw_falls_outside_the_nucleus(seed: int, size: int, temperature: float, top_p: float) -> None:
    """Not for any uniform number, the ends included."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3, size=size).astype(np.float32)
    uniforms = np.concatenate([[0.0, np.nextafter(np.float32(1), np.float32(0))], rng.random(62)]).astype(np.float32)
    expected = probabilities(logits, temperature, top_p)
    # A token whose mass crosses top_p within rounding may fall on either side.
    lenient = probabilities(logits, temperature, min(1.0, top_p + 1e-5)) if top_p else expected
    assert all(lenient[token] > 0 for token in draw(logits, temperature, top_p, uniforms))


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (1.5, 0.5)])
def test_draws_follow_the_distribution(temperature: float, top_p: float) -> None:
    """Evenly spread uniforms give each token its share, to within the grid they form."""
    logits = np.random.default_rng(3).normal(scale=2, size=512).astype(np.float32)
    count = 16_384
    uniforms = ((np.arange(count) + 0.5) / count).astype(np.float32)
    shares = np.bincount(draw(logits, temperature, top_p, uniforms), minlength=512) / count
    assert np.abs(shares - probabilities(logits, temperature, top_p)).sum() / 2 < 0.01


def test_rows_of_a_batch_do_not_see_one_another() -> None:
    """Each has its own controls."""
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(512, 3)).astype(np.float32))
    rows = [[0, 1, 1], [1, 1, 0.5], [0.5, 0.1, 0.9], [0, 3, 0], [0, 0, 0.1]]
    controls = jnp.asarray(np.array(rows, np.float32))
    together = np.asarray(_sample(logits, controls))
    alone = [int(np.asarray(_sample(logits[:, i : i + 1], controls[:, i : i + 1]))[0]) for i in range(3)]
    assert together.tolist() == alone


UNIFORMS = ((np.arange(4096) + 0.5) / 4096).astype(np.float32)


@pytest.mark.parametrize("top_k", [1, 2, 7, 100, 511, 512, 5000])
def test_top_k_keeps_that_many_of_the_most_likely(top_k: int) -> None:
    """All of them and no others, in their proportions."""
    logits = np.random.default_rng(5).normal(scale=0.5, size=512).astype(np.float32)
    drawn = np.bincount(draw(logits, 1.0, 1.0, UNIFORMS, top_k=top_k), minlength=512)
    kept = np.sort(np.argsort(-logits)[:top_k])
    expected = np.zeros(512)
    expected[kept] = np.exp(logits[kept]) / np.exp(logits[kept]).sum()
    assert set(np.flatnonzero(drawn)) <= set(kept)
    assert np.abs(drawn / len(UNIFORMS) - expected).sum() / 2 < 0.07


def test_the_nucleus_is_taken_of_what_top_k_left() -> None:
    """Half of the mass of two equal tokens is one of them, or both: they are tied."""
    logits = np.full(512, -20, np.float32)
    logits[[3, 4, 5, 6]] = [2.0, 1.9, 1.0, 1.0]
    assert set(draw(logits, 1.0, 0.5, UNIFORMS, top_k=2)) == {3}
    assert set(draw(logits, 1.0, 0.9, UNIFORMS, top_k=2)) == {3, 4}


@pytest.mark.parametrize("min_p", [0.05, 0.3, 1.0])
def test_min_p_keeps_what_is_likely_enough_against_the_best(min_p: float) -> None:
    """The threshold scales with the model's certainty."""
    logits = np.random.default_rng(5).normal(scale=1.5, size=97).astype(np.float32)
    ratio = np.exp(logits - logits.max())
    drawn = set(draw(logits, 1.0, 1.0, UNIFORMS, min_p=min_p))
    assert drawn <= set(np.flatnonzero(ratio >= min_p * 0.9999))
    assert set(np.flatnonzero(ratio >= max(min_p * 1.0001, 0.02))) <= drawn


def steered(logits: Logits, steering: RowSteering) -> Logits:
    scale, bias = np.ones_like(logits), np.zeros_like(logits)
    steering.fill(scale, bias)
    return np.asarray(steer(jnp.asarray(logits[:, None]), jnp.asarray(scale[:, None]), jnp.asarray(bias[:, None])))[
        :, 0
    ]


def test_penalties_count_as_their_definitions_say() -> None:
    """Presence once, frequency for each time, repetition for the prompt too, biases as they are."""
    logits = np.array([2, -2, 1, 1, 1, -1, 3, 0], np.float32)
    steering = RowSteering(8, Penalties(0.5, 0.25, 2.0, {6: -100, 7: 5}), prompt=[0, 1])
    for token in (2, 2, 5):
        steering.accept(token)
    assert steered(logits, steering).tolist() == [1, -4, 0.5 - 1, 1, 1, -2 - 0.75, -97, 5]


def test_the_beginning_of_a_continued_answer_counts_as_the_answer() -> None:
    """So that a cut changes nothing."""
    logits = np.ones(8, np.float32)
    penalties = Penalties(0.5, 0.25, 1.5)
    whole = RowSteering(8, penalties, prompt=[0, 1])
    for token in (2, 3, 2):
        whole.accept(token)
    continued = RowSteering(8, penalties, prompt=[0, 1, 2, 3], said=2)
    continued.accept(2)
    assert steered(logits, whole).tolist() == steered(logits, continued).tolist()


class OddOnly:
    """A grammar of odd tokens."""

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Every second one."""
        return np.array([token % 2 == 1 for token in range(512)])

    def accept(self, token: int) -> None:
        """Only these can have been chosen."""
        assert token % 2 == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_what_a_grammar_forbids_is_never_drawn(temperature: float) -> None:
    """However likely, and however a bias pulls at it."""
    logits = np.random.default_rng(2).normal(size=512).astype(np.float32)
    steering = RowSteering(512, Penalties(bias={4: 100.0}), prompt=[], grammar=OddOnly())
    assert all(token % 2 == 1 for token in draw(steered(logits, steering), temperature, 1.0, UNIFORMS))


def test_logprobs_are_the_models_own_and_sorted() -> None:
    """Natural logarithms of a distribution; the lower id first among equals."""
    logits = np.array([0, 3, 1, 3, -1], np.float32)
    found = read_logprobs(logits, 2, 3)
    values = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    assert found.chosen == pytest.approx(values[2])
    assert [token for token, _ in found.top] == [1, 3, 2]
    assert [value for _, value in found.top] == pytest.approx([values[1], values[3], values[2]])
    assert read_logprobs(logits, 0, 0).top == ()
