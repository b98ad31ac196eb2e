"""From logits to tokens on the device: steering, greedy, temperature, top-k, min-p, nucleus; pure, over a batch.

Nothing here sorts, loops or draws: top-k and nucleus are found by bisecting their thresholds, the draw is an inverse
CDF in two levels, and the uniform numbers come from the host. So the same graph compiles on every target of ours and
the same seed gives the same stream of uniforms everywhere. `jnp.argmax` is avoided: it lowers to a reduce over two
operands.

Logits come feature-major, as `llama.py` makes them. Shapes at line ends use: b rows, v vocabulary, m blocks of the
vocabulary, w values per block.
"""

from typing import Final

import jax
import jax.numpy as jnp
from jax import lax

_BISECTIONS: Final = 24
"""Steps of the threshold search: 2e-6 in log-probability, far below what the draw can tell apart."""
_FLOOR: Final = -32.0
"""Lowest threshold in log-probability against the best token; e^-32 times any vocabulary is nothing."""
_BLOCK: Final = 128


def steer(logits: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Logits (v, b) divided by `scale` (v, b) where positive and multiplied where not, plus `bias` (v, b).

    The first is the repetition penalty as its inventors (CTRL, 2019) define it, the second holds all that is added.
    """
    return jnp.where(logits > 0, logits / scale, logits * scale) + bias


def sample(logits: jax.Array, controls: jax.Array) -> jax.Array:
    """One token per row, (b,).

    `logits` is (v, b) float32; `controls` is (5, b) float32: temperature, top_p, a uniform number in [0, 1), top_k and
    min_p; top_k 0 and min_p 0 keep everything. A row whose temperature is 0 takes the most likely token, the lowest id
    among equals.
    """
    temperature, top_p, uniform, top_k, min_p = (controls[i] for i in range(5))  # each (b,)
    best = jnp.max(logits, axis=0)  # (b,)
    is_greedy = temperature <= 0
    scaled = (logits - best) / jnp.where(is_greedy, jnp.float32(1), temperature)  # (v, b), at most 0
    mass = jnp.exp(scaled)
    mass = jnp.where(mass >= min_p, mass, jnp.float32(0))
    mass = _keep_reaching(scaled, mass, jnp.ones_like(mass), top_k, is_all=top_k <= 0)
    mass = _keep_reaching(scaled, mass, mass, top_p * jnp.sum(mass, axis=0), is_all=top_p >= 1)
    return jnp.where(is_greedy, _first_index(logits >= best), _draw(mass, uniform))


def _keep_reaching(
    scaled: jax.Array, mass: jax.Array, weights: jax.Array, target: jax.Array, *, is_all: jax.Array
) -> jax.Array:
    """`mass` with everything set to 0 outside the smallest set of most likely tokens whose weights reach the target.

    With the mass as weights that is the nucleus, with ones it is top-k. Tokens tied with the set's last one stay in. It
    always holds the most likely token, and everything where `is_all`.
    """
    # Never 0: otherwise the empty set would reach top_p = 0.
    target = jnp.maximum(target, jnp.float32(1e-6))  # (b,)
    low = jnp.full_like(target, _FLOOR)  # reaches the target
    high = jnp.full_like(target, 1e-6)  # does not: nothing lies above the best token
    for _ in range(_BISECTIONS):
        middle = (low + high) * jnp.float32(0.5)
        reaches = jnp.sum(jnp.where(scaled >= middle, weights, jnp.float32(0)), axis=0) >= target
        low, high = jnp.where(reaches, middle, low), jnp.where(reaches, high, middle)
    return jnp.where((scaled >= low) | is_all, mass, jnp.float32(0))


def _draw(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """The token where the cumulated weights pass `uniform` times their sum: first its block, then inside it."""
    vocab, rows = weights.shape
    padding = -vocab % _BLOCK
    if padding:
        weights = jnp.concatenate([weights, jnp.zeros((padding, rows), weights.dtype)])
    blocks = weights.reshape(-1, _BLOCK, rows)  # (m, w, b)
    sums = jnp.sum(blocks, axis=1)  # (m, b)
    cumulated = _cumulate(sums)  # (m, b)
    block = _pass(cumulated, sums, uniform * jnp.sum(sums, axis=0))  # (b,)
    chosen = (lax.broadcasted_iota(jnp.int32, sums.shape, 0) == block).astype(weights.dtype)  # (m, b), one-hot
    inside = jnp.sum(chosen[:, None, :] * blocks, axis=0)  # (w, b)
    before = jnp.sum(chosen * (cumulated - sums), axis=0)  # (b,)
    return block * _BLOCK + _pass(_cumulate(inside), inside, uniform * jnp.sum(sums, axis=0) - before)


def _pass(cumulated: jax.Array, weights: jax.Array, goal: jax.Array) -> jax.Array:
    """The first index with weight whose cumulated weight exceeds `goal`.

    The last index with weight when rounding leaves none. Asking for weight matters: rounding in the cumulated sums
    could otherwise stop at a token outside the nucleus.
    """
    has_weight = weights > 0
    index = lax.broadcasted_iota(jnp.int32, weights.shape, 0)
    last = jnp.max(jnp.where(has_weight, index, jnp.int32(0)), axis=0)
    return jnp.minimum(_first_index(has_weight & (cumulated > goal)), last)


def _first_index(mask: jax.Array) -> jax.Array:
    """Per column, the index of its first true value, or its length when there is none."""
    index = lax.broadcasted_iota(jnp.int32, mask.shape, 0)
    return jnp.min(jnp.where(mask, index, jnp.int32(mask.shape[0])), axis=0)


def _cumulate(values: jax.Array) -> jax.Array:
    """Running sums down each column, by a triangular matmul: cumsum would lower to a windowed reduction."""
    size = values.shape[0]
    row, column = lax.broadcasted_iota(jnp.int32, (size, size), 0), lax.broadcasted_iota(jnp.int32, (size, size), 1)
    return lax.dot((column <= row).astype(values.dtype), values)
