"""Reads safetensors files: tensors by name, as float32. Knows the file format and nothing of models.

The format is a length, a JSON header and the tensors' bytes. A checkpoint is one file, or several with an index.
"""

import json
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from workers.trainium.errors import ModelUnavailable

FloatArray = npt.NDArray[np.float32]

_LARGEST_HEADER: Final = 100 << 20
_BYTES: Final = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: str
    shape: tuple[int, ...]
    start: int
    """Bytes from the start of the file."""
    end: int


class SafetensorsFile:
    """One file opened for reading; the bytes stay on disk until a tensor is asked for."""

    def __init__(self, path: Path) -> None:
        """Read the header. Raises `ModelUnavailable` when the file is not what it should be, or cut short."""
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            (size,) = struct.unpack_from("<Q", self._bytes)
            header = json.loads(self._bytes[8 : 8 + min(size, _LARGEST_HEADER)])
            self.tensors = {
                name: _Entry(entry["dtype"], tuple(entry["shape"]), *(8 + size + at for at in entry["data_offsets"]))
                for name, entry in header.items()
                if name != "__metadata__"
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise ModelUnavailable(f"{path} is damaged or not a safetensors file: {error!r}") from error

    def read(self, name: str) -> FloatArray:
        """A tensor as float32. Raises `ModelUnavailable` for an unknown type, or when it lies outside the file."""
        entry = self.tensors[name]
        width = _BYTES.get(entry.kind)
        if width is None:
            raise ModelUnavailable(f"tensor `{name}` is of type {entry.kind}; this worker reads {', '.join(_BYTES)}")
        count = math.prod(entry.shape)
        if entry.end - entry.start != count * width or entry.end > len(self._bytes):
            raise ModelUnavailable(f"{self.path} is cut short or damaged: tensor `{name}` does not fit")
        if entry.kind == "BF16":
            # The upper half of a float32.
            wide = np.frombuffer(self._bytes, "<u2", count, entry.start).astype(np.uint32) << np.uint32(16)
            return wide.view(np.float32).reshape(entry.shape)
        kind = "<f4" if entry.kind == "F32" else "<f2"
        return np.frombuffer(self._bytes, kind, count, entry.start).astype(np.float32).reshape(entry.shape)


class Checkpoint:
    """A folder with a model's configuration and weights, as the Hugging Face libraries write it."""

    def __init__(self, folder: Path) -> None:
        """Open all files. Raises `ModelUnavailable` when one is missing or damaged."""
        self.folder = folder
        self.config = read_json(folder / "config.json")
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            names = sorted(set(read_json(index).get("weight_map", {}).values()))
        else:
            names = ["model.safetensors"]
        files = [SafetensorsFile(folder / name) for name in names]
        self._files: Mapping[str, SafetensorsFile] = {name: file for file in files for name in file.tensors}

    def has(self, name: str) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._files

    def read(self, name: str) -> FloatArray:
        """A tensor as float32. Raises `ModelUnavailable` when it is missing or unreadable."""
        file = self._files.get(name)
        if file is None:
            raise ModelUnavailable(f"{self.folder} has no tensor `{name}`")
        return file.read(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape. Raises `ModelUnavailable` when it is missing."""
        file = self._files.get(name)
        if file is None:
            raise ModelUnavailable(f"{self.folder} has no tensor `{name}`")
        return file.tensors[name].shape


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file. Raises `ModelUnavailable`."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise ModelUnavailable(f"{path} is not a JSON object")
    return value
