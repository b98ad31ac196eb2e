"""Sampling on the device: greedy is arg-max, the nucleus is exact, draws follow the distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workers.trainium.model.sampling import sample

SIZES = (1, 97, 128, 512, 1000)
_sample = jax.jit(sample)

Logits = npt.NDArray[np.float32]


def draw(logits: Logits, temperature: float, top_p: float, uniforms: npt.NDArray[np.float32]) -> list[int]:
    """One token per uniform number, all from the same logits (v,)."""
    count = len(uniforms)
    controls = np.stack([np.full(count, temperature), np.full(count, top_p), uniforms]).astype(np.float32)
    table = np.repeat(logits[:, None], count, axis=1)
    return [int(token) for token in np.asarray(_sample(jnp.asarray(table), jnp.asarray(controls)))]


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
    controls = jnp.asarray(np.array([[0, 1, 1], [1, 1, 0.5], [0.5, 0.1, 0.9]], np.float32))
    together = np.asarray(_sample(logits, controls))
    alone = [int(np.asarray(_sample(logits[:, i : i + 1], controls[:, i : i + 1]))[0]) for i in range(3)]
    assert together.tolist() == alone
