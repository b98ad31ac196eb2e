"""The seam between the engine and the device: compiles shapes ahead of time and runs batches.

Owns every device array. `compile` is called from the loading thread, `run` from the engine's; an executable is added
to the table once it is whole, so a run sees it or not. A shape that is not in the table raises instead of compiling.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from workers.trainium.engine.scheduler import Batch, Controls, Copy, Decode, Prefill
from workers.trainium.engine.sequences import Picked
from workers.trainium.engine.shapes import Shape
from workers.trainium.errors import DeviceUnavailable
from workers.trainium.model import llama
from workers.trainium.model.compilations import executables_made
from workers.trainium.model.gguf import GgufFile
from workers.trainium.model.logprobs import read_logprobs
from workers.trainium.model.placement import Placement
from workers.trainium.model.safetensors import Checkpoint
from workers.trainium.model.sampling import sample, steer
from workers.trainium.model.weights import load_params, open_weights

_DTYPES: Final = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

_Step: TypeAlias = tuple[jax.Array, jax.Array, llama.Caches]
"""Tokens (b,), the logits (v, b) they were chosen from before steering, and the caches."""
_Executable: TypeAlias = Callable[..., _Step]
_IntArray: TypeAlias = npt.NDArray[np.int32]
_Copier: TypeAlias = Callable[[llama.Caches, _IntArray], llama.Caches]
_FloatArray: TypeAlias = npt.NDArray[np.float32]
_Table: TypeAlias = jax.Array | _FloatArray
_KV_HEADS: Final = 1
"""The axis of a cache that is split over devices."""
_CONTROLS: Final = ("temperature", "top_p", "uniform", "top_k", "min_p")
"""The rows of the controls' table, as `sample` reads it."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much the runner holds."""

    slots: int
    max_len: int
    """Positions per slot."""


def use_compilation_cache(directory: Path) -> None:
    """Keep compiled executables between starts; the key holds jaxlib's version and the CPU's features."""
    directory.mkdir(parents=True, exist_ok=True)
    options: dict[str, str | float] = {
        "jax_compilation_cache_dir": str(directory),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in options.items():
        jax.config.update(name, value)  # type: ignore[no-untyped-call]  # JAX leaves it untyped


class JaxRunner:
    """Runs a Llama model through JAX, on whichever platform JAX was started with."""

    def __init__(
        self, arch: llama.Architecture, params: llama.Params, capacity: Capacity, placement: Placement
    ) -> None:
        self.arch = arch
        self.capacity = capacity
        self._params = params
        self._placement = placement
        # One slot more than there are: padding rows write to it. An index out of range would be clamped on a CPU and
        # is an error on other devices.
        shape = (capacity.slots + 1, arch.kv_heads, capacity.max_len, arch.head_dim)
        zeros = np.zeros(shape, params.norm.dtype)
        self._caches = llama.Caches(
            keys=[placement.split(zeros, _KV_HEADS) for _ in range(arch.layers)],
            values=[placement.split(zeros, _KV_HEADS) for _ in range(arch.layers)],
        )
        self._cache_shapes = jax.tree.map(
            lambda array: placement.spec(array.shape, array.dtype, axis=_KV_HEADS), self._caches
        )
        self._executables: dict[Shape, _Executable] = {}
        self._copiers: dict[Shape, _Copier] = {}
        self._neutral: dict[int, tuple[jax.Array, jax.Array]] = {}
        """Rows → a scale and a bias that change nothing; they stay on the device."""

    @classmethod
    def load(
        cls,
        file: GgufFile | Checkpoint,
        capacity: Capacity,
        *,
        platform: str,
        dtype: str,
        report: Callable[[int, int], None],
        devices: int = 1,
    ) -> "JaxRunner":
        """Read the weights onto the first devices of the platform; `report(done, total)` counts layers.

        Raises `DeviceUnavailable` when JAX has too few devices or they cannot share the model, `ModelUnavailable` when
        the file cannot be used.
        """
        weights = open_weights(file)
        arch, placement = weights.arch, Placement(platform, devices)
        if arch.kv_heads % devices or arch.hidden % devices:
            raise DeviceUnavailable(
                f"{arch.kv_heads} key/value heads and {arch.hidden} hidden units cannot be split over {devices} devices"
            )
        params = load_params(
            weights, length=capacity.max_len, dtype=jnp.dtype(_DTYPES[dtype]), placement=placement, report=report
        )
        return cls(arch, params, capacity, placement)

    @property
    def device_name(self) -> str:
        """Platform and kind of the device, for people."""
        return self._placement.name

    @property
    def ready(self) -> frozenset[Shape]:
        """Shapes that can run."""
        return frozenset((*self._executables, *self._copiers))

    @property
    def made(self) -> int:
        """Executables that JAX has made in this process: one for each shape, or something was compiled beside them."""
        return executables_made()

    def lower(self, shape: Shape) -> jax.stages.Lowered:
        """The graph of one shape, before the device's compiler sees it; the caches are donated."""
        arch, context = self.arch, shape.context
        if shape.kind == "copy":

            def copy(caches: llama.Caches, slots: jax.Array) -> llama.Caches:
                return llama.copy(caches, slots, context=context)

            where = jax.tree.map(lambda array: array.sharding, self._cache_shapes)
            return jax.jit(copy, donate_argnums=0, out_shardings=where).lower(
                self._cache_shapes, self._placement.spec((2,), np.int32)
            )
        if shape.kind == "prefill":

            def step(params: llama.Params, caches: llama.Caches, *inputs: jax.Array) -> _Step:
                tokens, where, controls, scale, bias = inputs
                logits, caches = llama.prefill(arch, params, caches, tokens, where, context=context)
                return sample(steer(logits, scale, bias), controls), logits, caches

            spec = self._placement.spec
            inputs = [spec((shape.size,), np.int32), spec((3,), np.int32), *self._sampling_specs(1)]
        else:

            def step(params: llama.Params, caches: llama.Caches, *inputs: jax.Array) -> _Step:
                rows, controls, scale, bias = inputs
                logits, caches = llama.decode(arch, params, caches, rows, context=context)
                return sample(steer(logits, scale, bias), controls), logits, caches

            inputs = [self._placement.spec((3, shape.size), np.int32), *self._sampling_specs(shape.size)]
        # Told where they lie, or the compiler may put the caches elsewhere and must then copy what is donated.
        whole = self._placement.sharding()
        where = (whole, whole, jax.tree.map(lambda array: array.sharding, self._cache_shapes))
        return jax.jit(step, donate_argnums=1, out_shardings=where).lower(self._params, self._cache_shapes, *inputs)

    def donated(self, shape: Shape) -> int:  # noqa: ARG002  # the same for every shape
        """Buffers that are updated in place: keys and values of every layer."""
        return 2 * self.arch.layers

    def compile(self, shape: Shape) -> float:
        """Make the shape runnable; returns the seconds it took."""
        started = time.perf_counter()
        compiled = self.lower(shape).compile()
        if shape.kind == "copy":
            self._copiers = {**self._copiers, shape: compiled}
            return time.perf_counter() - started
        executable: _Executable = compiled
        rows = 1 if shape.kind == "prefill" else shape.size
        if rows not in self._neutral:
            ones, zeros = np.ones((self.arch.vocab, rows), np.float32), np.zeros((self.arch.vocab, rows), np.float32)
            self._neutral[rows] = (self._placement.whole(ones), self._placement.whole(zeros))
        self._executables = {**self._executables, shape: executable}
        return time.perf_counter() - started

    def run(self, batch: Batch) -> list[Picked]:
        """Run one step and wait for its tokens: one for a chunk, one per row for a decode step, none for a copy.

        Raises `ValueError` when the batch would touch memory outside its slots, `KeyError` when its shape is not
        compiled.
        """
        if isinstance(batch, Copy):
            copier = self._copiers[batch.shape]
            self._caches = copier(self._caches, self._copy_inputs(batch))
            return []
        executable = self._executables[batch.shape]
        if isinstance(batch, Prefill):
            inputs, controls, size = self._prefill_inputs(batch), [batch.controls], 1
        else:
            inputs, controls, size = self._decode_inputs(batch), [row.controls for row in batch.rows], batch.shape.size
        tokens, logits, self._caches = executable(
            self._params, self._caches, *inputs, _controls(controls, size), *self._steering(controls, size)
        )
        return _read(tokens, logits, controls)

    def _sampling_specs(self, rows: int) -> list[jax.ShapeDtypeStruct]:
        table = self._placement.spec((self.arch.vocab, rows), np.float32)
        return [self._placement.spec((len(_CONTROLS), rows), np.float32), table, table]

    def _steering(self, controls: list[Controls], size: int) -> tuple[_Table, _Table]:
        """Scale and bias (v, b); copied to the device only when a row is steered."""
        if all(row.steering is None for row in controls):
            return self._neutral[size]
        scale = np.ones((self.arch.vocab, size), np.float32)
        bias = np.zeros((self.arch.vocab, size), np.float32)
        for index, row in enumerate(controls):
            if row.steering is not None:
                row.steering.fill(scale[:, index], bias[:, index])
        return scale, bias

    def _prefill_inputs(self, batch: Prefill) -> tuple[_IntArray, ...]:
        size = len(batch.tokens)
        if not 0 < size <= batch.shape.size or batch.start < 0 or batch.start + batch.shape.size > batch.shape.context:
            raise ValueError(f"{size} tokens at {batch.start} do not fit into {batch.shape}")
        self._check(batch.slot, batch.tokens)
        tokens = np.zeros(batch.shape.size, np.int32)
        tokens[:size] = batch.tokens
        return tokens, np.array([batch.slot, batch.start, size - 1], np.int32)

    def _decode_inputs(self, batch: Decode) -> tuple[_IntArray, ...]:
        if not 0 < len(batch.rows) <= batch.shape.size:
            raise ValueError(f"{len(batch.rows)} rows do not fit into {batch.shape}")
        rows = np.zeros((3, batch.shape.size), np.int32)
        rows[2] = self.capacity.slots
        for index, row in enumerate(batch.rows):
            if not 0 <= row.position < batch.shape.context:
                raise ValueError(f"position {row.position} is outside {batch.shape}")
            self._check(row.slot, (row.token,))
            rows[:, index] = row.token, row.position, row.slot
        return (rows,)

    def _copy_inputs(self, batch: Copy) -> _IntArray:
        if not 0 < batch.size <= batch.shape.context:
            raise ValueError(f"{batch.size} positions do not fit into {batch.shape}")
        self._check(batch.source, (0,))
        self._check(batch.slot, (0,))
        return np.array([batch.source, batch.slot], np.int32)

    def _check(self, slot: int, tokens: tuple[int, ...]) -> None:
        """Indices out of range are clamped in silence on a CPU and end the run on other devices."""
        if not 0 <= slot < self.capacity.slots or min(tokens) < 0 or max(tokens) >= self.arch.vocab:
            raise ValueError(f"slot {slot} or a token id is out of range")


def _controls(rows: list[Controls], size: int) -> _FloatArray:
    """A column for each row; padding is greedy."""
    table = np.zeros((len(_CONTROLS), size), np.float32)
    for index, row in enumerate(rows):
        table[:, index] = row.temperature, row.top_p, row.uniform, row.top_k, row.min_p
    return table


def _read(tokens: jax.Array, logits: jax.Array, controls: list[Controls]) -> list[Picked]:
    """What was chosen for each row; logits leave the device only when a row asks for log-probabilities."""
    chosen = [int(token) for token in np.asarray(tokens)[: len(controls)]]
    if all(row.top_logprobs is None for row in controls):
        return [Picked(token) for token in chosen]
    table = np.asarray(logits)
    return [
        Picked(token, None if row.top_logprobs is None else read_logprobs(table[:, index], token, row.top_logprobs))
        for index, (token, row) in enumerate(zip(chosen, controls, strict=True))
    ]
