"""Reads a lowered graph (StableHLO text) and says what in it a Neuron compiler would not take. Pure text; no device.

The rules are those of the JAX on Neuron documentation and of the compiler's error codes: what is not on the list of
operations here is refused, rather than what is known to be wrong, so that a new operation is looked at before it ships.
"""

import math
import re
from collections import Counter
from typing import Final, TypeAlias

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
"""Kinds of graphs that look their embedding rows up at once."""
_DEFINED: Final = re.compile(r'^ *(%\w+) = "?stablehlo\.(\w+)"?\(?(.*)$', re.MULTILINE)
_VALUE: Final = re.compile(r"%\w+")
_NUMBER: Final = re.compile(r"dense<(-?[0-9]+)>")
_GATHERED: Final = re.compile(r"start_index_map = \[0\].*slice_sizes = array<i64: 1,.*: \(tensor<([0-9]+)x")
"""A gather of single rows of a table, and how many the table has."""
_ANY: Final = (-math.inf, math.inf)

_Range: TypeAlias = tuple[float, float]


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
    found += _loose_gathers(text)
    aliased = len(_ALIAS.findall(text))
    if aliased != donated:
        found.append(f"{aliased} buffers are updated in place instead of {donated}")
    return found


def _loose_gathers(text: str) -> list[str]:
    """Gathers whose indices the graph does not itself keep inside the table, whatever it is given."""
    found = []
    for function in text.split("func.func")[1:]:
        defined = {name: (operation, rest) for name, operation, rest in _DEFINED.findall(function)}
        for operation, rest in defined.values():
            if operation != "gather":
                continue
            table = _GATHERED.search(rest)
            low, high = _range_of(_VALUE.findall(rest)[1], defined)
            if table is None or low < 0 or high >= int(table[1]):
                found.append(f"a gather whose indices may lie between {low:g} and {high:g}")
    return found


def _range_of(name: str, defined: dict[str, tuple[str, str]]) -> _Range:
    """The least and the largest that a value of integers can be, as far as its definition says so."""
    operation, rest = defined.get(name, ("", ""))
    if operation == "constant":
        number = _NUMBER.search(rest)
        return (float(number[1]), float(number[1])) if number else _ANY
    if operation in ("broadcast_in_dim", "reshape", "transpose", "slice"):
        return _range_of(_VALUE.findall(rest)[0], defined)
    if operation in ("minimum", "maximum"):
        bound = min if operation == "minimum" else max
        (low, high), (other_low, other_high) = (_range_of(value, defined) for value in _VALUE.findall(rest)[:2])
        return bound(low, other_low), bound(high, other_high)
    return _ANY
