"""Tiny models of several families as folders of safetensors, with random weights; and a plain reference for them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.workers.trainium.tiny import TEMPLATE, VOCAB, byte_characters
from tests.workers.trainium.tiny_bert import read_safetensors, write_safetensors

Array = npt.NDArray[np.float64]
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": VOCAB,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "eos_token_id": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama3": {
        "model_type": "llama",
        "rope_theta": 500000.0,
        "rope_scaling": LLAMA3_ROPE,
        "tie_word_embeddings": False,
    },
    "llama-linear": {"model_type": "llama", "rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "qwen2": {"model_type": "qwen2", "rope_theta": 1000000.0, "tie_word_embeddings": True, "use_sliding_window": False},
    "qwen3": {
        "model_type": "qwen3",
        "head_dim": 32,
        "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
        "tie_word_embeddings": True,
    },
}


def write_checkpoint(folder: Path, family: str) -> Path:
    """Write configuration, weights in two files, tokenizer and chat template."""
    folder.mkdir()
    config = COMMON | FAMILIES[family]
    rng = np.random.default_rng(9)
    width, hidden, heads, kv_heads = 64, 96, 4, 2
    head_dim = config.get("head_dim", width // heads)
    tensors: dict[str, npt.NDArray[Any]] = {
        "model.embed_tokens.weight": rng.normal(size=(VOCAB, width)),
        "model.norm.weight": rng.uniform(0.5, 1.5, width),
    }
    tensors["model.embed_tokens.weight"][2] = 0
    if not config.get("tie_word_embeddings"):
        tensors["lm_head.weight"] = rng.normal(size=(VOCAB, width))
        tensors["lm_head.weight"][2] = 0
    for layer in range(2):
        base = f"model.layers.{layer}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{base}.{name}.weight"] = rng.uniform(0.5, 1.5, width)
        for part, rows in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            tensors[f"{base}.self_attn.{part}_proj.weight"] = rng.normal(scale=0.3, size=(rows * head_dim, width))
            if family == "qwen2":
                tensors[f"{base}.self_attn.{part}_proj.bias"] = rng.normal(scale=0.5, size=rows * head_dim)
        if family == "qwen3":
            for part in "qk":
                tensors[f"{base}.self_attn.{part}_norm.weight"] = rng.uniform(0.5, 2.0, head_dim)
        tensors[f"{base}.self_attn.o_proj.weight"] = rng.normal(scale=0.3, size=(width, heads * head_dim))
        tensors[f"{base}.mlp.gate_proj.weight"] = rng.normal(scale=0.3, size=(hidden, width))
        tensors[f"{base}.mlp.up_proj.weight"] = rng.normal(scale=0.3, size=(hidden, width))
        tensors[f"{base}.mlp.down_proj.weight"] = rng.normal(scale=0.3, size=(width, hidden))
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, members in halves.items():
        write_safetensors(folder / file, {name: tensors[name] for name in members})
    index = {name: file for file, members in halves.items() for name in members}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(config))
    letters = "abcdefghijklmnop"
    merges = [[left, right] for left in letters for right in letters][: VOCAB - 260]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_characters(), *(a + b for a, b in merges)]
    added = [{"id": at, "content": token, "special": True} for at, token in enumerate(tokens[:3])]
    added.append({"id": len(tokens), "content": "<tool_call>", "special": False})
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [token | flags for token in added],
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {token: at for at, token in enumerate(tokens)}, "merges": merges},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"chat_template": "{{ bos_token }}" + TEMPLATE, "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    return folder


def reference_logits(folder: Path, tokens: list[int]) -> Array:
    """Logits (positions, vocabulary) of the whole text, in float64, as the published models compute them."""
    config = json.loads((folder / "config.json").read_text())
    weights = read_safetensors(folder / "a.safetensors") | read_safetensors(folder / "b.safetensors")
    heads, kv_heads, eps = config["num_attention_heads"], config["num_key_value_heads"], config["rms_norm_eps"]
    head_dim = config.get("head_dim", config["hidden_size"] // heads)
    count = len(tokens)

    def norm(x: Array, name: str) -> Array:
        out: Array = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weights[name]
        return out

    def project(x: Array, base: str, part: str) -> Array:
        out: Array = x @ weights[f"{base}.self_attn.{part}_proj.weight"].T
        if f"{base}.self_attn.{part}_proj.bias" in weights:
            out = out + weights[f"{base}.self_attn.{part}_proj.bias"]
        out = out.reshape(count, -1, head_dim)
        name = f"{base}.self_attn.{part}_norm.weight"
        return norm(out, name) if name in weights else out

    angles = np.arange(count)[:, None] * np.concatenate([_frequencies(config, head_dim)] * 2)[None]

    def rotate(x: Array) -> Array:
        left, right = np.split(x, 2, axis=-1)
        turned: Array = x * np.cos(angles)[:, None] + np.concatenate([-right, left], axis=-1) * np.sin(angles)[:, None]
        return turned

    x = weights["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        base = f"model.layers.{layer}"
        h = norm(x, f"{base}.input_layernorm.weight")
        q, k = rotate(project(h, base, "q")), rotate(project(h, base, "k"))
        v = project(h, base, "v")
        mixed = np.zeros((count, heads, head_dim))
        for head in range(heads):
            source = head // (heads // kv_heads)
            scores = q[:, head] @ k[:, source].T / np.sqrt(head_dim)
            scores[np.triu_indices(count, 1)] = -np.inf
            powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed[:, head] = powers / powers.sum(axis=-1, keepdims=True) @ v[:, source]
        x = x + mixed.reshape(count, -1) @ weights[f"{base}.self_attn.o_proj.weight"].T
        h = norm(x, f"{base}.post_attention_layernorm.weight")
        gate, up = (h @ weights[f"{base}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ weights[f"{base}.mlp.down_proj.weight"].T
    head_name = "lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"
    out: Array = norm(x, "model.norm.weight") @ weights[head_name].T
    return out


def _frequencies(config: dict[str, Any], head_dim: int) -> Array:
    """As the published code computes them, one by one."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = float(rope.get("rope_theta") or config["rope_theta"])
    found = []
    for at in range(0, head_dim, 2):
        frequency = base ** (-at / head_dim)
        wavelength = 2 * np.pi / frequency
        if rope.get("type") == "linear":
            frequency /= rope["factor"]
        elif rope.get("rope_type") == "llama3":
            original, low, high = (
                rope["original_max_position_embeddings"],
                rope["low_freq_factor"],
                rope["high_freq_factor"],
            )
            if wavelength > original / low:
                frequency /= rope["factor"]
            elif wavelength > original / high:
                smooth = (original / wavelength - low) / (high - low)
                frequency = (1 - smooth) * frequency / rope["factor"] + smooth * frequency
        found.append(frequency)
    return np.array(found)
