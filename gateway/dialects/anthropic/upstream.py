"""Anthropic's dialect as backends speak it: the four verbs. Does no I/O.

The base URL ends with the version, `https://api.anthropic.com/v1`; others who serve it in the same words differ in the
base URL alone (Bedrock: `https://bedrock-mantle.<region>.api.aws/anthropic/v1`). Vertex AI wants the model's name in
the path: `quirks.raw_predict`.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import msgspec

from gateway.dialects.anthropic import faults, reply
from gateway.dialects.anthropic.outbound import EXPRESSIBLE, Draft, unfit
from gateway.dialects.anthropic.own_words import own_words
from gateway.dialects.anthropic.stream import AnthropicStreamDecoder
from gateway.dialects.hub.fitting import Fit, fit
from gateway.dialects.openai.wire import ABSENT, is_given
from gateway.dialects.protocols import UpstreamDialect
from gateway.domain.chat import ChatReply, ChatRequest, Label
from gateway.domain.fault import Fault
from gateway.domain.plan import Target
from gateway.domain.wire import Headers, WireRequest

Fields = dict[str, msgspec.Raw]

_VERSION: Final = b"2023-06-01"
"""What a client that says none gets; the one in which all models take all they ever took."""
_CONTENT: Final = (b"content-type", b"application/json")
_RAW_PREDICT_VERSION: Final = "vertex-2023-10-16"
_TOLD: Final = frozenset({"safety_identifier", "user"})
"""Hints that Anthropic has a place for."""


class _Anthropic:
    """Stateless: one instance serves every backend of the dialect."""

    stream_type = b"event-stream"

    def speaks(self, request: ChatRequest, target: Target) -> bool:
        """Whether the client speaks it too: then its words are passed on."""
        del target
        return _is_native(request)

    def unsupported(self, request: ChatRequest, target: Target) -> tuple[str, ...]:
        """What Anthropic cannot be told of the hub's request."""
        return _fit(request, target).unsaid

    def encode_request(self, request: ChatRequest, target: Target) -> WireRequest:
        """The client's own words where it speaks the dialect, else a translation.

        Raises ValueError for a request that `unsupported` says cannot be read.
        """
        if request.native is not None and self.speaks(request, target):
            fields, dropped = own_words(request.native.fields, request, target.facts)
            return _wire(fields, request, target, dropped)
        fitted = _fit(request, target)
        if fitted.talk is None:
            raise ValueError(f"{fitted.unsaid[-1]} cannot be said to {target}")
        own = request.fields.get("thinking", ABSENT)
        thinking = own if is_given(own) else None
        draft = Draft(fitted.talk, target.facts, thinking=thinking, user=_user(request.fields))
        if request.stream:
            draft.body["stream"] = True
        return _wire(draft.body, request, target, tuple(sorted({*fitted.dropped, *draft.dropped} - _TOLD)))

    def decode_reply(self, request: ChatRequest, body: bytes, label: Label) -> ChatReply | Fault:
        """The answer, or what an error means that came with a 200."""
        return reply.decode_reply(body, label, native=_is_native(request))

    def decode_fault(self, status: int, headers: Headers, body: bytes) -> Fault:
        """What the status, the error's type and its code say together."""
        return faults.decode_fault(status, headers, body)

    def stream_decoder(self, request: ChatRequest, target: Target, label: Label) -> AnthropicStreamDecoder:
        """A decoder for one streamed answer."""
        del target
        return AnthropicStreamDecoder(label, native=_is_native(request))


def _fit(request: ChatRequest, target: Target) -> Fit:
    return fit(request, target.facts, EXPRESSIBLE, unfit)


def _is_native(request: ChatRequest) -> bool:
    return request.native is not None and request.native.dialect == "anthropic"


def _user(fields: Fields) -> str | None:
    """Who the end user is, in the client's words."""
    for name in ("safety_identifier", "user"):
        raw = bytes(fields.get(name, b""))
        if raw.startswith(b'"'):
            return msgspec.json.decode(raw, type=str)
    return None


def _wire(body: Mapping[str, object], request: ChatRequest, target: Target, dropped: tuple[str, ...]) -> WireRequest:
    """The request on its way. What the client said of versions and betas goes along, if it spoke to Anthropic."""
    headers = (_CONTENT, *request.headers) if _is_native(request) else (_CONTENT,)
    if target.facts.quirks.raw_predict:
        verb = "streamRawPredict" if request.stream else "rawPredict"
        path = f"/{quote(target.model, safe='@')}:{verb}"
        body = {**body, "anthropic_version": _RAW_PREDICT_VERSION}
        headers = tuple((name, value) for name, value in headers if name != b"anthropic-version")
    else:
        path = "/messages"
        body = {"model": target.model, **body}
        pinned = target.facts.quirks.anthropic_version
        given = next((value for name, value in headers if name == b"anthropic-version"), _VERSION)
        version = given if pinned is None else pinned.encode()
        headers = (*(each for each in headers if each[0] != b"anthropic-version"), (b"anthropic-version", version))
    return WireRequest(method="POST", path=path, headers=headers, body=msgspec.json.encode(body), dropped=dropped)


UPSTREAM: Final[UpstreamDialect] = _Anthropic()
