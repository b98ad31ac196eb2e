"""Reads a lowered graph (StableHLO text) and says what in it a Neuron compiler would not take. Pure text; no device.

The rules are those of the JAX on Neuron documentation and of the compiler's error codes: what is not on the list of
operations here is refused, rather than what is known to be wrong, so that a new operation is looked at before it ships.
"""

import re
from collections import Counter
from typing import Final

from workers.trainium.engine.shapes import Shape

_OPERATION: Final = re.compile(r"(?:stablehlo|chlo)\.([a-z_0-9]+)")
_DYNAMIC: Final = re.compile(r"tensor<[^>]*\?")
_WIDE: Final = re.compile(r"tensor<(?:[0-9]+x)*(i64|ui64|f64|complex[^>]*)>")
_VARIADIC: Final = re.compile(r"stablehlo\.reduce\([^)]*\),\s*\(")
_INTEGER_DOT: Final = re.compile(r"stablehlo\.dot_general[^\n]*tensor<(?:[0-9]+x)*u?i[0-9]+>")
_ALIAS: Final = re.compile(r"tf\.aliasing_output|jax\.buffer_donor")
"""Either mark of a donated buffer: the second where it is split over devices, and matched up only later."""

_OPERATIONS: Final = frozenset(
    re.findall(
        r"\w+",
        "add and broadcast_in_dim compare concatenate constant convert divide dot_general dynamic_slice "
        "dynamic_update_slice exponential iota maximum minimum multiply negate or reduce reshape return rsqrt select "
        "slice subtract transpose",
    )
)
_GATHERING: Final = ("prefill", "embed")
"""Kinds of graphs that look their embedding rows up at once; the ids are checked on the host before each run."""


def count_operations(text: str) -> Counter[str]:
    """How often each operation occurs."""
    return Counter(_OPERATION.findall(text))


def problems_of(text: str, shape: Shape, *, donated: int) -> list[str]:
    """What would be refused or wrong on a device; empty when nothing. `donated` buffers must be updated in place."""
    allowed = _OPERATIONS | ({"gather"} if shape.kind in _GATHERING else set())
    found = [
        f"operation `{name}` ({times} times)" for name, times in count_operations(text).items() if name not in allowed
    ]
    if _DYNAMIC.search(text):
        found.append("a dimension that is not fixed")
    found += [f"a 64-bit or complex type: {kind}" for kind in sorted(set(_WIDE.findall(text)))]
    if _VARIADIC.search(text):
        found.append("a reduction over several operands, as of argmax")
    if _INTEGER_DOT.search(text):
        found.append("a product of integers")
    aliased = len(_ALIAS.findall(text))
    if aliased != donated:
        found.append(f"{aliased} buffers are updated in place instead of {donated}")
    return found
