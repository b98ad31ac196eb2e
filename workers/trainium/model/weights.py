"""From a model's files to the parameters `llama.py` computes with: tensor names and layouts of GGUF and of checkpoints.

Both are read through one small interface, layer by layer, and placed on one device or split over several.
"""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from workers.trainium.errors import ModelUnavailable
from workers.trainium.model.gguf import FloatArray, GgufFile
from workers.trainium.model.llama import Architecture, Layer, Params, RopeScaling
from workers.trainium.model.placement import Placement
from workers.trainium.model.safetensors import Checkpoint

_READERS: Final = 2
"""Threads that dequantize; numpy releases the interpreter lock, and more than two only raise the peak memory."""


class LayerWeights(NamedTuple):
    """One layer as the files have it, but for Q and K, whose halves are rotated; matrices are (out, in)."""

    attention_norm: FloatArray
    q: FloatArray
    k: FloatArray
    v: FloatArray
    output: FloatArray
    ffn_norm: FloatArray
    gate: FloatArray
    up: FloatArray
    down: FloatArray
    biases: tuple[FloatArray, FloatArray, FloatArray] | None = None
    """Of q, k and v, in models that have them."""
    head_norms: tuple[FloatArray, FloatArray] | None = None
    """Of the queries and the keys, in models that have them."""


class Weights(Protocol):
    """A model's files."""

    @property
    def arch(self) -> Architecture:
        """The numbers that fix every shape."""
        ...

    def layer(self, index: int) -> LayerWeights:
        """One layer. May be called from several threads."""
        ...

    def embedding(self) -> FloatArray:
        """A row (width,) per token."""
        ...

    def norm(self) -> FloatArray:
        """Of the last layer's output."""
        ...

    def head(self) -> FloatArray | None:
        """A row (width,) per token; None when it is the embedding."""
        ...


def open_weights(file: GgufFile | Checkpoint) -> Weights:
    """The weights in a file. Raises `ModelUnavailable` when it is of a family this worker does not run."""
    return GgufWeights(file) if isinstance(file, GgufFile) else CheckpointWeights(file)


class GgufWeights:
    """A Llama model in a GGUF file."""

    def __init__(self, file: GgufFile) -> None:
        family = file.text("general.architecture")
        if family != "llama":
            raise ModelUnavailable(
                f"{file.path} is a `{family}` model; this worker runs `llama` models from GGUF files"
            )
        heads = file.integer("llama.attention.head_count")
        width = file.integer("llama.embedding_length")
        self._file = file
        self.arch = Architecture(
            layers=file.integer("llama.block_count"),
            width=width,
            heads=heads,
            kv_heads=file.integer("llama.attention.head_count_kv", heads),
            head_dim=file.integer("llama.rope.dimension_count", width // heads),
            hidden=file.integer("llama.feed_forward_length"),
            vocab=file.tensors["token_embd.weight"].shape[0],
            rope_base=file.number("llama.rope.freq_base"),
            norm_eps=file.number("llama.attention.layer_norm_rms_epsilon"),
            context=file.integer("llama.context_length"),
        )

    def layer(self, index: int) -> LayerWeights:
        """One layer, dequantized."""

        def tensor(name: str) -> FloatArray:
            return self._file.read(f"blk.{index}.{name}.weight")

        return LayerWeights(
            attention_norm=tensor("attn_norm"),
            q=_half_split(tensor("attn_q"), self.arch.heads),
            k=_half_split(tensor("attn_k"), self.arch.kv_heads),
            v=tensor("attn_v"),
            output=tensor("attn_output"),
            ffn_norm=tensor("ffn_norm"),
            gate=tensor("ffn_gate"),
            up=tensor("ffn_up"),
            down=tensor("ffn_down"),
        )

    def embedding(self) -> FloatArray:
        """A row per token."""
        return self._file.read("token_embd.weight")

    def norm(self) -> FloatArray:
        """Of the last layer's output."""
        return self._file.read("output_norm.weight")

    def head(self) -> FloatArray | None:
        """A row per token; None when it is the embedding."""
        return self._file.read("output.weight") if "output.weight" in self._file.tensors else None


class CheckpointWeights:
    """A dense Llama 3, Qwen 2.5 or Qwen 3 in a folder of safetensors."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.arch = read_config(checkpoint.config, str(checkpoint.folder))

    def layer(self, index: int) -> LayerWeights:
        """One layer."""
        base, arch = f"model.layers.{index}", self.arch

        def tensor(name: str) -> FloatArray:
            return self._checkpoint.read(f"{base}.{name}")

        q, k, v = (f"self_attn.{part}_proj" for part in "qkv")
        return LayerWeights(
            attention_norm=tensor("input_layernorm.weight"),
            q=tensor(f"{q}.weight"),
            k=tensor(f"{k}.weight"),
            v=tensor(f"{v}.weight"),
            output=tensor("self_attn.o_proj.weight"),
            ffn_norm=tensor("post_attention_layernorm.weight"),
            gate=tensor("mlp.gate_proj.weight"),
            up=tensor("mlp.up_proj.weight"),
            down=tensor("mlp.down_proj.weight"),
            biases=(tensor(f"{q}.bias"), tensor(f"{k}.bias"), tensor(f"{v}.bias")) if arch.has_biases else None,
            head_norms=(
                (tensor("self_attn.q_norm.weight"), tensor("self_attn.k_norm.weight")) if arch.has_head_norms else None
            ),
        )

    def embedding(self) -> FloatArray:
        """A row per token."""
        return self._checkpoint.read("model.embed_tokens.weight")

    def norm(self) -> FloatArray:
        """Of the last layer's output."""
        return self._checkpoint.read("model.norm.weight")

    def head(self) -> FloatArray | None:
        """A row per token; None when it is the embedding."""
        tied = bool(self._checkpoint.config.get("tie_word_embeddings", False))
        return None if tied else self._checkpoint.read("lm_head.weight")


_FAMILIES: Final = ("llama", "qwen2", "qwen3")


def read_config(config: Mapping[str, Any], where: str) -> Architecture:
    """The numbers of a `config.json`. Raises `ModelUnavailable` for what this worker would compute wrongly."""
    family = config.get("model_type")
    if family not in _FAMILIES:
        raise ModelUnavailable(f"{where} is a `{family}` model; this worker runs {', '.join(_FAMILIES)}")
    wrong = {
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "attention_bias": bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "use_sliding_window": bool(config.get("use_sliding_window")),
        "quantization_config": config.get("quantization_config") is not None,
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            raise ModelUnavailable(f"{where}: this worker does not run models with `{name}`: {config.get(name)}")
    try:
        heads, width = int(config["num_attention_heads"]), int(config["hidden_size"])
        # Newer files keep everything of the rotation in one place.
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        return Architecture(
            layers=int(config["num_hidden_layers"]),
            width=width,
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or width // heads),
            hidden=int(config["intermediate_size"]),
            vocab=int(config["vocab_size"]),
            rope_base=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
            norm_eps=float(config["rms_norm_eps"]),
            context=int(config["max_position_embeddings"]),
            has_biases=family == "qwen2",
            has_head_norms=family == "qwen3",
            rope_scaling=_read_scaling(rope, where),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelUnavailable(f"{where}/config.json lacks or misstates {error}") from error


def _read_scaling(rope: Mapping[str, Any], where: str) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        # Every frequency is "low" when the limits are beyond all wavelengths.
        return RopeScaling(float(rope["factor"]), 0.0, 0.0, 0.0)
    if kind == "llama3":
        return RopeScaling(
            float(rope["factor"]),
            float(rope["low_freq_factor"]),
            float(rope["high_freq_factor"]),
            float(rope["original_max_position_embeddings"]),
        )
    raise ModelUnavailable(f"{where}: this worker does not know the rope scaling `{kind}`")


@dataclass(frozen=True, slots=True)
class _Placer:
    placement: Placement
    dtype: jnp.dtype

    def whole(self, array: FloatArray) -> jax.Array:
        return self.placement.whole(array.astype(self.dtype))

    def rows(self, *arrays: FloatArray) -> tuple[jax.Array, ...]:
        """Matrices whose outputs are split over the devices; merged into one where there is one device."""
        if self.placement.count == 1:
            return (self.whole(np.concatenate(arrays)),)
        return tuple(self.placement.split(array.astype(self.dtype), 0) for array in arrays)

    def columns(self, array: FloatArray) -> jax.Array:
        return self.placement.split(array.astype(self.dtype), 1)


def load_params(
    weights: Weights,
    *,
    length: int,
    dtype: jnp.dtype,
    placement: Placement,
    report: Callable[[int, int], None],
) -> Params:
    """Read every tensor and place it as `dtype`; the float32 rotation tables cover `length` positions.

    `report(done, total)` is called after each layer, from this thread.
    """
    arch, place = weights.arch, _Placer(placement, dtype)

    def layer(index: int) -> Layer:
        read = weights.layer(index)
        return Layer(
            attention_norm=place.whole(read.attention_norm),
            qkv=place.rows(read.q, read.k, read.v),
            output=place.columns(read.output),
            ffn_norm=place.whole(read.ffn_norm),
            gate_up=place.rows(read.gate, read.up),
            down=place.columns(read.down),
            qkv_bias=None if read.biases is None else place.rows(*read.biases),
            head_norms=None if read.head_norms is None else tuple(place.whole(norm) for norm in read.head_norms),
        )

    layers: list[Layer] = []
    with ThreadPoolExecutor(_READERS, thread_name_prefix="weights") as pool:
        embedding = pool.submit(lambda: place.whole(weights.embedding()))
        for done, value in enumerate(pool.map(layer, range(arch.layers)), start=1):
            layers.append(value)
            report(done, arch.layers)
    head = weights.head()
    cos, sin = rotation_tables(arch, length)
    return Params(
        embedding=embedding.result(),
        layers=layers,
        norm=place.whole(weights.norm()),
        head=embedding.result() if head is None else place.whole(head),
        # Not rounded to the weights' type: late positions would lose their order.
        cos=placement.whole(cos),
        sin=placement.whole(sin),
    )


def rotation_tables(arch: Architecture, length: int) -> tuple[FloatArray, FloatArray]:
    """Cosines and sines (length, head_dim / 2) of the rotary embedding, computed in float64."""
    frequencies = arch.rope_base ** -(np.arange(0, arch.head_dim, 2, dtype=np.float64) / arch.head_dim)
    if arch.rope_scaling is not None:
        frequencies = frequencies * _scaled(arch.rope_scaling, frequencies)
    angles = np.arange(length, dtype=np.float64)[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _scaled(scaling: RopeScaling, frequencies: np.ndarray[Any, np.dtype[np.float64]]) -> Any:
    """What each frequency is multiplied by: slow ones are slowed, fast ones kept, those between mixed (Llama 3.1)."""
    if not scaling.original_context:
        return 1 / scaling.factor
    turns = scaling.original_context * frequencies / (2 * math.pi)
    share = (turns - scaling.low) / (scaling.high - scaling.low)
    share = np.clip(share, 0, 1)
    return share + (1 - share) / scaling.factor


def _half_split(weight: FloatArray, heads: int) -> FloatArray:
    """Undo the row order GGUF files use for Q and K.

    They interleave the two halves of each head (x0, x32, x1, x33, …) for a rotation of neighbours; ours rotates
    halves, which needs contiguous slices only. Forgetting this gives fluent nonsense, not an error.
    """
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)
