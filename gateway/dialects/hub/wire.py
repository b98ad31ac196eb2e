"""The shapes of OpenAI Chat's request, as far as other dialects can say it, with the extensions that `reading` names.

Unknown fields are skipped here; `fitting` tells of those at the top that say something.
"""

import msgspec

from gateway.dialects.openai.wire import ABSENT


class Ephemeral(msgspec.Struct):
    """`cache_control`: what comes before is worth keeping."""

    ttl: str | None = None


class Url(msgspec.Struct):
    """Where an image is, or the image itself as a `data:` URL."""

    url: str
    detail: str | None = None


class Sound(msgspec.Struct):
    """A sound in base64 and its format: `wav`, `mp3`."""

    data: str
    format: str


class File(msgspec.Struct):
    """A file as a `data:` URL."""

    file_data: str | None = None
    filename: str | None = None


class Part(msgspec.Struct):
    """A part of a message's content; which field counts is the type's to say."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | Url | None = None
    input_audio: Sound | None = None
    file: File | None = None
    cache_control: Ephemeral | None = None


class Google(msgspec.Struct):
    """Google's own corner of `extra_content`."""

    thought_signature: str | None = None


class Extra(msgspec.Struct):
    """What a model wants back with its own words."""

    google: Google | None = None


class Called(msgspec.Struct):
    """The function of a call; its arguments are JSON in a string."""

    name: str
    arguments: str | None = None


class Call(msgspec.Struct):
    """A tool call in an assistant's message."""

    id: str
    function: Called
    extra_content: Extra | None = None
    cache_control: Ephemeral | None = None


class Thought(msgspec.Struct):
    """A block of reasoning in the shape that Anthropic's API gave it: `thinking` or `redacted_thinking`."""

    type: str
    thinking: str = ""
    signature: str | None = None
    data: str | None = None


class Message(msgspec.Struct):
    """One message of any role."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    function_call: msgspec.Raw = ABSENT
    audio: msgspec.Raw = ABSENT
    thinking_blocks: list[Thought] | None = None
    extra_content: Extra | None = None
    cache_control: Ephemeral | None = None
    is_error: bool = False


class Function(msgspec.Struct):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: msgspec.Raw = ABSENT
    strict: bool | None = None
    cache_control: Ephemeral | None = None


class Tool(msgspec.Struct):
    """A tool; only functions can be told to other dialects."""

    function: Function
    cache_control: Ephemeral | None = None


class Named(msgspec.Struct):
    """A function by name."""

    name: str


class Allowed(msgspec.Struct):
    """One of `allowed_tools`."""

    function: Named


class AllowedTools(msgspec.Struct):
    """A choice among some of the tools."""

    mode: str
    tools: list[Allowed]


class Choice(msgspec.Struct):
    """`tool_choice` where it is not a word."""

    type: str
    function: Named | None = None
    allowed_tools: AllowedTools | None = None


class Schema(msgspec.Struct):
    """The schema of a `response_format`."""

    schema: msgspec.Raw = ABSENT
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class Form(msgspec.Struct):
    """`response_format`."""

    type: str
    json_schema: Schema | None = None


class Options(msgspec.Struct):
    """The fields at the top, besides messages."""

    tools: list[Tool] | None = None
    tool_choice: str | Choice | None = None
    parallel_tool_calls: bool | None = None
    response_format: Form | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: str | None = None
    service_tier: str | None = None
