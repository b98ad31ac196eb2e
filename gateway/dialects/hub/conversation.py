"""A chat request as neutral nouns: what a dialect translates into its own words. Values only; read by `reading`."""

from typing import Literal

import msgspec

from gateway.dialects.openai.wire import ABSENT

Role = Literal["system", "user", "assistant"]


class Cache(msgspec.Struct, frozen=True):
    """A mark that the prompt up to here is worth caching (`cache_control`, an extension that Anthropic's API began)."""

    ttl: str | None = None
    """`5m` or `1h`; None leaves it to the backend."""


class Text(msgspec.Struct, frozen=True):
    """Words."""

    text: str
    cache: Cache | None = None


class Media(msgspec.Struct, frozen=True, kw_only=True):
    """An image, a sound or a file: by its bytes, or by where to find it."""

    kind: Literal["image", "audio", "file"]
    field: str
    """Where it stands in the request: `messages[0].content[1].image_url`."""
    media_type: str | None = None
    """As `image/png`; None when the client did not say."""
    data: str | None = None
    """Base64."""
    url: str | None = None
    name: str | None = None
    """A file's name, as the client gave it."""
    detail: str | None = None
    """How closely an image is to be looked at, where the client said."""
    cache: Cache | None = None


class Reasoning(msgspec.Struct, frozen=True, kw_only=True):
    """What a model thought in an earlier turn, with its maker's signature: it goes back unchanged, or not at all."""

    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    """Base64 that only its maker can read, instead of text."""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that the model made in an earlier turn."""

    id: str
    name: str
    arguments: msgspec.Raw
    """A JSON object."""
    signature: str | None = None
    """Of the thought that led to it (`extra_content.google.thought_signature`)."""
    cache: Cache | None = None


class ToolResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool answered."""

    call_id: str
    name: str
    """Of the tool; empty when no call of that id stands before it."""
    parts: tuple[Text | Media, ...]
    is_error: bool = False
    cache: Cache | None = None

    @property
    def text(self) -> str:
        """Its words alone."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


Part = Text | Media | Reasoning | ToolCall | ToolResult


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One message. Tool results are the user's."""

    role: Role
    parts: tuple[Part, ...]
    signature: str | None = None
    """Of the text of an assistant's message (`extra_content.google.thought_signature`)."""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: msgspec.Raw = ABSENT
    """A JSON Schema; ABSENT for a function without arguments."""
    strict: bool = False
    cache: Cache | None = None

    @property
    def schema(self) -> msgspec.Raw:
        """The parameters, for dialects that want a schema even where there are none."""
        return _NO_ARGUMENTS if self.parameters is ABSENT else self.parameters


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the model may, must or must not call a tool, and which."""

    mode: Literal["auto", "required", "none"]
    names: tuple[str, ...] = ()
    """Those that it may call; empty means all."""


class JsonForm(msgspec.Struct, frozen=True, kw_only=True):
    """The shape an answer must have: any JSON object, or what a schema allows."""

    schema: msgspec.Raw = ABSENT
    name: str | None = None
    description: str | None = None
    strict: bool = False
    """Whether the model is held to it, where the backend makes a difference."""


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """All of a request that is not about how it is sent."""

    system: tuple[Text, ...]
    """System and developer messages before all others."""
    turns: tuple[Turn, ...]
    is_named: bool = False
    """Whether some message says whose words it is."""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    allows_parallel_calls: bool = True
    form: JsonForm | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    choices: int = 1
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    effort: str | None = None
    """How much to think: `none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max` (`reasoning_effort`)."""
    service_tier: str | None = None

    @property
    def forces_calls(self) -> bool:
        """Whether the model must call a tool."""
        return self.tool_choice is not None and self.tool_choice.mode == "required" and bool(self.tools)


JSON_ONLY = "Answer with one JSON object and nothing else."
"""What a model is told where its backend has no other word for any JSON object."""
_NO_ARGUMENTS = msgspec.Raw(b'{"type":"object","properties":{}}')
