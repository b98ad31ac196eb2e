"""The conversation as the gateway sees it: what a request asks for, and the pieces of its answer.

The hub is OpenAI Chat's own shape. A request keeps its fields as the client wrote them, so that a backend of the same
dialect gets them unread and unchanged.
"""

from typing import Literal

import msgspec

from gateway.domain.backend import Capability
from gateway.domain.preferences import Preferences
from gateway.domain.usage import Usage
from gateway.domain.wire import Headers

EndpointName = Literal["chat", "completions", "embeddings"]
"""What a request is to the hub, whatever the client called it."""


class Native(msgspec.Struct, frozen=True, kw_only=True):
    """A request in the words of a client that does not speak the hub's dialect."""

    dialect: Literal["anthropic", "responses"]
    fields: dict[str, msgspec.Raw]
    """The top-level fields of the body, their values as the client wrote them. Each name occurs once."""
    hints: tuple[str, ...] = ()
    """What the hub cannot say of it although the answer is the same without, by name: how to cache, for example."""


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What routing, admission and encoding need to know of one request."""

    endpoint: EndpointName
    model: str
    """The public model name."""
    stream: bool
    wants_usage: bool
    """Whether the client asked for a usage chunk at the end of the stream."""
    max_output_tokens: int | None
    choices: int
    """How many answers are asked for: `n`, of each prompt where there are many."""
    needs: frozenset[Capability]
    prompt_bytes: int
    """Bytes of the fields that become the prompt, as they came."""
    fields: dict[str, msgspec.Raw]
    """The top-level fields in the hub's dialect, which is OpenAI Chat's, by name. A client that speaks it wrote the
    values; for others the endpoint translated them."""
    native: Native | None = None
    """The client's own words where those are not the hub's: a backend that speaks them too gets them unchanged."""
    beyond_hub: tuple[str, ...] = ()
    """Places in `native` that the hub has no words for: a backend without the client's own does without them."""
    headers: Headers = ()
    """The client's header fields that a backend of the same dialect is told, of `CONTENT_HEADERS` only."""
    preferences: Preferences | None = None
    """What the client wishes of the request's way. In none of the fields: no backend learns of it."""


class Label(msgspec.Struct, frozen=True, gc=False):
    """What an answer is called where its backend gives it no name of its own."""

    id: str
    model: str
    created: int
    """Seconds since the epoch."""


class ChatReply(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer."""

    raw: bytes
    """The body in the hub's dialect; in the client's own where the upstream dialect `speaks` it."""
    usage: Usage | None
    """None when the backend reported none: absent is not zero."""
    finish_reasons: tuple[str, ...]
    model: str | None
    id: str | None
    text: str
    """Generated text, for counting when no usage was reported."""


class Chunk(msgspec.Struct, kw_only=True, gc=False):
    """One event of a streamed answer."""

    raw: bytes
    """The event with its blank line, in the hub's dialect; in the client's where the upstream dialect `speaks` it."""
    text: str = ""
    """Generated text in this event (content, reasoning, tool arguments), for counting when no usage comes."""
    has_content: bool = False
    """Whether it bears content: from here on the answer belongs to this backend."""
    is_plain: bool = False
    """Whether its content is `text` and nothing else, as of an answer without reasoning, refusal or tools."""
    is_usage_only: bool = False
    """Whether it exists only to report usage; dropped when the client did not ask for it."""
    usage: Usage | None = None


class EndOfStream(msgspec.Struct, kw_only=True):
    """The backend said that its stream is whole."""


class MalformedEvent(msgspec.Struct, kw_only=True):
    """An event that cannot be read. One is skipped, a second one breaks the stream."""

    size: int
    """Bytes; the content is not kept, it may be anything."""
