"""The shapes of a Responses request that are read in order to say it in Chat's words. Unknown fields are skipped."""

from typing import Annotated, Final

import msgspec

from gateway.dialects.openai.wire import ABSENT


class Part(msgspec.Struct):
    """A piece of a message, or of what a tool answered."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    file_data: str | None = None
    filename: str | None = None


class Item(msgspec.Struct):
    """One entry of `input`. Which fields count depends on its type; a message may leave its type out."""

    type: str = "message"
    role: str = "user"
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: str | list[Part] | None = None
    encrypted_content: str | None = None


class Function(msgspec.Struct):
    """A tool; of a namespace, a bundle of them."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: msgspec.Raw = ABSENT
    strict: bool | None = None
    format: "CustomForm | None" = None
    tools: "list[Function] | None" = None


class CustomForm(msgspec.Struct):
    """What a custom tool takes."""

    type: str | None = None


class Named(msgspec.Struct):
    """A tool by name."""

    type: str
    name: str | None = None
    mode: str | None = None
    tools: "list[Named] | None" = None


class Form(msgspec.Struct):
    """`text.format`."""

    type: str
    name: str | None = None
    description: str | None = None
    schema: msgspec.Raw = ABSENT
    strict: bool | None = None


class TextOptions(msgspec.Struct):
    """`text`."""

    format: Form | None = None
    verbosity: str | None = None


class ReasoningOptions(msgspec.Struct):
    """`reasoning`."""

    effort: str | None = None
    summary: str | None = None


class Request(msgspec.Struct):
    """The body, as far as it is translated."""

    input: str | list[Item]
    instructions: str | None = None
    tools: list[Function] | None = None
    tool_choice: str | Named | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: list[str] | None = None
    max_output_tokens: Annotated[int, msgspec.Meta(ge=1, le=100_000_000)] | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: msgspec.Raw = ABSENT
    prompt: msgspec.Raw = ABSENT
    top_logprobs: int | None = None


decode_request: Final = msgspec.json.Decoder(Request).decode
