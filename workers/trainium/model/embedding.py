"""The seam to the device for embeddings: compiles shapes ahead of time and runs batches of texts."""

import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from workers.trainium.engine.shapes import Shape
from workers.trainium.model import bert
from workers.trainium.model.compilations import executables_made
from workers.trainium.model.placement import Placement
from workers.trainium.model.safetensors import Checkpoint

_DTYPES: Final = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

FloatArray: TypeAlias = npt.NDArray[np.float32]
_Executable: TypeAlias = Callable[[bert.BertParams, npt.NDArray[np.int32], npt.NDArray[np.int32]], jax.Array]


class EmbeddingRunner:
    """Embeds texts through JAX. `compile` is called from the loading thread, `run` from one thread at a time."""

    def __init__(self, arch: bert.BertArchitecture, params: bert.BertParams, placement: Placement) -> None:
        self.arch = arch
        self._params = params
        self._placement = placement
        self._executables: dict[Shape, _Executable] = {}

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, *, platform: str, dtype: str, report: Callable[[int, int], None]
    ) -> "EmbeddingRunner":
        """Read the weights onto the first device of the platform; `report(done, total)` counts layers.

        Raises `DeviceUnavailable` or `ModelUnavailable`.
        """
        arch = bert.read_bert(checkpoint)
        placement = Placement(platform)
        params = bert.load_bert(checkpoint, arch, dtype=jnp.dtype(_DTYPES[dtype]), place=placement.whole, report=report)
        return cls(arch, params, placement)

    @property
    def device_name(self) -> str:
        """Platform and kind of the device, for people."""
        return self._placement.name

    @property
    def ready(self) -> frozenset[Shape]:
        """Shapes that can run."""
        return frozenset(self._executables)

    @property
    def made(self) -> int:
        """Executables that JAX has made in this process: one for each shape, or something was compiled beside them."""
        return executables_made()

    def lower(self, shape: Shape) -> jax.stages.Lowered:
        """The graph of one shape, before the device's compiler sees it."""
        arch = self.arch

        def step(params: bert.BertParams, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
            return bert.embed(arch, params, tokens, lengths)

        tokens = self._placement.spec((shape.size, shape.context), np.int32)
        lengths = self._placement.spec((shape.size,), np.int32)
        return jax.jit(step).lower(self._params, tokens, lengths)

    def donated(self, shape: Shape) -> int:  # noqa: ARG002  # the same for every shape
        """Nothing is kept between runs."""
        return 0

    def compile(self, shape: Shape) -> float:
        """Make the shape runnable; returns the seconds it took."""
        started = time.perf_counter()
        executable: _Executable = self.lower(shape).compile()
        self._executables = {**self._executables, shape: executable}
        return time.perf_counter() - started

    def run(self, shape: Shape, texts: Sequence[Sequence[int]]) -> FloatArray:
        """One embedding (texts, width) per text.

        Raises `ValueError` when the texts do not fit into the shape, `KeyError` when it is not compiled.
        """
        if not 0 < len(texts) <= shape.size or not all(0 < len(text) <= shape.context for text in texts):
            raise ValueError(f"{len(texts)} texts do not fit into {shape}")
        tokens = np.zeros((shape.size, shape.context), np.int32)
        lengths = np.zeros(shape.size, np.int32)
        for row, text in enumerate(texts):
            if min(text) < 0 or max(text) >= self.arch.vocab:
                raise ValueError("a token id is out of range")
            tokens[row, : len(text)] = text
            lengths[row] = len(text)
        return np.asarray(self._executables[shape](self._params, tokens, lengths))[: len(texts)]
