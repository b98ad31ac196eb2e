"""The shapes of Anthropic's requests, as far as the hub can say them. Unknown fields are skipped; `hub` names them."""

from typing import Final

import msgspec

from gateway.dialects.openai.wire import ABSENT


class Source(msgspec.Struct):
    """Where an image's or a document's bytes are: `base64`, `text`, `url`, or something of Anthropic's own."""

    type: str = ""
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class Block(msgspec.Struct):
    """One content block of any type; each type fills some of the fields."""

    type: str
    text: str | None = None
    source: msgspec.Raw = ABSENT
    """Read only of images and documents."""
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = ABSENT
    tool_use_id: str | None = None
    content: msgspec.Raw = ABSENT
    """Read only of tool results."""
    is_error: bool | None = None
    title: str | None = None
    citations: msgspec.Raw = ABSENT
    cache_control: msgspec.Raw = ABSENT


class Message(msgspec.Struct):
    """One turn; a system message may stand between turns, too."""

    role: str
    content: str | list[msgspec.Raw]


class ToolChoice(msgspec.Struct):
    """Whether the model may, must or must not use a tool."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct):
    """How much the model may think before it answers."""

    type: str
    budget_tokens: int | None = None


class Format(msgspec.Struct):
    """The shape of the answer."""

    type: str
    schema: msgspec.Raw = ABSENT


class OutputConfig(msgspec.Struct):
    """How the answer is to be made."""

    effort: str | None = None
    format: Format | None = None


class Metadata(msgspec.Struct):
    """Who the end user is, in the client's own words."""

    user_id: str | None = None


class Tool(msgspec.Struct):
    """A tool of the client's, or one of Anthropic's own when its type says so."""

    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw = ABSENT
    strict: bool | None = None
    cache_control: msgspec.Raw = ABSENT


MESSAGES: Final = msgspec.json.Decoder(list[Message])
BLOCK: Final = msgspec.json.Decoder(Block)
SOURCE: Final = msgspec.json.Decoder(Source)
CONTENT: Final = msgspec.json.Decoder(str | list[msgspec.Raw] | None)
SYSTEM: Final = msgspec.json.Decoder(str | list[Block] | None)
TOOLS: Final = msgspec.json.Decoder(list[Tool] | None)
TOOL_CHOICE: Final = msgspec.json.Decoder(ToolChoice | None)
THINKING: Final = msgspec.json.Decoder(Thinking | None)
OUTPUT_CONFIG: Final = msgspec.json.Decoder(OutputConfig | None)
FORMAT: Final = msgspec.json.Decoder(Format | None)
METADATA: Final = msgspec.json.Decoder(Metadata | None)
STOPS: Final = msgspec.json.Decoder(list[str] | None)
