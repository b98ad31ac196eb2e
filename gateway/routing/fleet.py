"""What this process knows of its backends. State with a lifetime; hands out immutable views."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class FleetView:
    """The backends as one decision sees them."""

    unavailable: Mapping[str, str]
    """Backend → why nothing may be sent there, for example `credential_missing`. All others may be tried."""


class Fleet:
    """Keeps the current view; a change swaps one reference, so a decision never sees half of it."""

    __slots__ = ("_view",)

    def __init__(self, unavailable: Mapping[str, str]) -> None:
        self._view = FleetView(unavailable=dict(unavailable))

    def view(self) -> FleetView:
        """The view of now."""
        return self._view

    def __repr__(self) -> str:
        missing = ", ".join(f"{name}: {reason}" for name, reason in sorted(self._view.unavailable.items()))
        return f"Fleet(unavailable: {missing or 'none'})"
