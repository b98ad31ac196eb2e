"""What a client may wish of the way its request takes: the field `gateway` of a body.

Wishes narrow what the policy allows, and never widen it.
"""

from typing import Annotated, Literal

import msgspec

from gateway.domain.names import Name

Backends = Annotated[tuple[Name, ...], msgspec.Meta(max_length=64)]
"""Names of backends. One that the model does not have matches nothing."""
_Price = Annotated[float, msgspec.Meta(ge=0)]


class MaxPrice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a target may ask at the most, in US dollars per million tokens."""

    input: _Price | None = None
    output: _Price | None = None


class Preferences(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The wishes of one request."""

    order: Backends = ()
    """These first, in this order; the others behind them, in the policy's. What is over its share of the model's tokens
    or fails far more than others stays behind."""
    only: Backends | None = None
    """No others than these."""
    ignore: Backends = ()
    """None of these."""
    sort: Literal["latency", "cost"] | None = None
    """All targets by this strategy, in place of the policy's own."""
    max_price: MaxPrice | None = None
    """No target that asks more. One without prices counts as free."""
    explain: bool = False
    """Tell with the answer which way the request took."""

    @property
    def wishes(self) -> "Preferences | None":
        """What of it routing heeds; None for nothing."""
        wishes = msgspec.structs.replace(self, explain=False)
        return None if wishes == Preferences() else wishes
