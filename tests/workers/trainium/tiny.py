"""A Llama small enough to compile in a second, written by the `gguf` package as a real file."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

LAYERS, WIDTH, HEADS, KV_HEADS, HIDDEN, VOCAB = 2, 64, 4, 2, 96, 512
END = 2
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_characters() -> list[str]:
    """The characters a byte-level vocabulary writes the bytes 0 … 255 with."""
    kept = set(range(33, 127)) | set(range(161, 173)) | set(range(174, 256))
    spare = iter(range(256, 512))
    return [chr(byte) if byte in kept else chr(next(spare)) for byte in range(256)]


def write_tiny_model(path: Path, *, kind: str = "Q8_0") -> Path:
    """Write the model, its matrices quantized as `kind`. Its end token is never the most likely one."""
    rng = np.random.default_rng(7)
    writer: Any = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_context_length(16384)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    letters = "abcdefghijklmnop"
    merges = [(left, right) for left in letters for right in letters][: VOCAB - 259]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_characters(), *(a + b for a, b in merges)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (VOCAB - 3))
    writer.add_token_merges([f"{a} {b}" for a, b in merges])
    writer.add_eos_token_id(END)
    writer.add_chat_template(TEMPLATE)

    def matrix(name: str, rows: int, columns: int, scale: float) -> None:
        values = rng.normal(scale=scale, size=(rows, columns)).astype(np.float32)
        if name == "token_embd":
            # Tied head: a zero row has logit 0, which never wins against 511 others.
            values[END] = 0
        quantization = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, quantization), raw_dtype=quantization)

    def vector(name: str, size: int) -> None:
        writer.add_tensor(f"{name}.weight", rng.uniform(0.5, 1.5, size).astype(np.float32))

    matrix("token_embd", VOCAB, WIDTH, 1.0)
    head_dim = WIDTH // HEADS
    for layer in range(LAYERS):
        vector(f"blk.{layer}.attn_norm", WIDTH)
        matrix(f"blk.{layer}.attn_q", HEADS * head_dim, WIDTH, 0.3)
        matrix(f"blk.{layer}.attn_k", KV_HEADS * head_dim, WIDTH, 0.3)
        matrix(f"blk.{layer}.attn_v", KV_HEADS * head_dim, WIDTH, 0.3)
        matrix(f"blk.{layer}.attn_output", WIDTH, HEADS * head_dim, 0.3)
        vector(f"blk.{layer}.ffn_norm", WIDTH)
        matrix(f"blk.{layer}.ffn_gate", HIDDEN, WIDTH, 0.3)
        matrix(f"blk.{layer}.ffn_up", HIDDEN, WIDTH, 0.3)
        matrix(f"blk.{layer}.ffn_down", WIDTH, HIDDEN, 0.3)
    vector("output_norm", WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
