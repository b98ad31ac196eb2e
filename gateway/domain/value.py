"""What plain values inherit where they share a module with decisions.

The compiler of the hot modules (see `setup.py`) forgets a class's keywords, so they are said here, in a module that is
not compiled, and inherited. They are said again at each class all the same: for who reads it, and for type checkers,
which do not inherit them. It forgets the types of fields too: what is decoded from a wire or a file is neither of these
and stands in a module that is not compiled.
"""

import msgspec


class Value(msgspec.Struct, frozen=True):
    """A value: two of the same content are the same, and none changes. Never decoded."""


class Leaf(msgspec.Struct, frozen=True, gc=False):
    """A value that holds nothing which could hold it, so that the collector need not look at it. Never decoded."""
