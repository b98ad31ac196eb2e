"""Amazon Bedrock's Converse dialect: the four verbs towards a backend. Does no I/O.

The base URL is `https://bedrock-runtime.<region>.amazonaws.com`; the path names the model. Signing is the transport's.
"""

from typing import Final
from urllib.parse import quote

from gateway.dialects.bedrock.faults import fault_of
from gateway.dialects.bedrock.reply import decode_reply
from gateway.dialects.bedrock.request import EXPRESSIBLE, body_of, unfit
from gateway.dialects.bedrock.stream import BedrockStreamDecoder
from gateway.dialects.hub.fitting import fit
from gateway.dialects.protocols import UpstreamDialect
from gateway.domain.chat import ChatReply, ChatRequest, Label
from gateway.domain.fault import Fault
from gateway.domain.plan import Target
from gateway.domain.wire import Headers, WireRequest

_CONTENT: Final = ((b"content-type", b"application/json"),)


class _Bedrock:
    """Stateless: one instance serves every backend of the dialect."""

    stream_type = b"vnd.amazon.eventstream"

    def speaks(self, request: ChatRequest, target: Target) -> bool:
        """Never: no client speaks Converse to us."""
        del request, target
        return False

    def unsupported(self, request: ChatRequest, target: Target) -> tuple[str, ...]:
        """What Converse cannot be told of the request."""
        return fit(request, target.facts, EXPRESSIBLE, unfit).unsaid

    def encode_request(self, request: ChatRequest, target: Target) -> WireRequest:
        """A Converse or ConverseStream request. Raises ValueError for one that `unsupported` says cannot be read."""
        fitted = fit(request, target.facts, EXPRESSIBLE, unfit)
        if fitted.talk is None:
            raise ValueError(f"{fitted.unsaid[-1]} cannot be said to {target}")
        body, ruled_out = body_of(fitted.talk, target.facts)
        verb = "converse-stream" if request.stream else "converse"
        return WireRequest(
            method="POST",
            path=f"/model/{quote(target.model, safe='')}/{verb}",
            headers=_CONTENT,
            body=body,
            dropped=tuple(sorted({*fitted.dropped, *ruled_out})),
        )

    def decode_reply(self, request: ChatRequest, body: bytes, label: Label) -> ChatReply | Fault:
        """The answer and its usage."""
        del request
        return decode_reply(body, _public(label))

    def decode_fault(self, status: int, headers: Headers, body: bytes) -> Fault:
        """What the exception's name and its message say together."""
        return fault_of(status, headers, body)

    def stream_decoder(self, request: ChatRequest, target: Target, label: Label) -> BedrockStreamDecoder:
        """A decoder for one streamed answer."""
        del request, target
        return BedrockStreamDecoder(_public(label))


def _public(label: Label) -> Label:
    """The label with the last part of a model's ARN: the account in it is no client's business."""
    if not label.model.startswith("arn:"):
        return label
    return Label(label.id, label.model.rpartition("/")[2], label.created)


UPSTREAM: Final[UpstreamDialect] = _Bedrock()
