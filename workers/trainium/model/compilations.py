"""How often JAX has made an executable in this process, by JAX's own count: for our shapes, and for anything else.

An operation outside a compiled shape makes one too, and on a Neuron device that takes minutes. So once all shapes are
there this number must stand still. It counts from the import of this module on, those that came from a cache included.
"""

from typing import Final

import jax.monitoring

_MADE: Final = "/jax/core/compile/backend_compile_duration"


class _Count:
    made = 0


def executables_made() -> int:
    """How many there were so far."""
    return _Count.made


def _note(event: str, duration_secs: float, **_: str | int) -> None:  # noqa: ARG001  # what JAX calls it with
    if event == _MADE:
        _Count.made += 1


jax.monitoring.register_event_duration_secs_listener(_note)
