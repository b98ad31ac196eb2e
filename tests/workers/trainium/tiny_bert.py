"""A BERT of two layers with random weights, as the folder a Hugging Face library would write; and a plain reference."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models, pre_tokenizers, processors

Array = npt.NDArray[np.float64]
CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 40,
    "max_position_embeddings": 64,
    "layer_norm_eps": 1e-12,
}


def write_safetensors(path: Path, tensors: Mapping[str, npt.NDArray[Any]], *, kind: str = "F32") -> Path:
    """Write the file format by hand: a length, a header, the bytes."""
    header, blobs, at = {}, [], 0
    for name, values in tensors.items():
        wide = values.astype("<f4")
        raw = wide.tobytes()
        if kind == "F16":
            raw = values.astype("<f2").tobytes()
        if kind == "BF16":
            raw = (wide.view("<u4") >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        blobs.append(raw)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    return path


def read_safetensors(path: Path) -> dict[str, Array]:
    """Read a file of float32 tensors, independently of the worker."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    found = {}
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if entry.get("dtype") == "F32":
            begin, end = (8 + size + at for at in entry["data_offsets"])
            found[name] = np.frombuffer(raw[begin:end], "<f4").reshape(entry["shape"]).astype(np.float64)
    return found


def write_tiny_bert(folder: Path) -> Path:
    """Write configuration, weights and a tokenizer of single letters."""
    folder.mkdir()
    rng = np.random.default_rng(5)
    width, hidden = 32, 48
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (40, width),
        "embeddings.position_embeddings.weight": (64, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm": (width,),
    }
    for layer in range(2):
        base = f"encoder.layer.{layer}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= {f"{base}.{part}.weight": (width, width), f"{base}.{part}.bias": (width,)}
        shapes |= {f"{base}.attention.output.LayerNorm": (width,), f"{base}.output.LayerNorm": (width,)}
        shapes |= {f"{base}.intermediate.dense.weight": (hidden, width), f"{base}.intermediate.dense.bias": (hidden,)}
        shapes |= {f"{base}.output.dense.weight": (width, hidden), f"{base}.output.dense.bias": (width,)}
    tensors: dict[str, npt.NDArray[Any]] = {}
    for name, shape in shapes.items():
        if name.endswith("LayerNorm"):
            tensors[f"{name}.weight"] = rng.uniform(0.5, 1.5, shape)
            tensors[f"{name}.bias"] = rng.normal(scale=0.2, size=shape)
        else:
            tensors[name] = rng.normal(scale=0.3, size=shape)
    write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 48}')
    letters = {letter: index + 3 for index, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2} | letters, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def reference_embedding(folder: Path, tokens: list[int]) -> Array:
    """One text at a time, in float64, by the book."""
    from math import erf

    config = json.loads((folder / "config.json").read_text())
    weights = read_safetensors(folder / "model.safetensors")
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]

    def linear(name: str, x: Array) -> Array:
        out: Array = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        return out

    def norm(name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
        out: Array = scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]
        return out

    x = weights["embeddings.word_embeddings.weight"][tokens]
    x = x + weights["embeddings.position_embeddings.weight"][: len(tokens)]
    x = norm("embeddings.LayerNorm", x + weights["embeddings.token_type_embeddings.weight"][0])
    for layer in range(config["num_hidden_layers"]):
        base = f"encoder.layer.{layer}"
        q, k, v = (
            linear(f"{base}.attention.self.{part}", x).reshape(len(tokens), heads, -1)
            for part in ("query", "key", "value")
        )
        mixed = np.zeros_like(q)
        for head in range(heads):
            scores = q[:, head] @ k[:, head].T / np.sqrt(q.shape[-1])
            powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed[:, head] = powers / powers.sum(axis=-1, keepdims=True) @ v[:, head]
        attended = linear(f"{base}.attention.output.dense", mixed.reshape(len(tokens), -1))
        x = norm(f"{base}.attention.output.LayerNorm", x + attended)
        up = linear(f"{base}.intermediate.dense", x)
        up = up * 0.5 * (1 + np.vectorize(erf)(up / np.sqrt(2)))
        x = norm(f"{base}.output.LayerNorm", x + linear(f"{base}.output.dense", up))
    mean = x.mean(axis=0)
    out: Array = mean / np.sqrt((mean * mean).sum())
    return out
