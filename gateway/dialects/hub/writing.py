"""Writes answers in the hub's dialect, OpenAI Chat's: whole, and as chunks of a stream. Does no I/O.

Reasoning stands under both names that clients look for, `reasoning_content` and `reasoning`. A block of it that its
maker signed is told once more when it is whole, in `thinking_blocks`: who sends it back lets the model go on with it.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET

from gateway.domain.chat import ChatReply, Chunk, Label
from gateway.domain.usage import Usage


class ThinkingBlock(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="thinking"):
    """A whole block of reasoning, signed."""

    thinking: str
    signature: str
    index: int | msgspec.UnsetType = UNSET
    """Its place among the blocks of a stream: OpenAI's client puts lists together by it. A whole list needs none."""


class RedactedBlock(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="redacted_thinking"):
    """A block of reasoning that only its maker can read."""

    data: str
    index: int | msgspec.UnsetType = UNSET


SignedBlock = ThinkingBlock | RedactedBlock


class Called(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call of a whole answer."""

    id: str
    name: str
    arguments: str
    """JSON of an object."""
    signature: str | None = None
    """Of the thought that led to it."""


class Logprob(msgspec.Struct, kw_only=True):
    """A token of the answer, or one that might have stood in its place."""

    token: str
    logprob: float
    bytes: list[int]
    """Of the token in UTF-8."""
    top_logprobs: list["Logprob"] | msgspec.UnsetType = msgspec.UNSET


class Choice(msgspec.Struct, kw_only=True):
    """One choice of a whole answer, while it is gathered."""

    finish_reason: str = "stop"
    text: str = ""
    refusal: str = ""
    reasoning: str = ""
    calls: list[Called] = []
    blocks: list[SignedBlock] = []
    logprobs: list[Logprob] | None = None
    signature: str | None = None
    """Of its text."""


def reply_of(label: Label, choices: Sequence[Choice], usage: Usage | None) -> ChatReply:
    """A whole answer."""
    written = [
        _ReplyChoice(index, _message(each), _logprobs(each.logprobs), each.finish_reason)
        for index, each in enumerate(choices)
    ]
    reply = _Answer(
        label.id, "chat.completion", label.created, label.model, written, UNSET if usage is None else reported(usage)
    )
    texts = (
        "".join((each.text, each.refusal, each.reasoning, *(call.name + call.arguments for call in each.calls)))
        for each in choices
    )
    return ChatReply(
        raw=_encode(reply),
        usage=usage,
        finish_reasons=tuple(each.finish_reason for each in choices),
        model=label.model,
        id=label.id,
        text="".join(texts),
    )


class ChunkWriter:
    """Writes one streamed answer. A choice's first chunk tells the role, too."""

    __slots__ = ("_begun", "_signed", "label")

    def __init__(self, label: Label) -> None:
        self.label = label
        """May be replaced while nothing was written: some backends name their answer in its first event."""
        self._begun: set[int] = set()
        self._signed: dict[int, int] = {}
        """How many blocks of reasoning each choice has so far."""

    def text(self, text: str, *, choice: int = 0, logprobs: list[Logprob] | None = None) -> Chunk:
        """A piece of the answer."""
        return self._chunk(choice, _Said(content=text), text, logprobs)

    def reasoning(self, text: str, *, choice: int = 0) -> Chunk:
        """A piece of what the model thinks."""
        return self._chunk(choice, _Said(reasoning_content=text, reasoning=text), text)

    def refusal(self, text: str, *, choice: int = 0) -> Chunk:
        """A piece of the words with which the model declines."""
        return self._chunk(choice, _Said(refusal=text), text)

    def signed(self, block: SignedBlock, *, choice: int = 0) -> Chunk:
        """A whole block of reasoning with its signature. Its text was told before and counts no second time."""
        index = self._signed.get(choice, 0)
        self._signed[choice] = index + 1
        return self._chunk(choice, _Said(thinking_blocks=[msgspec.structs.replace(block, index=index)]), "")

    def signature(self, signature: str, *, choice: int = 0) -> Chunk:
        """The signature of the text."""
        return self._chunk(choice, _Said(extra_content=_extra(signature)), "")

    def call(self, index: int, called: Called, *, choice: int = 0) -> Chunk:
        """A tool call, or its beginning where the arguments are not there yet. `index` counts the choice's calls."""
        return self._chunk(choice, _Said(tool_calls=[_call(called, index)]), called.name + called.arguments)

    def arguments(self, index: int, text: str, *, choice: int = 0) -> Chunk:
        """A piece of a call's arguments."""
        call = _Call(index=index, function=_Function(arguments=text))
        return self._chunk(choice, _Said(tool_calls=[call]), text)

    def finish(self, reason: str, *, choice: int = 0) -> Chunk:
        """The end of a choice."""
        return self._chunk(choice, _Said(), "", reason=reason)

    def usage(self, usage: Usage) -> Chunk:
        """The chunk that only reports usage."""
        return Chunk(raw=self._event((), reported(usage)), is_usage_only=True, usage=usage)

    def _chunk(
        self, choice: int, said: "_Said", text: str, logprobs: list[Logprob] | None = None, *, reason: str | None = None
    ) -> Chunk:
        if choice not in self._begun:
            self._begun.add(choice)
            said.role = "assistant"
        written = _ChunkChoice(choice, said, _logprobs(logprobs), reason)
        return Chunk(raw=self._event([written], UNSET), text=text, has_content=True)

    def _event(self, choices: "Sequence[_ChunkChoice]", usage: "_Usage | msgspec.UnsetType") -> bytes:
        label = self.label
        event = _Answer(label.id, "chat.completion.chunk", label.created, label.model, choices, usage)
        return b"data: " + _encode(event) + b"\n\n"


class _Google(msgspec.Struct):
    thought_signature: str


class _Extra(msgspec.Struct):
    google: _Google


class _Function(msgspec.Struct):
    name: str | msgspec.UnsetType = UNSET
    arguments: str = ""


class _Call(msgspec.Struct, kw_only=True):
    index: int | msgspec.UnsetType = UNSET
    id: str | msgspec.UnsetType = UNSET
    type: str | msgspec.UnsetType = UNSET
    function: _Function
    extra_content: _Extra | msgspec.UnsetType = UNSET


class _Said(msgspec.Struct, kw_only=True):
    """A delta; a whole message as well."""

    role: str | msgspec.UnsetType = UNSET
    content: str | msgspec.UnsetType | None = UNSET
    refusal: str | msgspec.UnsetType | None = UNSET
    reasoning_content: str | msgspec.UnsetType = UNSET
    reasoning: str | msgspec.UnsetType = UNSET
    tool_calls: list[_Call] | msgspec.UnsetType = UNSET
    thinking_blocks: Sequence[SignedBlock] | msgspec.UnsetType = UNSET
    extra_content: _Extra | msgspec.UnsetType = UNSET


class _Logprobs(msgspec.Struct):
    content: list[Logprob]
    refusal: None = None


class _ChunkChoice(msgspec.Struct):
    index: int
    delta: _Said
    logprobs: _Logprobs | None
    finish_reason: str | None


class _ReplyChoice(msgspec.Struct):
    index: int
    message: _Said
    logprobs: _Logprobs | None
    finish_reason: str


class _PromptDetails(msgspec.Struct):
    cached_tokens: int
    cache_write_tokens: int


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _PromptDetails
    completion_tokens_details: _CompletionDetails


class _Answer(msgspec.Struct):
    """A reply, or a chunk of a stream."""

    id: str
    object: str
    created: int
    model: str
    choices: Sequence[_ChunkChoice | _ReplyChoice]
    usage: _Usage | msgspec.UnsetType


_encode: Final = msgspec.json.Encoder().encode


def _message(choice: Choice) -> _Said:
    return _Said(
        role="assistant",
        content=choice.text or (None if choice.calls or choice.refusal else ""),
        refusal=choice.refusal or None,
        reasoning_content=choice.reasoning or UNSET,
        reasoning=choice.reasoning or UNSET,
        tool_calls=[_call(call) for call in choice.calls] or UNSET,
        thinking_blocks=choice.blocks or UNSET,
        extra_content=_extra(choice.signature),
    )


def _call(called: Called, index: int | msgspec.UnsetType = UNSET) -> _Call:
    return _Call(
        index=index,
        id=called.id,
        type="function",
        function=_Function(called.name, called.arguments),
        extra_content=_extra(called.signature),
    )


def _extra(signature: str | None) -> _Extra | msgspec.UnsetType:
    return UNSET if signature is None else _Extra(_Google(signature))


def _logprobs(tokens: list[Logprob] | None) -> _Logprobs | None:
    return None if tokens is None else _Logprobs(tokens)


def reported(usage: Usage) -> _Usage:
    """As OpenAI reports it: cached tokens are a part of the prompt's, reasoning is a part of the completion's."""
    return _Usage(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.total_tokens,
        _PromptDetails(usage.cached_input_tokens, usage.cache_write_tokens),
        _CompletionDetails(usage.reasoning_tokens),
    )
