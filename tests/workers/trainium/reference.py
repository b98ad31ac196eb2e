"""An independent Llama: numpy in float64, no cache, no batch, rotation of neighbours on the rows as the file has them.

Weights come through the `gguf` package. It shares no code with the worker and is written to be read, not to be fast.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class ReferenceLlama:
    """Logits of a whole text at once."""

    def __init__(self, path: Path) -> None:
        reader: Any = gguf.GGUFReader(str(path))
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._fields = reader.fields
        self._read: dict[str, npt.NDArray[np.float32]] = {}
        self.layers = int(self._number("llama.block_count"))
        self.heads = int(self._number("llama.attention.head_count"))
        self.kv_heads = int(self._number("llama.attention.head_count_kv"))
        self.base = self._number("llama.rope.freq_base")
        self.eps = self._number("llama.attention.layer_norm_rms_epsilon")

    def greedy_choices(self, tokens: list[int], start: int) -> tuple[list[int], float]:
        """The most likely next token after each position from `start` on, and the smallest lead over the second."""
        logits = self.logits(tokens, start)
        order = np.sort(logits, axis=-1)
        return [int(row.argmax()) for row in logits], float((order[:, -1] - order[:, -2]).min())

    def logits(self, tokens: list[int], start: int) -> Array:
        """Logits (positions, vocabulary) after every position from `start` on."""
        x = self._weight("token_embd.weight")[tokens]
        for layer in range(self.layers):
            x = x + self._attention(layer, self._norm(x, f"blk.{layer}.attn_norm.weight"))
            h = self._norm(x, f"blk.{layer}.ffn_norm.weight")
            gate = h @ self._weight(f"blk.{layer}.ffn_gate.weight").T
            up = h @ self._weight(f"blk.{layer}.ffn_up.weight").T
            x = x + (gate / (1 + np.exp(-gate)) * up) @ self._weight(f"blk.{layer}.ffn_down.weight").T
        head = "output.weight" if "output.weight" in self._tensors else "token_embd.weight"
        logits: Array = self._norm(x[start:], "output_norm.weight") @ self._weight(head).T
        return logits

    def _attention(self, layer: int, h: Array) -> Array:
        count = len(h)
        q = (h @ self._weight(f"blk.{layer}.attn_q.weight").T).reshape(count, self.heads, -1)
        k = (h @ self._weight(f"blk.{layer}.attn_k.weight").T).reshape(count, self.kv_heads, -1)
        v = (h @ self._weight(f"blk.{layer}.attn_v.weight").T).reshape(count, self.kv_heads, -1)
        q, k = self._rotate(q), self._rotate(k)
        mixed = np.zeros_like(q)
        for head in range(self.heads):
            source = head * self.kv_heads // self.heads
            scores = q[:, head] @ k[:, source].T / np.sqrt(q.shape[-1])
            scores[np.triu_indices(count, 1)] = -np.inf
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed[:, head] = weights / weights.sum(axis=-1, keepdims=True) @ v[:, source]
        out: Array = mixed.reshape(count, -1) @ self._weight(f"blk.{layer}.attn_output.weight").T
        return out

    def _rotate(self, x: Array) -> Array:
        """Turn each pair of neighbours (x0, x1), (x2, x3), … as complex numbers."""
        size = x.shape[-1]
        angles = np.arange(len(x))[:, None] * self.base ** (-np.arange(0, size, 2) / size)
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)[:, None, :]
        out = np.empty_like(x)
        out[..., 0::2], out[..., 1::2] = turned.real, turned.imag
        return out

    def _norm(self, x: Array, name: str) -> Array:
        out: Array = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.eps) * self._weight(name)
        return out

    def _weight(self, name: str) -> Array:
        if name not in self._read:
            tensor = self._tensors[name]
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            self._read[name] = values.reshape(tuple(int(size) for size in tensor.shape)[::-1])
        return self._read[name].astype(np.float64)

    def _number(self, key: str) -> float:
        field = self._fields[key]
        return float(field.parts[field.data[0]][0])
