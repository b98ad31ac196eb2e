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
        choices, leads = self.greedy_choices_of([(tokens, start)])[0]
        return choices, min(leads)

    def greedy_choices_of(self, texts: list[tuple[list[int], int]]) -> list[tuple[list[int], list[float]]]:
        """The same of several texts, each by itself, with every lead; each weight is read once for all of them."""
        found = []
        for logits in self._logits_of(texts):
            order = np.partition(logits, -2, axis=-1)
            found.append(([int(row.argmax()) for row in logits], [float(row[-1] - row[-2]) for row in order]))
        return found

    def logits(self, tokens: list[int], start: int) -> Array:
        """Logits (positions, vocabulary) after every position from `start` on."""
        return self._logits_of([(tokens, start)])[0]

    def _logits_of(self, texts: list[tuple[list[int], int]]) -> list[Array]:
        """All texts are one array, one below the other, but where a position reads those before it."""
        embedding = self._weight("token_embd.weight")
        x = embedding[[token for tokens, _ in texts for token in tokens]]
        ends = np.cumsum([len(tokens) for tokens, _ in texts])
        for layer in range(self.layers):
            names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
            q, k, v, output, gate, up, down = (self._weight(f"blk.{layer}.{name}.weight") for name in names)
            h = self._norm(x, f"blk.{layer}.attn_norm.weight")
            parts = zip(*(np.split(h @ weight.T, ends[:-1]) for weight in (q, k, v)), strict=True)
            x = x + np.concatenate([self._attention(*part) for part in parts]) @ output.T
            h = self._norm(x, f"blk.{layer}.ffn_norm.weight")
            opened = h @ gate.T
            x = x + (opened / (1 + np.exp(-opened)) * (h @ up.T)) @ down.T
        head = self._weight("output.weight") if "output.weight" in self._tensors else embedding
        asked = [rows[start:] for rows, (_, start) in zip(np.split(x, ends[:-1]), texts, strict=True)]
        return [self._norm(rows, "output_norm.weight") @ head.T for rows in asked]

    def _attention(self, q: Array, k: Array, v: Array) -> Array:
        count = len(q)
        q = q.reshape(count, self.heads, -1)
        k, v = k.reshape(count, self.kv_heads, -1), v.reshape(count, self.kv_heads, -1)
        q, k = self._rotate(q), self._rotate(k)
        mixed = np.zeros_like(q)
        for head in range(self.heads):
            source = head * self.kv_heads // self.heads
            scores = q[:, head] @ k[:, source].T / np.sqrt(q.shape[-1])
            scores[np.triu_indices(count, 1)] = -np.inf
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed[:, head] = weights / weights.sum(axis=-1, keepdims=True) @ v[:, source]
        return mixed.reshape(count, -1)

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
