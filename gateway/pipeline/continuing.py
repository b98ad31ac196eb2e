"""Whether an answer that broke off may be gone on with by another backend, and how its rest is relayed. Pure."""

from collections.abc import Callable
from typing import Final

from gateway.dialects.hub.continuation import Continuation, Seam, continued
from gateway.domain.chat import ChatRequest
from gateway.domain.fault import Fault, Recourse
from gateway.domain.plan import Target
from gateway.pipeline.attempt import Attempt
from gateway.pipeline.relay import Relay

_LEAST_REST_S: Final = 1.0
"""With less time left nobody is asked for the rest."""


class Rest:
    """What is missing of a broken answer."""

    __slots__ = ("_broken", "_relay", "delivered", "request")

    def __init__(self, broken: Attempt, relay: Relay, request: ChatRequest, *, delivered: int, taken: int) -> None:
        self._broken = broken
        self._relay = relay
        self.delivered = delivered
        """Tokens that the client had, by our count."""
        self.request = continued(request, "".join(broken.text), taken)
        """What is asked for."""

    def relay(self, target: Target, count: Callable[[str], int]) -> Relay:
        """Where the rest goes, told as if the first backend had gone on. The usage of that one is decided."""
        broken = self._broken
        encoder = Continuation(
            self._relay.encoder,
            reply_id=broken.decoder.id if broken.decoder is not None else None,
            model=broken.decoder.model if broken.decoder is not None else None,
            begun=broken.usage,
            seam=Seam(self.delivered, broken.target.backend, target.backend),
        )
        return Relay(encoder, self.request, holds_back=False, count=count, is_open=True)


def rest_of(
    broken: Attempt, request: ChatRequest, fault: Fault, *, left_s: float, count: Callable[[str], int]
) -> Rest | None:
    """What another backend may be asked for; None when there must be nothing more. `left_s` is the request's time."""
    relay = broken.relay
    if relay is None or not relay.may_go_on or left_s < _LEAST_REST_S or fault.recourse is Recourse.NONE:
        return None
    delivered = count("".join(broken.text))
    taken = max(delivered, len(broken.text))  # A piece is a token at least, by whatever tokenizer.
    if request.max_output_tokens is not None and taken >= request.max_output_tokens:
        return None
    return Rest(broken, relay, request, delivered=delivered, taken=taken)
