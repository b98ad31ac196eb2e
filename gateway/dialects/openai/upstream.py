"""OpenAI's dialect as backends speak it: encodes requests, reads replies, streams and faults. Does no I/O."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

import msgspec

from gateway.dialects.hub.fitting import without
from gateway.dialects.openai.faults import fault_of
from gateway.dialects.openai.plain import plain
from gateway.dialects.openai.stream import OpenAIStreamDecoder
from gateway.dialects.openai.wire import ABSENT, Delta, is_given, read_answer
from gateway.dialects.protocols import StreamDecoder, UpstreamDialect
from gateway.dialects.responses import asking
from gateway.dialects.responses import upstream as responses
from gateway.dialects.responses.served import read_response
from gateway.dialects.responses.upstream import ResponsesDecoder
from gateway.domain.chat import ChatReply, ChatRequest, Label
from gateway.domain.dispensable import dispensed
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.plan import Target
from gateway.domain.wire import Headers, WireRequest

_CONTENT: Final = ((b"content-type", b"application/json"),)
_RESPONSES: Final = "/responses"
_PATHS: Final = {"chat": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings"}
_DEVELOPER: Final = b'"developer"'
_SYSTEM: Final = msgspec.Raw(b'"system"')
_WITH_USAGE: Final = msgspec.Raw(b'{"include_usage":true}')


class _OpenAI:
    """Stateless: one instance serves every backend of the dialect."""

    stream_type = b"event-stream"

    def speaks(self, request: ChatRequest, target: Target) -> bool:
        """Responses, where the server has it. All others are translated into the hub's dialect, which is this one."""
        native, quirks = request.native, target.facts.quirks
        return (
            native is not None
            and native.dialect == "responses"
            and (quirks.serves_responses or quirks.chat_by_responses != "never")
        )

    def unsupported(self, request: ChatRequest, target: Target) -> tuple[str, ...]:
        """What `/responses` has no words for, where it is asked. All else is sent; `accepts` says what is taken."""
        if target.facts.quirks.chat_by_responses == "never" or not _by_responses(request, target):
            return ()
        return () if request.native is not None and self.speaks(request, target) else asking.untellable(request)

    def encode_request(self, request: ChatRequest, target: Target) -> WireRequest:
        """The client's fields with the backend's model name: patched, not rebuilt.

        Not in place: a retry encodes the same request for another target.
        """
        quirks = target.facts.quirks
        if request.native is not None and self.speaks(request, target):
            fields = request.native.fields | {"model": msgspec.Raw(msgspec.json.encode(target.model))}
            return WireRequest(
                method="POST", path=_placed(_RESPONSES, target), headers=_CONTENT, body=msgspec.json.encode(fields)
            )
        if quirks.chat_by_responses != "never" and _by_responses(request, target):
            return _asked_by_responses(request, target)
        fields, left_out = (
            (dict(request.fields), ()) if request.native is None else plain(request.fields, quirks.efforts)
        )
        fields["model"] = msgspec.Raw(msgspec.json.encode(target.model))
        dropped = dispensed(request, target.facts) if request.needs else ()
        for name in dropped:
            del fields[name]
        if request.native is not None:
            dropped += (*left_out, *sorted(request.fields.keys() - fields.keys() - set(dropped)))
        if not quirks.takes_developer and _DEVELOPER in bytes(fields.get("messages", b"")):
            fields["messages"] = _without_developers(fields["messages"])
        if not quirks.reports_stream_usage:
            fields.pop("stream_options", None)  # It would refuse the request.
            if request.wants_usage and request.native is None:
                dropped += ("stream_options",)  # The client goes without the chunk.
        elif request.stream and not request.wants_usage:
            fields["stream_options"] = _with_usage(fields.get("stream_options"))
        if request.endpoint == "chat" and quirks.max_tokens_field != "keep":
            limits = [fields.pop(name) for name in ("max_completion_tokens", "max_tokens") if name in fields]
            if limits:
                fields[quirks.max_tokens_field] = limits[0]
        return WireRequest(
            method="POST",
            path=_placed(_PATHS[request.endpoint], target),
            headers=_CONTENT,
            body=msgspec.json.encode(fields),
            dropped=dropped,
        )

    def decode_reply(self, request: ChatRequest, body: bytes, label: Label) -> ChatReply | Fault:
        """The answer and its usage; a fault when it is no answer, or an error that came with a 200."""
        try:
            answer = read_answer(body)
        except msgspec.DecodeError:
            return Fault(kind=FaultKind.PROTOCOL, status=200, message="the answer is not JSON of the OpenAI dialect")
        if is_given(answer.error):
            return fault_of(200, answer.error)
        if request.endpoint == "embeddings":
            if not answer.data:
                return Fault(kind=FaultKind.PROTOCOL, status=200, message="the answer has no embeddings")
        elif not answer.choices:
            if (response := read_response(body)) is not None:
                native = request.native is not None and request.native.dialect == "responses"
                return responses.reply(response, body, label, native=native)
            return Fault(kind=FaultKind.PROTOCOL, status=200, message="the answer has no choices")
        return ChatReply(
            raw=body,
            usage=answer.usage.buckets() if answer.usage else None,
            finish_reasons=tuple(choice.finish_reason for choice in answer.choices or () if choice.finish_reason),
            model=answer.model,
            id=answer.id,
            text="".join(choice.text or text_of(choice.message) for choice in answer.choices or ()),
        )

    def decode_fault(self, status: int, headers: Headers, body: bytes) -> Fault:
        """What the status, the error code and Retry-After say together."""
        try:
            error = read_answer(body).error
        except msgspec.DecodeError:
            error = ABSENT  # An HTML page, for example; nothing of it reaches the client.
        # Older vLLM and most proxies write the fields of the error at the top.
        return fault_of(status, error if is_given(error) else msgspec.Raw(body), headers)

    def stream_decoder(self, request: ChatRequest, target: Target, label: Label) -> StreamDecoder:
        """A decoder for one streamed answer."""
        if request.native is not None and self.speaks(request, target):
            return ResponsesDecoder(label, native=True)
        if target.facts.quirks.chat_by_responses != "never" and _by_responses(request, target):
            return ResponsesDecoder(label, native=False)
        return OpenAIStreamDecoder(
            choices=request.choices,
            requires_finish_reason=target.facts.quirks.requires_finish_reason,
        )


def _placed(path: str, target: Target) -> str:
    """The endpoint's path, in the place that `Quirks.path` gives it and the model."""
    template = target.facts.quirks.path
    if template is None:
        return path
    # The model first: its name is escaped and brings no braces, so that nothing is replaced twice.
    return template.replace("{model}", quote(target.model, safe="")).replace("{path}", path)


def _by_responses(request: ChatRequest, target: Target) -> bool:
    """Whether the target must be asked at `/responses` though the client's words are others."""
    way = target.facts.quirks.chat_by_responses
    if way == "never" or request.endpoint != "chat":
        return False
    effort = bytes(request.fields.get("reasoning_effort", msgspec.Raw(b"null")))
    return way == "always" or ("tools" in request.needs and effort not in {b"null", b'"none"'})


def _asked_by_responses(request: ChatRequest, target: Target) -> WireRequest:
    native = request.native
    dropped = {*asking.untellable(request), *dispensed(request, target.facts)}
    if native is not None:  # In OpenAI's own words: the extensions of others are left out.
        fields, left_out = plain(request.fields, target.facts.quirks.efforts)
        request = msgspec.structs.replace(request, fields=fields)
        dropped.update(left_out)
    body, unsaid = asking.asked(without(request, dropped), target.model)
    dropped.update(unsaid)
    return WireRequest(
        method="POST", path=_placed(_RESPONSES, target), headers=_CONTENT, body=body, dropped=tuple(sorted(dropped))
    )


def text_of(delta: Delta | None) -> str:
    """All generated text of a delta or a message: content, reasoning, refusal and tool arguments."""
    if delta is None:
        return ""
    text = delta.content if isinstance(delta.content, str) else _joined(delta.content)
    for more in (delta.reasoning_content or delta.reasoning, delta.refusal):
        if more:
            text += more
    if delta.tool_calls:
        text += _joined(delta.tool_calls)
    return text


def _joined(parts: Sequence[msgspec.Raw] | None) -> str:
    return b"".join(map(bytes, parts)).decode("utf-8", "replace") if parts else ""


def _without_developers(messages: msgspec.Raw) -> msgspec.Raw:
    """The messages with every developer a system; as they are where they are no messages, for the server to refuse."""
    try:
        listed = msgspec.json.decode(messages, type=list[dict[str, msgspec.Raw]])
    except msgspec.ValidationError:
        return messages
    for message in listed:
        if bytes(message.get("role", b"")) == _DEVELOPER:
            message["role"] = _SYSTEM
    return msgspec.Raw(msgspec.json.encode(listed))


def _with_usage(options: msgspec.Raw | None) -> msgspec.Raw:
    """The client's `stream_options` with the usage chunk asked for; the client is not shown it unless it asked."""
    if options is None or bytes(options) == b"null":
        return _WITH_USAGE
    merged = msgspec.json.decode(options, type=dict[str, msgspec.Raw])
    merged["include_usage"] = msgspec.Raw(b"true")
    return msgspec.Raw(msgspec.json.encode(merged))


UPSTREAM: Final[UpstreamDialect] = _OpenAI()
