"""From a GGUF file to the parameters `llama.py` computes with. Knows the tensor names and layouts of Llama files."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np

from workers.trainium.errors import ModelUnavailable
from workers.trainium.model.gguf import FloatArray, GgufFile
from workers.trainium.model.llama import Architecture, Layer, Params

_READERS: Final = 2
"""Threads that dequantize; numpy releases the interpreter lock, and more than two only raise the peak memory."""


def read_architecture(file: GgufFile) -> Architecture:
    """The model's shape numbers. Raises `ModelUnavailable` when the file is not a plain Llama model."""
    family = file.text("general.architecture")
    if family != "llama":
        raise ModelUnavailable(f"{file.path} is a `{family}` model; this worker runs `llama` models")
    heads = file.integer("llama.attention.head_count")
    width = file.integer("llama.embedding_length")
    return Architecture(
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


def load_params(
    file: GgufFile,
    arch: Architecture,
    *,
    length: int,
    dtype: jnp.dtype,
    device: jax.Device,
    report: Callable[[int, int], None],
) -> Params:
    """Dequantize every tensor and place it on `device` as `dtype`; the float32 tables cover `length` positions.

    `report(done, total)` is called after each layer, from this thread.
    """

    def place(array: FloatArray) -> jax.Array:
        placed: jax.Array = jax.device_put(array.astype(dtype), device)
        return placed

    def layer(index: int) -> Layer:
        def tensor(name: str) -> FloatArray:
            return file.read(f"blk.{index}.{name}.weight")

        q = _half_split(tensor("attn_q"), arch.heads)
        k = _half_split(tensor("attn_k"), arch.kv_heads)
        return Layer(
            attention_norm=place(tensor("attn_norm")),
            qkv=place(np.concatenate([q, k, tensor("attn_v")])),
            output=place(tensor("attn_output")),
            ffn_norm=place(tensor("ffn_norm")),
            gate_up=place(np.concatenate([tensor("ffn_gate"), tensor("ffn_up")])),
            down=place(tensor("ffn_down")),
        )

    layers: list[Layer] = []
    with ThreadPoolExecutor(_READERS, thread_name_prefix="weights") as pool:
        embedding = pool.submit(lambda: place(file.read("token_embd.weight")))
        for done, value in enumerate(pool.map(layer, range(arch.layers)), start=1):
            layers.append(value)
            report(done, arch.layers)
    tied = "output.weight" not in file.tensors
    cos, sin = rotation_tables(arch, length)
    return Params(
        embedding=embedding.result(),
        layers=layers,
        norm=place(file.read("output_norm.weight")),
        head=embedding.result() if tied else place(file.read("output.weight")),
        # Not rounded to the weights' type: late positions would lose their order.
        cos=jax.device_put(cos, device),
        sin=jax.device_put(sin, device),
    )


def rotation_tables(arch: Architecture, length: int) -> tuple[FloatArray, FloatArray]:
    """Cosines and sines (length, head_dim / 2) of the rotary embedding, computed in float64."""
    frequencies = arch.rope_base ** -(np.arange(0, arch.head_dim, 2, dtype=np.float64) / arch.head_dim)
    angles = np.arange(length, dtype=np.float64)[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _half_split(weight: FloatArray, heads: int) -> FloatArray:
    """Undo the row order GGUF files use for Q and K.

    They interleave the two halves of each head (x0, x32, x1, x33, …) for a rotation of neighbours; ours rotates
    halves, which needs contiguous slices only. Forgetting this gives fluent nonsense, not an error.
    """
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)
