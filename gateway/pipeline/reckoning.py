"""What a request is expected to take: of its prompt by its size, or by a count where its size tells too little.

Its size is enough where reports have taught the pair of tenant and model. Elsewhere the prompt is counted, with what
the model's targets usually make of our tokens. Images and sounds are reckoned by what they are, not by their bytes. No
I/O.
"""

from typing import Final

import msgspec

from gateway.admission.calibration import Calibration
from gateway.admission.counting import TokenCounter
from gateway.admission.estimate import START_TOKENS_PER_BYTE, Estimator
from gateway.admission.media import NO_MEDIA, Media, media_of
from gateway.dialects.protocols import Endpoint
from gateway.domain.chat import ChatRequest
from gateway.domain.plan import Route
from gateway.domain.usage import Estimate, Usage, UsageSource
from gateway.domain.value import Value

COUNT_UP_TO_BYTES: Final = 16 << 10
"""A prompt up to this size is counted on the event loop where it must be; a longer one beside it, or not at all."""
_NOT_TEXT: Final = frozenset({"vision", "audio"})


class Reckoned(Value, frozen=True):
    """What a request is expected to take, and how that is known."""

    estimate: Estimate
    counted: int | None
    """Our count of the prompt's text, where one was made."""
    media: Media


class Reckoner:
    """Knows what requests of a tenant to a model usually take, and what targets make of our tokens."""

    __slots__ = ("calibration", "counter", "estimator")

    def __init__(self, counter: TokenCounter) -> None:
        self.counter = counter
        self.estimator = Estimator()
        self.calibration = Calibration()

    def reckon(
        self, endpoint: Endpoint, request: ChatRequest, *, tenant: str, route: Route, counted: int | None = None
    ) -> Reckoned:
        """What to reserve for the request. `counted` is our count of its prompt's text, if one was made already."""
        media = NO_MEDIA
        if request.needs and request.needs & _NOT_TEXT and (messages := request.fields.get("messages")) is not None:
            media = media_of(messages)
        if counted is None and not self.estimator.knows(tenant, request.model):
            counted = self._count_for(route, endpoint, request, media)
        high = None if counted is None else self.calibration.high(leaf.name for leaf in route.leaves)
        estimate = self.estimator.estimate(
            tenant,
            request.model,
            prompt_bytes=request.prompt_bytes - media.size,
            max_output_tokens=request.max_output_tokens,
            choices=request.choices,
            counted=None if counted is None or high is None else round(counted * high),
        )
        if media is not NO_MEDIA:
            estimate = msgspec.structs.replace(estimate, prompt_tokens=estimate.prompt_tokens + media.tokens)
        return Reckoned(estimate, counted, media)

    def _count_for(self, route: Route, endpoint: Endpoint, request: ChatRequest, media: Media) -> int | None:
        """The count of a prompt of which nothing is known, if there is one at once.

        Where the counter's ranks are not there, it goes by its size, and the next ones are counted. Only where its size
        could keep it from a target it is worth waiting for them.
        """
        size = request.prompt_bytes - media.size
        if size > COUNT_UP_TO_BYTES:
            return None
        if not self.counter.loaded:
            most = size * START_TOKENS_PER_BYTE + media.tokens
            if all(leaf.facts.context is None or most <= leaf.facts.context for leaf in route.leaves):
                self.counter.want()
                return None
        return self.count(endpoint, request, media)

    def count(self, endpoint: Endpoint, request: ChatRequest, media: Media) -> int | None:
        """Tokens of the prompt's text; None when it is too long to count here."""
        if request.prompt_bytes - media.size > COUNT_UP_TO_BYTES:
            return None
        return sum(self.counter.count(text) for text in endpoint.prompt_texts(request))

    def learn(self, tenant: str, request: ChatRequest, reckoned: Reckoned, target: str, usage: Usage) -> None:
        """A whole answer of that target came, with this report. A prompt with images teaches of output only."""
        is_text = not reckoned.media.tokens
        size = request.prompt_bytes if is_text else 0
        self.estimator.observe(tenant, request.model, prompt_bytes=size, usage=usage, choices=request.choices)
        if (
            reckoned.counted is not None
            and is_text
            and usage.source is UsageSource.PROVIDER
            and not usage.cached_input_tokens
            and not usage.cache_write_tokens
        ):
            self.calibration.observe(target, counted=reckoned.counted, reported=usage.prompt_tokens)
