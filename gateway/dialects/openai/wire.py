"""The shapes of OpenAI's JSON that we read, no more fields than we use. Unknown fields are skipped, never refused.

None of what every answer is read into can take part in a cycle: `gc=False` spares the collector their count.
"""

from typing import Final

import msgspec

from gateway.domain.usage import Usage

ABSENT: Final = msgspec.Raw()
"""Stands where an unread value is not there. Not None: msgspec decodes `Raw | None` as null alone."""
_MOST_TOKENS = 1_000_000_000
"""A report of more is nonsense, and its price might fit no column of the ledger."""


class Form(msgspec.Struct):
    """A request's `response_format`."""

    type: str | None = None


class StreamOptions(msgspec.Struct):
    """A request's `stream_options`."""

    include_usage: bool | None = None


class PromptTokensDetails(msgspec.Struct, gc=False):
    """A part of `usage`."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class CompletionTokensDetails(msgspec.Struct, gc=False):
    """A part of `usage`."""

    reasoning_tokens: int | None = None


class WireUsage(msgspec.Struct, gc=False):
    """`usage` as OpenAI and those who copy it write it."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None

    def buckets(self) -> Usage | None:
        """The same in disjoint buckets; None when it says nothing, or something that cannot be."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        completion = completion or 0
        if prompt is None or not (0 <= prompt <= _MOST_TOKENS and 0 <= completion <= _MOST_TOKENS):
            return None
        cached = written = 0
        if (details := self.prompt_tokens_details) is not None:
            cached = min(max(details.cached_tokens or 0, 0), prompt)
            written = min(max(details.cache_write_tokens or 0, 0), prompt - cached)
        reasoning = (self.completion_tokens_details.reasoning_tokens if self.completion_tokens_details else None) or 0
        reasoning = min(max(reasoning, 0), completion)
        return Usage(
            input_tokens=prompt - cached - written,
            cached_input_tokens=cached,
            cache_write_tokens=written,
            output_tokens=completion - reasoning,
            reasoning_tokens=reasoning,
        )


class Delta(msgspec.Struct, gc=False):
    """What one choice of a chunk adds. Every field may be absent or null."""

    content: str | list[msgspec.Raw] | None = None
    reasoning_content: str | None = None
    """Reasoning text, as SGLang and DeepSeek name it."""
    reasoning: str | None = None
    """Reasoning text, as vLLM, Ollama and OpenRouter name it."""
    refusal: str | None = None
    tool_calls: list[msgspec.Raw] | None = None
    function_call: msgspec.Raw = ABSENT
    audio: msgspec.Raw = ABSENT


class Choice(msgspec.Struct, gc=False):
    """One choice: of a chunk (`delta`), of a reply (`message`), or of a legacy completion (`text`)."""

    index: int = 0
    delta: Delta | None = None
    message: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class Groq(msgspec.Struct, gc=False):
    """Groq's own corner of a chunk: its streams report usage here unless they are asked for it."""

    usage: WireUsage | None = None


class Answer(msgspec.Struct, gc=False):
    """A chat reply, a completion, a chunk of either (they differ only inside their choices), or embeddings."""

    choices: list[Choice] | None = None
    data: list[msgspec.Raw] | None = None
    """Of embeddings, one for each input."""
    usage: WireUsage | None = None
    error: msgspec.Raw = ABSENT
    id: str | None = None
    model: str | None = None
    x_groq: Groq | None = None


class _Unmetered(msgspec.Struct, gc=False):
    """An `Answer` whose usage cannot be read: that is no reason to lose the answer."""

    choices: list[Choice] | None = None
    data: list[msgspec.Raw] | None = None
    error: msgspec.Raw = ABSENT
    id: str | None = None
    model: str | None = None


class WireError(msgspec.Struct):
    """The error object. Servers differ in which fields they fill and with what."""

    message: str | None = None
    type: str | None = None
    code: str | int | None = None
    param: str | None = None


class Part(msgspec.Struct):
    """A content part of a message."""

    type: str | None = None
    text: str | None = None


class Message(msgspec.Struct):
    """A message of the prompt, as far as counting its tokens goes."""

    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: msgspec.Raw = ABSENT


decode_answer = msgspec.json.Decoder(Answer).decode
"""As `read_answer`, without its patience."""
_unmetered_decoder = msgspec.json.Decoder(_Unmetered)
error_decoder = msgspec.json.Decoder(WireError)
messages_decoder = msgspec.json.Decoder(list[Message])


def read_answer(data: bytes) -> Answer:
    """The answer, chunk or error body in `data`; its usage is None when it has a shape of its own.

    Raises msgspec.ValidationError for JSON of another shape, msgspec.DecodeError for what is no JSON in UTF-8.
    """
    try:
        try:
            return decode_answer(data)
        except msgspec.ValidationError:
            bare = _unmetered_decoder.decode(data)
    except (RecursionError, UnicodeDecodeError) as error:  # msgspec raises these as they are
        raise msgspec.DecodeError(str(error)) from None
    return Answer(choices=bare.choices, data=bare.data, error=bare.error, id=bare.id, model=bare.model)


def is_given(raw: msgspec.Raw) -> bool:
    """Whether an unread value is there and is not null."""
    return raw is not ABSENT and bytes(raw) != b"null"
