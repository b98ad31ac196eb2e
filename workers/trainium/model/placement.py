"""Where arrays live: whole on one device, or split over several that compute one model together (tensor parallelism).

Attention heads and hidden units are split, so each layer needs two sums over the devices and nothing else; embeddings,
head and norms are on every device. The compiler puts the sums in by itself from these annotations.
"""

from typing import Any

import jax
import numpy.typing as npt
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from workers.trainium.errors import DeviceUnavailable

_AXIS = "tp"


class Placement:
    """The devices of one model."""

    def __init__(self, platform: str, count: int = 1) -> None:
        """The first `count` devices of the platform.

        Raises `DeviceUnavailable` when JAX has fewer, and JAX's own `RuntimeError` when it cannot open any.
        """
        devices = jax.devices(platform)
        if len(devices) < count:
            raise DeviceUnavailable(f"{count} `{platform}` devices are wanted, and JAX shows {len(devices)}")
        self.count = count
        self._device = devices[0]
        self._mesh = Mesh(devices[:count], (_AXIS,))
        self.name = f"{devices[0].platform}:{devices[0].device_kind}" + (f" x {count}" if count > 1 else "")
        """Platform and kind, for people."""

    def sharding(self, *, axis: int | None = None) -> Sharding:
        """How an array lies: whole on each device, or with one axis split."""
        if self.count == 1:
            # Without annotations the graph of one device stays as it is.
            return SingleDeviceSharding(self._device)
        parts = [] if axis is None else [*[None] * axis, _AXIS]
        return NamedSharding(self._mesh, PartitionSpec(*parts))  # type: ignore[no-untyped-call]  # JAX leaves it untyped

    def whole(self, array: npt.NDArray[Any]) -> jax.Array:
        """Put the array on every device; a copy, so that it may be donated."""
        placed: jax.Array = jax.device_put(array, self.sharding(), may_alias=False)
        return placed

    def split(self, array: npt.NDArray[Any], axis: int) -> jax.Array:
        """Put a part of the array on each device. The axis is a multiple of the number of devices."""
        placed: jax.Array = jax.device_put(array, self.sharding(axis=axis), may_alias=False)
        return placed

    def spec(self, shape: tuple[int, ...], dtype: npt.DTypeLike, *, axis: int | None = None) -> jax.ShapeDtypeStruct:
        """Shape, type and place of an input, without the input."""
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.sharding(axis=axis))  # type: ignore[no-untyped-call]  # JAX leaves it untyped
