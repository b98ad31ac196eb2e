"""The shapes of OpenAI's JSON that we read, no more fields than we use. Unknown fields are skipped, never refused."""

import msgspec

from gateway.domain.usage import Usage


class PromptTokensDetails(msgspec.Struct):
    """A part of `usage`."""

    cached_tokens: int | None = None


class CompletionTokensDetails(msgspec.Struct):
    """A part of `usage`."""

    reasoning_tokens: int | None = None


class WireUsage(msgspec.Struct):
    """`usage` as OpenAI and those who copy it write it."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None

    def buckets(self) -> Usage | None:
        """The same in disjoint buckets; None when it says nothing, or something that cannot be."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        if prompt is None or prompt < 0 or (completion is not None and completion < 0):
            return None
        completion = completion or 0
        cached = (self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else None) or 0
        reasoning = (self.completion_tokens_details.reasoning_tokens if self.completion_tokens_details else None) or 0
        cached = min(max(cached, 0), prompt)
        reasoning = min(max(reasoning, 0), completion)
        return Usage(
            input_tokens=prompt - cached,
            cached_input_tokens=cached,
            output_tokens=completion - reasoning,
            reasoning_tokens=reasoning,
        )


class Delta(msgspec.Struct):
    """What one choice of a chunk adds. Every field may be absent or null."""

    content: str | list[msgspec.Raw] | None = None
    reasoning_content: str | None = None
    """Reasoning text, as SGLang and DeepSeek name it."""
    reasoning: str | None = None
    """Reasoning text, as vLLM, Ollama and OpenRouter name it."""
    refusal: str | None = None
    tool_calls: list[msgspec.Raw] | None = None
    function_call: msgspec.Raw | None = None
    audio: msgspec.Raw | None = None


class Choice(msgspec.Struct):
    """One choice: of a chunk (`delta`), of a reply (`message`), or of a legacy completion (`text`)."""

    index: int = 0
    delta: Delta | None = None
    message: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class Answer(msgspec.Struct):
    """A chat reply, a completion, or a chunk of either: they differ only inside their choices."""

    choices: list[Choice] | None = None
    usage: WireUsage | None = None
    error: msgspec.Raw | None = None
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
    tool_calls: msgspec.Raw | None = None


answer_decoder = msgspec.json.Decoder(Answer)
error_decoder = msgspec.json.Decoder(WireError)
fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
messages_decoder = msgspec.json.Decoder(list[Message])
