"""Rows of a table by their numbers: the one gather in our graphs, and it cannot leave the table. Pure."""

import jax
import jax.numpy as jnp
from jax import lax


def rows_of(table: jax.Array, ids: jax.Array) -> jax.Array:
    """The rows (t, d) of `table` (n, d) that `ids` (t,) name.

    The host has checked the ids. That they are bounded here too makes it a property of the graph, which can be read off
    its text: an index out of range is clamped in silence on a CPU, and ends the run on other devices.
    """
    inside = lax.max(lax.min(ids, jnp.int32(table.shape[0] - 1)), jnp.int32(0))
    numbers = lax.GatherDimensionNumbers(offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,))
    # Not jnp.take: it puts the gather into a function of its own, away from the bounds.
    return lax.gather(
        table, inside[:, None], numbers, (1, table.shape[1]), mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS
    )
