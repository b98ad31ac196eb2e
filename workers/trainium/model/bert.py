"""BERT as a sentence encoder: the forward pass as a pure function, and its weights from a checkpoint.

Mean of the last layer over a text's tokens, scaled to length 1, as the sentence-transformers models of this family are
trained. As in `llama.py` only operations every target compiles, and activations are feature-major. The embedding rows
are gathered; their ids are checked on the host.

Shapes at line ends use: b texts, t positions, d width, h heads, e head size, f hidden width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from workers.trainium.errors import ModelUnavailable
from workers.trainium.model.lookup import rows_of
from workers.trainium.model.safetensors import Checkpoint, FloatArray


@dataclass(frozen=True, slots=True)
class BertArchitecture:
    """The numbers that fix every shape."""

    layers: int
    width: int
    heads: int
    vocab: int
    positions: int
    norm_eps: float


class Linear(NamedTuple):
    """A matrix stored (out, in), and its bias (out,)."""

    weight: jax.Array
    bias: jax.Array


class Norm(NamedTuple):
    """Scale and shift of a layer norm, each (d,)."""

    scale: jax.Array
    shift: jax.Array


class BertLayer(NamedTuple):
    """Weights of one layer."""

    qkv: Linear
    output: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    norm: Norm


class BertParams(NamedTuple):
    """All weights."""

    words: jax.Array  # (v, d)
    positions: jax.Array  # (positions, d); the first token type is added in
    norm: Norm
    layers: list[BertLayer]


def embed(arch: BertArchitecture, params: BertParams, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
    """Embeddings (b, d) of length 1 of the texts in `tokens` (b, t), of which `lengths` (b,) tokens are real.

    A length of 0 marks a row of padding; what comes out of it means nothing.
    """
    batch, size = tokens.shape
    words = rows_of(params.words, tokens.reshape(-1)).reshape(batch, size, arch.width)
    x = (words + params.positions[None, :size]).reshape(batch * size, arch.width).T  # (d, b t)
    x = _norm(x, params.norm, arch.norm_eps)
    is_real = lax.broadcasted_iota(jnp.int32, (batch, size), 1) < lengths[:, None]  # (b, t)
    head_dim = arch.width // arch.heads
    for layer in params.layers:
        q, k, v = _linear(layer.qkv, x).reshape(3, arch.heads, head_dim, batch, size)  # each (h, e, b, t)
        scores = jnp.einsum("hebt,hebs->bhts", q, k).astype(jnp.float32) * jnp.float32(head_dim**-0.5)
        masked = jnp.where(is_real[:, None, None, :], scores, jnp.float32(-1e30))
        powers = jnp.exp(masked - jnp.max(masked, axis=-1, keepdims=True))
        weights = (powers / jnp.sum(powers, axis=-1, keepdims=True)).astype(x.dtype)
        mixed = jnp.einsum("bhts,hebs->hebt", weights, v).reshape(arch.width, batch * size)
        x = _norm(x + _linear(layer.output, mixed), layer.attention_norm, arch.norm_eps)
        x = _norm(x + _linear(layer.down, _gelu(_linear(layer.up, x))), layer.norm, arch.norm_eps)
    last = x.astype(jnp.float32).reshape(arch.width, batch, size)
    mean = jnp.sum(last * is_real.astype(jnp.float32)[None], axis=2)  # (d, b); scaled below
    length = lax.rsqrt(jnp.maximum(jnp.sum(mean * mean, axis=0), jnp.float32(1e-24)))
    return jnp.transpose(mean * length)


def _linear(linear: Linear, x: jax.Array) -> jax.Array:
    return jnp.add(lax.dot(linear.weight, x), linear.bias[:, None])


def _norm(x: jax.Array, norm: Norm, eps: float) -> jax.Array:
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=0, keepdims=True)
    scale = lax.rsqrt(jnp.mean(centred * centred, axis=0, keepdims=True) + jnp.float32(eps))
    return jnp.add((centred * scale).astype(x.dtype) * norm.scale[:, None], norm.shift[:, None])


def _gelu(x: jax.Array) -> jax.Array:
    """The input times the normal distribution's cumulated probability.

    The error function is Abramowitz and Stegun's 7.1.26, right to 1.5e-7, of operations every target has.
    """
    wide = x.astype(jnp.float32)
    z = wide * jnp.float32(0.5**0.5)
    size = jnp.maximum(z, -z)
    t = 1 / (1 + jnp.float32(0.3275911) * size)
    series = jnp.float32(1.061405429)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = series * t + jnp.float32(factor)
    tail = series * t * jnp.exp(-size * size)  # 1 - erf(|z|)
    cumulated = jnp.where(z < 0, tail, 2 - tail) * jnp.float32(0.5)
    return lax.convert_element_type(wide * cumulated, x.dtype)


def read_bert(checkpoint: Checkpoint) -> BertArchitecture:
    """The model's numbers. Raises `ModelUnavailable` when it is no BERT this worker knows."""
    config = checkpoint.config
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise ModelUnavailable(f"{checkpoint.folder} is not a BERT encoder with GELU")
    try:
        return BertArchitecture(
            layers=int(config["num_hidden_layers"]),
            width=int(config["hidden_size"]),
            heads=int(config["num_attention_heads"]),
            vocab=int(config["vocab_size"]),
            positions=int(config["max_position_embeddings"]),
            norm_eps=float(config["layer_norm_eps"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelUnavailable(f"{checkpoint.folder}/config.json lacks {error}") from error


def load_bert(
    checkpoint: Checkpoint,
    arch: BertArchitecture,
    *,
    dtype: jnp.dtype,
    place: Callable[[npt.NDArray[Any]], jax.Array],
    report: Callable[[int, int], None],
) -> BertParams:
    """Read the weights and `place` them on the device; `report(done, total)` counts layers."""

    def put(array: FloatArray) -> jax.Array:
        return place(array.astype(dtype))

    def linear(*names: str) -> Linear:
        return Linear(
            put(np.concatenate([checkpoint.read(f"{name}.weight") for name in names])),
            put(np.concatenate([checkpoint.read(f"{name}.bias") for name in names])),
        )

    def norm(name: str) -> Norm:
        return Norm(put(checkpoint.read(f"{name}.weight")), put(checkpoint.read(f"{name}.bias")))

    layers = []
    for index in range(arch.layers):
        base = f"encoder.layer.{index}"
        layers.append(
            BertLayer(
                qkv=linear(*(f"{base}.attention.self.{part}" for part in ("query", "key", "value"))),
                output=linear(f"{base}.attention.output.dense"),
                attention_norm=norm(f"{base}.attention.output.LayerNorm"),
                up=linear(f"{base}.intermediate.dense"),
                down=linear(f"{base}.output.dense"),
                norm=norm(f"{base}.output.LayerNorm"),
            )
        )
        report(index + 1, arch.layers)
    types = checkpoint.read("embeddings.token_type_embeddings.weight")
    return BertParams(
        words=put(checkpoint.read("embeddings.word_embeddings.weight")),
        positions=put(checkpoint.read("embeddings.position_embeddings.weight") + types[0]),
        norm=norm("embeddings.LayerNorm"),
        layers=layers,
    )
