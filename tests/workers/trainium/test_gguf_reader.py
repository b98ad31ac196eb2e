"""Our GGUF reader against the `gguf` package."""

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.workers.trainium.tiny import write_tiny_model
from workers.trainium.errors import ModelUnavailable
from workers.trainium.model.gguf import GgufFile


def assert_equal_to_oracle(path: Path) -> None:
    ours = GgufFile(path)
    reader: Any = gguf.GGUFReader(str(path))
    assert {tensor.name for tensor in reader.tensors} == set(ours.tensors)
    for tensor in reader.tensors:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        found = ours.read(tensor.name)
        assert found.shape == tuple(int(size) for size in tensor.shape)[::-1]
        assert np.array_equal(found.ravel(), expected.ravel()), tensor.name


@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_0", "Q4_1", "Q8_0"])
def test_dequantized_tensors_equal_the_oracle_bit_for_bit(kind: str, tmp_path: Path) -> None:
    """Every quantization we read, on random weights."""
    assert_equal_to_oracle(write_tiny_model(tmp_path / "m.gguf", kind=kind))


@pytest.mark.model
def test_every_tensor_of_the_real_model_equals_the_oracle(smollm2_path: Path) -> None:
    """All 272 of them, bit for bit."""
    assert_equal_to_oracle(smollm2_path)


def test_an_unknown_quantization_is_refused_by_name(tmp_path: Path) -> None:
    """Guessing would give fluent nonsense."""
    path = tmp_path / "m.gguf"
    writer: Any = gguf.GGUFWriter(str(path), "llama")
    block = np.zeros((1, 24), np.uint8)
    writer.add_tensor("odd", block, raw_dtype=gguf.GGMLQuantizationType.Q5_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelUnavailable, match=r"`odd` has GGML type 7.*Q4_1"):
        GgufFile(path).read("odd")


def test_a_file_that_is_cut_short_is_refused(tiny_path: Path, tmp_path: Path) -> None:
    """In the head or in a tensor, with the file's name."""
    whole = tiny_path.read_bytes()
    for size in (3, 40, len(whole) // 8):
        path = tmp_path / f"cut{size}.gguf"
        path.write_bytes(whole[:size])
        with pytest.raises(ModelUnavailable, match=re.escape(path.name) + "|expected GGUF"):
            GgufFile(path).read("output_norm.weight")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    """An HTML page saved as a model is told from a model."""
    path = tmp_path / "page.gguf"
    path.write_bytes(b"<html>" + b" " * 100)
    with pytest.raises(ModelUnavailable, match="expected GGUF"):
        GgufFile(path)
