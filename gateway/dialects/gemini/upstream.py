"""Gemini's generateContent dialect: the four verbs towards a backend. Does no I/O.

The same for AI Studio and Vertex AI, which differ in the base URL and in the credential:
`https://generativelanguage.googleapis.com/v1beta` and
`https://<location>-aiplatform.googleapis.com/v1/projects/<project>/locations/<location>/publishers/google`.
"""

from typing import Final
from urllib.parse import quote

from gateway.dialects.gemini.faults import fault_of
from gateway.dialects.gemini.reply import decode_reply
from gateway.dialects.gemini.request import EXPRESSIBLE, body_of, unfit
from gateway.dialects.gemini.stream import GeminiStreamDecoder
from gateway.dialects.hub.fitting import fit
from gateway.dialects.protocols import UpstreamDialect
from gateway.domain.chat import ChatReply, ChatRequest, Label
from gateway.domain.fault import Fault
from gateway.domain.plan import Target
from gateway.domain.wire import Headers, WireRequest

_CONTENT: Final = ((b"content-type", b"application/json"),)


class _Gemini:
    """Stateless: one instance serves every backend of the dialect."""

    stream_type = b"event-stream"

    def speaks(self, request: ChatRequest, target: Target) -> bool:
        """Never: no client speaks Gemini to us."""
        del request, target
        return False

    def unsupported(self, request: ChatRequest, target: Target) -> tuple[str, ...]:
        """What Gemini cannot be told of the request."""
        return fit(request, target.facts, EXPRESSIBLE, unfit).unsaid

    def encode_request(self, request: ChatRequest, target: Target) -> WireRequest:
        """A generateContent request. Raises ValueError for one that `unsupported` says cannot be read."""
        fitted = fit(request, target.facts, EXPRESSIBLE, unfit)
        if fitted.talk is None:
            raise ValueError(f"{fitted.unsaid[-1]} cannot be said to {target}")
        body, unsaid = body_of(fitted.talk, target.facts)
        verb = "streamGenerateContent?alt=sse" if request.stream else "generateContent"
        return WireRequest(
            method="POST",
            path=f"/models/{quote(target.model, safe='')}:{verb}",
            headers=_CONTENT,
            body=body,
            dropped=tuple(sorted({*fitted.dropped, *unsaid})),
        )

    def decode_reply(self, request: ChatRequest, body: bytes, label: Label) -> ChatReply | Fault:
        """The answer and its usage."""
        del request
        return decode_reply(body, label)

    def decode_fault(self, status: int, headers: Headers, body: bytes) -> Fault:
        """What the status, Google's own word for it and its details say together."""
        return fault_of(status, headers, body)

    def stream_decoder(self, request: ChatRequest, target: Target, label: Label) -> GeminiStreamDecoder:
        """A decoder for one streamed answer."""
        del target
        return GeminiStreamDecoder(label, choices=request.choices)


UPSTREAM: Final[UpstreamDialect] = _Gemini()
