"""The Llama forward pass as pure functions: prefill one chunk of one sequence, or decode one token of many.

No engine state, and only operations every target of ours compiles: no gather or scatter in decode (rows are read and
written by dynamic slices), no control flow, no random numbers, no sort, static shapes throughout. Layers are unrolled
over a list of per-layer arrays: a scan over stacked ones copies the caches and is 1.2 to 10 times slower on a CPU.
Activations are feature-major, (features, rows): a weight (out, in) then stands left of them. In the other order XLA's
CPU compiler transposes the weights at every step as soon as there is more than one row, 10 times slower for the head.

Shapes at line ends use: b rows, t tokens of a chunk, c context, s slots, n positions of a slot, d width, h query
heads, k key/value heads, g = h / k, e head size, f hidden width, v vocabulary.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from workers.trainium.model.lookup import rows_of


@dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers that fix every shape of a Llama model."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocab: int
    rope_base: float
    norm_eps: float
    context: int
    """Positions the model was trained for."""
    has_biases: bool = False
    """Whether Q, K and V have biases, as in Qwen 2."""
    has_head_norms: bool = False
    """Whether each query and key is normed before it is rotated, as in Qwen 3."""
    rope_scaling: "RopeScaling | None" = None


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How a model trained on short texts is made to read long ones: slow rotations are slowed down further."""

    factor: float
    low: float
    """Rotations that turn fewer times than this over the original context are slowed by the whole factor."""
    high: float
    """Those that turn more often than this are left alone."""
    original_context: float
    """Positions; 0 slows all."""


class Layer(NamedTuple):
    """Weights of one layer; matrices are stored (out, in), as the file has them."""

    attention_norm: jax.Array  # (d,)
    qkv: tuple[jax.Array, ...]  # one ((h + 2k) e, d), or q (h e, d), k and v (k e, d) where heads are split
    output: jax.Array  # (d, h e)
    ffn_norm: jax.Array  # (d,)
    gate_up: tuple[jax.Array, ...]  # one (2f, d), or two (f, d) where hidden units are split
    down: jax.Array  # (d, f)
    qkv_bias: tuple[jax.Array, ...] | None = None  # as qkv, without the last axis
    head_norms: tuple[jax.Array, ...] | None = None  # of q and of k, each (e,)


class Params(NamedTuple):
    """All weights of a model, and the rotation tables."""

    embedding: jax.Array  # (v, d)
    layers: list[Layer]
    norm: jax.Array  # (d,)
    head: jax.Array  # (v, d); the embedding itself when tied
    cos: jax.Array  # (n, e/2)
    sin: jax.Array  # (n, e/2)


class Caches(NamedTuple):
    """Keys and values of every slot, one array per layer; the last slot is scratch for padding rows."""

    keys: list[jax.Array]  # each (s+1, k, n, e)
    values: list[jax.Array]  # each (s+1, k, n, e)


def prefill(
    arch: Architecture, params: Params, caches: Caches, tokens: jax.Array, where: jax.Array, *, context: int
) -> tuple[jax.Array, Caches]:
    """Run one chunk of a prompt and return the logits (v, 1) after its last real token.

    `tokens` (t,) is padded at its end; `where` (3,) is [slot, start, last]: positions start … start + t - 1 of that
    slot are written and `last` is the index in the chunk whose logits are wanted. The caller has checked
    start + t <= context: a dynamic slice past the end would be moved back, and overwrite older keys.
    """
    size = tokens.shape[0]
    slot, start, last = (lax.index_in_dim(where, i, keepdims=False) for i in range(3))
    x = rows_of(params.embedding, tokens).T  # (d, t)
    cos = lax.dynamic_slice_in_dim(params.cos, start, size).T  # (e/2, t)
    sin = lax.dynamic_slice_in_dim(params.sin, start, size).T
    position = start + lax.iota(jnp.int32, size)  # (t,)
    visible = lax.iota(jnp.int32, context)[None, :] <= position[:, None]  # (t, c)
    zero = jnp.int32(0)
    window = (1, arch.kv_heads, context, arch.head_dim)
    keys, values = [], []
    for layer, old_keys, old_values in zip(params.layers, caches.keys, caches.values, strict=True):
        q, k, v = _project(arch, layer, x, cos, sin)
        all_keys = lax.dynamic_update_slice(old_keys, k.transpose(0, 2, 1)[None], (slot, zero, start, zero))
        all_values = lax.dynamic_update_slice(old_values, v.transpose(0, 2, 1)[None], (slot, zero, start, zero))
        keys.append(all_keys)
        values.append(all_values)
        seen_keys = lax.dynamic_slice(all_keys, (slot, zero, zero, zero), window)[0]  # (k, c, e)
        seen_values = lax.dynamic_slice(all_values, (slot, zero, zero, zero), window)[0]  # (k, c, e)
        grouped = q.reshape(arch.kv_heads, -1, arch.head_dim, size)  # (k, g, e, t)
        scores = jnp.einsum("kget,kce->kgtc", grouped, seen_keys)  # (k, g, t, c)
        mixed = jnp.einsum("kgtc,kce->kget", _attention_weights(arch, scores, visible), seen_values)  # (k, g, e, t)
        x = _finish_layer(arch, layer, x, mixed.reshape(-1, size))
    end = lax.dynamic_slice_in_dim(x, last, 1, axis=1)  # (d, 1)
    return _logits(arch, params, end), Caches(keys, values)


def decode(
    arch: Architecture, params: Params, caches: Caches, rows: jax.Array, *, context: int
) -> tuple[jax.Array, Caches]:
    """Run one token of each row and return the logits (v, b) after it.

    `rows` (3, b) holds token, position and slot of every row; each token's key and value are written at its position,
    which the caller has checked to be below `context`. Padding rows name the scratch slot.
    """
    batch = rows.shape[1]
    tokens, positions, slots = ([rows[i, j] for j in range(batch)] for i in range(3))
    x = jnp.concatenate([lax.dynamic_slice_in_dim(params.embedding, token, 1) for token in tokens]).T  # (d, b)
    cos = jnp.concatenate([lax.dynamic_slice_in_dim(params.cos, p, 1) for p in positions]).T  # (e/2, b)
    sin = jnp.concatenate([lax.dynamic_slice_in_dim(params.sin, p, 1) for p in positions]).T
    visible = lax.iota(jnp.int32, context)[None, :] <= rows[1][:, None]  # (b, c)
    zero = jnp.int32(0)
    window = (1, arch.kv_heads, context, arch.head_dim)
    keys, values = [], []
    for layer, old_keys, old_values in zip(params.layers, caches.keys, caches.values, strict=True):
        q, k, v = _project(arch, layer, x, cos, sin)
        all_keys, all_values = old_keys, old_values
        for row in range(batch):
            corner = (slots[row], zero, positions[row], zero)
            all_keys = lax.dynamic_update_slice(all_keys, k[None, :, None, :, row], corner)
            all_values = lax.dynamic_update_slice(all_values, v[None, :, None, :, row], corner)
        keys.append(all_keys)
        values.append(all_values)
        mixed = []
        for row in range(batch):
            corner = (slots[row], zero, zero, zero)
            seen_keys = lax.dynamic_slice(all_keys, corner, window)[0]  # (k, c, e)
            seen_values = lax.dynamic_slice(all_values, corner, window)[0]  # (k, c, e)
            grouped = q[:, :, row].reshape(arch.kv_heads, -1, arch.head_dim)  # (k, g, e)
            scores = jnp.einsum("kge,kce->kgc", grouped, seen_keys)  # (k, g, c)
            weights = _attention_weights(arch, scores, visible[row])
            mixed.append(jnp.einsum("kgc,kce->kge", weights, seen_values).reshape(-1, 1))  # (h e, 1)
        x = _finish_layer(arch, layer, x, jnp.concatenate(mixed, axis=1))
    return _logits(arch, params, x), Caches(keys, values)


def copy(caches: Caches, slots: jax.Array, *, context: int) -> Caches:
    """The caches with the first `context` positions of slot `slots[0]` also in slot `slots[1]`."""
    source, target = (lax.index_in_dim(slots, i, keepdims=False) for i in range(2))
    zero = jnp.int32(0)

    def move(array: jax.Array) -> jax.Array:
        window = lax.dynamic_slice(array, (source, zero, zero, zero), (1, array.shape[1], context, array.shape[3]))
        return lax.dynamic_update_slice(array, window, (target, zero, zero, zero))

    return Caches([move(array) for array in caches.keys], [move(array) for array in caches.values])


def _norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """RMS norm over the features, computed in float32 whatever the weights are."""
    wide = x.astype(jnp.float32)
    scale = lax.rsqrt(jnp.mean(wide * wide, axis=0, keepdims=True) + jnp.float32(eps))
    return (wide * scale).astype(x.dtype) * weight[:, None]


def _linear(weight: jax.Array, x: jax.Array) -> jax.Array:
    return lax.dot(weight, x)  # (out, in) x (in, b) → (out, b)


def _rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotary embedding in the half-split form, in float32; the loader has reordered the rows of Q and K for it."""
    half = x.shape[1] // 2
    left, right = x[:, :half].astype(jnp.float32), x[:, half:].astype(jnp.float32)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=1).astype(x.dtype)


def _project(
    arch: Architecture, layer: Layer, x: jax.Array, cos: jax.Array, sin: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries (h, e, b) and keys and values (k, e, b) of every row, rotated."""
    counts = (arch.heads, arch.kv_heads, arch.kv_heads)
    normed = _norm(x, layer.attention_norm, arch.norm_eps)
    sizes = tuple(count * arch.head_dim for count in counts)
    parts = _linear_parts(layer.qkv, normed, sizes, layer.qkv_bias)
    q, k, v = (part.reshape(count, arch.head_dim, -1) for part, count in zip(parts, counts, strict=True))
    if layer.head_norms is not None:
        q, k = (_norm_heads(x, norm, arch.norm_eps) for x, norm in zip((q, k), layer.head_norms, strict=True))
    return _rotate(q, cos, sin), _rotate(k, cos, sin), v


def _linear_parts(
    weights: tuple[jax.Array, ...], x: jax.Array, sizes: tuple[int, ...], biases: tuple[jax.Array, ...] | None = None
) -> list[jax.Array]:
    """Several products with the same input, of `sizes` rows each: one product where the weights are merged."""
    products = [_linear(weight, x) for weight in weights]
    if biases is not None:
        products = [product + bias[:, None] for product, bias in zip(products, biases, strict=True)]
    if len(products) == len(sizes):
        return products
    edges = [sum(sizes[:at]) for at in range(len(sizes) + 1)]
    return [products[0][start:end] for start, end in pairwise(edges)]


def _norm_heads(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """RMS norm of each head (h, e, b) over its own features."""
    wide = x.astype(jnp.float32)
    scale = lax.rsqrt(jnp.mean(wide * wide, axis=1, keepdims=True) + jnp.float32(eps))
    return (wide * scale).astype(x.dtype) * weight[None, :, None]


def _attention_weights(arch: Architecture, scores: jax.Array, visible: jax.Array) -> jax.Array:
    """Masked softmax over the last axis, in float32."""
    scaled = scores.astype(jnp.float32) * jnp.float32(arch.head_dim**-0.5)
    masked = jnp.where(visible, scaled, jnp.float32(-1e30))
    powers = jnp.exp(masked - jnp.max(masked, axis=-1, keepdims=True))
    return (powers / jnp.sum(powers, axis=-1, keepdims=True)).astype(scores.dtype)


def _finish_layer(arch: Architecture, layer: Layer, x: jax.Array, mixed: jax.Array) -> jax.Array:
    x = x + _linear(layer.output, mixed)
    gate, up = _linear_parts(layer.gate_up, _norm(x, layer.ffn_norm, arch.norm_eps), (arch.hidden, arch.hidden))
    # Written out: jax.nn.silu is a nested jit, which the device's compiler need not see.
    return x + _linear(layer.down, gate / (1 + jnp.exp(-gate)) * up)


def _logits(arch: Architecture, params: Params, x: jax.Array) -> jax.Array:
    return _linear(params.head, _norm(x, params.norm, arch.norm_eps)).astype(jnp.float32)  # (v, b)
