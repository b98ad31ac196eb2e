"""Reads a GGUF file: metadata and dequantized tensors. Our own reader; knows the file format and nothing of models.

The layout is that of the GGUF specification, versions 2 and 3, little-endian: header, key-value pairs, tensor
directory, then the tensors' bytes, aligned. Quantized tensors are rows of blocks of 32 values.
"""

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from workers.trainium.errors import ModelUnavailable

Scalar: TypeAlias = str | int | float | bool
Value: TypeAlias = Scalar | list[Scalar]
FloatArray: TypeAlias = npt.NDArray[np.float32]
ByteArray: TypeAlias = npt.NDArray[np.uint8]

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_STRING: Final = 8
_ARRAY: Final = 9
_NUMBERS: Final = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32: Final = _NUMBERS[4]
_U64: Final = _NUMBERS[10]


@dataclass(frozen=True, slots=True)
class _Quantization:
    """How one tensor type is stored."""

    name: str
    block: int
    """Values per block."""
    size: int
    """Bytes per block."""
    expand: Callable[[ByteArray], FloatArray]
    """Bytes of n blocks (n, size) → values (n, block)."""


def _f32(blocks: ByteArray) -> FloatArray:
    return blocks.view("<f4").astype(np.float32)


def _f16(blocks: ByteArray) -> FloatArray:
    return blocks.view("<f2").astype(np.float32)


def _nibbles(packed: ByteArray) -> FloatArray:
    """Low halves are the first 16 values of a block, high halves the last 16."""
    values = np.empty((packed.shape[0], 32), np.float32)  # (blocks, 32)
    values[:, :16] = packed & np.uint8(0x0F)
    values[:, 16:] = packed >> np.uint8(4)
    return values


def _q4_0(blocks: ByteArray) -> FloatArray:
    values = _nibbles(blocks[:, 2:])
    values -= np.float32(8)
    values *= blocks[:, :2].copy().view("<f2").astype(np.float32)
    return values


def _q4_1(blocks: ByteArray) -> FloatArray:
    values = _nibbles(blocks[:, 4:])
    values *= blocks[:, :2].copy().view("<f2").astype(np.float32)
    values += blocks[:, 2:4].copy().view("<f2").astype(np.float32)
    return values


def _q8_0(blocks: ByteArray) -> FloatArray:
    values = blocks[:, 2:].copy().view(np.int8).astype(np.float32)  # (blocks, 32)
    values *= blocks[:, :2].copy().view("<f2").astype(np.float32)
    return values


_QUANTIZATIONS: Final = {
    0: _Quantization("F32", 1, 4, _f32),
    1: _Quantization("F16", 1, 2, _f16),
    2: _Quantization("Q4_0", 32, 18, _q4_0),
    3: _Quantization("Q4_1", 32, 20, _q4_1),
    8: _Quantization("Q8_0", 32, 34, _q8_0),
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One row of the file's tensor directory."""

    shape: tuple[int, ...]
    """Row-major, the slowest dimension first (the file stores it the other way round)."""
    kind: int
    offset: int
    """Bytes from the start of the file."""


class GgufFile:
    """A GGUF file opened for reading; the bytes stay on disk until a tensor is asked for."""

    def __init__(self, path: Path) -> None:
        """Parse the header and the directories.

        Raises `ModelUnavailable` when the file is not a GGUF file this reader knows, or is cut short.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelUnavailable(f"cannot read the model file {path}: {error}") from error
        try:
            self.metadata, self.tensors = _Parser(self._bytes).parse()
        except (struct.error, IndexError, UnicodeDecodeError, KeyError) as error:
            raise ModelUnavailable(f"{path} is damaged or not a GGUF file: {error!r}") from error

    def read(self, name: str) -> FloatArray:
        """The tensor `name` as float32, in its row-major shape.

        Raises `ModelUnavailable` when it is missing, cut short or of a quantization this reader does not know.
        """
        entry = self.tensors.get(name)
        if entry is None:
            raise ModelUnavailable(f"{self.path} has no tensor `{name}`")
        quantization = _QUANTIZATIONS.get(entry.kind)
        if quantization is None:
            known = ", ".join(q.name for q in _QUANTIZATIONS.values())
            raise ModelUnavailable(f"tensor `{name}` has GGML type {entry.kind}; this worker reads {known}")
        blocks = math.prod(entry.shape) // quantization.block
        if entry.offset + blocks * quantization.size > len(self._bytes):
            raise ModelUnavailable(f"{self.path} is cut short: tensor `{name}` lies past its end")
        raw = np.frombuffer(self._bytes, np.uint8, blocks * quantization.size, entry.offset)
        return quantization.expand(raw.reshape(blocks, quantization.size)).reshape(entry.shape)

    def text(self, key: str) -> str:
        """The metadata string `key`; raises `ModelUnavailable` when it is missing or not a string."""
        value = self.metadata.get(key)
        if not isinstance(value, str):
            raise ModelUnavailable(f"{self.path} has no text metadata `{key}`")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """The metadata integer `key`, or `default`; raises `ModelUnavailable` when there is neither."""
        value = self.metadata.get(key, default)
        if not isinstance(value, int):
            raise ModelUnavailable(f"{self.path} has no integer metadata `{key}`")
        return value

    def number(self, key: str) -> float:
        """The metadata number `key`; raises `ModelUnavailable` when it is missing."""
        value = self.metadata.get(key)
        if not isinstance(value, int | float):
            raise ModelUnavailable(f"{self.path} has no numeric metadata `{key}`")
        return float(value)

    def list(self, key: str) -> list[Scalar]:
        """The metadata array `key`; raises `ModelUnavailable` when it is missing."""
        value = self.metadata.get(key)
        if not isinstance(value, list):
            raise ModelUnavailable(f"{self.path} has no array metadata `{key}`")
        return value


class _Parser:
    """A cursor over the file's head."""

    def __init__(self, raw: mmap.mmap) -> None:
        self._raw = raw
        self._at = 0

    def parse(self) -> tuple[dict[str, Value], dict[str, TensorEntry]]:
        magic = self._raw[:4]
        self._at = 4
        version = self._number(_U32)
        if magic != _MAGIC or version not in _VERSIONS:
            raise ModelUnavailable(f"expected GGUF version 2 or 3, found {magic!r} version {version}")
        tensor_count, pair_count = self._number(_U64), self._number(_U64)
        metadata: dict[str, Value] = {}
        for _ in range(int(pair_count)):
            key = self._string()
            metadata[key] = self._value(int(self._number(_U32)))
        directory = [self._entry() for _ in range(int(tensor_count))]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0:
            raise ModelUnavailable(f"general.alignment is {alignment!r}, expected a positive integer")
        base = -(-self._at // alignment) * alignment
        tensors = {name: TensorEntry(shape, kind, base + offset) for name, shape, kind, offset in directory}
        return metadata, tensors

    def _number(self, kind: struct.Struct) -> int | float | bool:
        (value,) = kind.unpack_from(self._raw, self._at)
        self._at += kind.size
        number: int | float | bool = value
        return number

    def _string(self) -> str:
        (length,) = _U64.unpack_from(self._raw, self._at)
        start = self._at + _U64.size
        self._at = start + length
        return str(self._raw[start : self._at], "utf-8")

    def _value(self, kind: int) -> Value:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            element, count = int(self._number(_U32)), int(self._number(_U64))
            if element == _STRING:
                return [self._string() for _ in range(count)]
            return [self._number(_NUMBERS[element]) for _ in range(count)]
        return self._number(_NUMBERS[kind])

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        dimensions = int(self._number(_U32))
        shape = tuple(int(self._number(_U64)) for _ in range(dimensions))
        return name, shape[::-1], int(self._number(_U32)), int(self._number(_U64))
