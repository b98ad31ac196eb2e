"""A request in Anthropic's words, said in the hub's, for backends that do not speak Anthropic's dialect. Does no I/O.

What the hub can only say with extensions (`thinking_blocks` on an assistant's message, `cache_control` on parts,
messages and tools, `is_error` on a tool's) stands there for the dialects that know them. What it cannot say at all is
named: whether the answer would be another one without it (`lost`), or the same (`hints`).
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from gateway.dialects.anthropic import asked
from gateway.dialects.body import Fields, read, shown
from gateway.dialects.openai.wire import is_given
from gateway.domain.backend import Capability
from gateway.domain.errors import InvalidRequest

Said = dict[str, Any]
"""A part, a message or a tool of the hub's, about to be encoded."""

_SAID: Final = frozenset(
    {
        "max_tokens", "messages", "metadata", "model", "output_config", "output_format", "stop_sequences", "stream",
        "system", "temperature", "thinking", "tool_choice", "tools", "top_p",
    }
)  # fmt: skip
_HINTS: Final = frozenset({"cache_control", "diagnostics", "service_tier", "speed"})
"""Fields about the way in which an answer is made: without them it is the same."""
_LONGEST_USER: Final = 64
_LITTLE_THOUGHT, _SOME_THOUGHT = 4096, 16_384
"""Tokens of a thinking budget up to which it is a `low` effort, or a `medium` one."""
_TOOL_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
_NO_SCHEMA: Final = msgspec.Raw(b'{"type":"object","properties":{}}')


class Translation:
    """What the hub says of a request, and what it leaves unsaid."""

    __slots__ = ("fields", "hints", "lost", "needs")

    def __init__(self, native: Fields) -> None:
        self.lost: set[str] = set()
        """Names of what changes the answer and has no place in the hub: `top_k`, `messages.document`."""
        self.hints: set[str] = set()
        """Names of what has no place and changes nothing about the answer."""
        self.needs: set[Capability] = set()
        self.fields: Fields = {"model": native["model"]}
        given = {name for name, raw in native.items() if bytes(raw) != b"null"}
        self.hints |= given & _HINTS
        self.lost |= set(map(shown, given - _SAID - _HINTS))
        if bytes(native.get("max_tokens", b"")) == b"0":
            self.lost.add("max_tokens")  # Not an answer is wanted but the prompt in the cache.
        self._say(
            "messages", [*self._system(native), *(each for turn in _turns(native) for each in self._messages(turn))]
        )
        self._options(native)
        self._tools(native)
        self._thinking(native)

    def _say(self, name: str, value: object) -> None:
        self.fields[name] = msgspec.Raw(msgspec.json.encode(value))

    # Messages.

    def _system(self, native: Fields) -> list[Said]:
        system = read(native, "system", asked.SYSTEM)
        if not system:
            return []
        return [{"role": "system", "content": system if isinstance(system, str) else _joined(map(_text, system))}]

    def _messages(self, message: asked.Message) -> list[Said]:
        """The messages of one turn: a user's turn holds the tools' results too, which are messages of their own."""
        content = message.content
        blocks = [] if isinstance(content, str) else [(asked.BLOCK.decode(raw), raw) for raw in content]
        match message.role:
            case "user":
                return self._user(content, [block for block, _ in blocks])
            case "assistant":
                return [self._assistant(content, blocks)]
            case "system":
                said = content if isinstance(content, str) else _joined(_text(block) for block, _ in blocks)
                return [{"role": "system", "content": said}]
        raise InvalidRequest(f"messages: the role {message.role[:32]!a} is unknown.", param="messages")

    def _user(self, content: str | Sequence[msgspec.Raw], blocks: Sequence[asked.Block]) -> list[Said]:
        if isinstance(content, str):
            return [{"role": "user", "content": content}]
        said = [self._result(block) for block in blocks if block.type == "tool_result"]
        parts = [part for block in blocks if block.type != "tool_result" for part in self._part(block)]
        if parts:
            said.append({"role": "user", "content": _joined(parts)})
        return said

    def _assistant(
        self, content: str | Sequence[msgspec.Raw], blocks: Sequence[tuple[asked.Block, msgspec.Raw]]
    ) -> Said:
        said: Said = {"role": "assistant", "content": content if isinstance(content, str) else None}
        texts: list[Said] = []
        calls: list[Said] = []
        thoughts: list[msgspec.Raw] = []
        for block, raw in blocks:
            if block.type == "text":
                texts.append(_text(block))
            elif block.type == "tool_use":
                arguments = bytes(block.input).decode() if is_given(block.input) else "{}"
                called = {"name": block.name or "", "arguments": arguments}
                calls.append(_marked({"id": block.id or "", "type": "function", "function": called}, block))
            elif block.type in {"thinking", "redacted_thinking"}:
                thoughts.append(raw)
            else:
                self.lost.add(f"messages.{shown(block.type)}")
        if texts:
            said["content"] = _whole(texts, "")
        elif said["content"] is None and not calls:
            said["content"] = ""  # Only beside calls may there be none.
        if calls:
            said["tool_calls"] = calls
        if thoughts:
            said["thinking_blocks"] = thoughts
        return said

    def _result(self, block: asked.Block) -> Said:
        content = asked.CONTENT.decode(block.content) if is_given(block.content) else ""
        if not isinstance(content, str):
            content = _whole([part for raw in content or () for part in self._part(asked.BLOCK.decode(raw))], "\n")
        said: Said = {"role": "tool", "tool_call_id": block.tool_use_id or "", "content": content}
        if block.is_error:
            said["is_error"] = True
        return _marked(said, block)

    def _part(self, block: asked.Block) -> list[Said]:
        """A block as a part of a message; none when the hub has no such part."""
        if block.type == "text":
            return [_text(block)]
        if block.type in {"image", "document"} and is_given(block.source):
            source = asked.SOURCE.decode(block.source)
            media = _image(source) if block.type == "image" else _document(source, block)
            if media is not None:
                if block.type == "image":
                    self.needs.add("vision")
                return [_marked(media, block)]
        self.lost.add(f"messages.{shown(block.type)}")
        return []

    # Everything else.

    def _options(self, native: Fields) -> None:
        for name in ("max_tokens", "stream", "temperature", "top_p"):
            if name in native:
                self.fields[name] = native[name]
        if bytes(native.get("stream", b"")) == b"true":
            self._say("stream_options", {"include_usage": True})
        stops = read(native, "stop_sequences", asked.STOPS)
        if stops:
            self._say("stop", stops)
            self.needs.add("stop")
        metadata = read(native, "metadata", asked.METADATA)
        if metadata is not None and metadata.user_id:
            self._say("user", _user(metadata.user_id))
        config = read(native, "output_config", asked.OUTPUT_CONFIG)
        form = read(native, "output_format", asked.FORMAT) or (config.format if config is not None else None)
        if form is not None:
            if form.type != "json_schema" or not is_given(form.schema):
                raise InvalidRequest(
                    "`output_config.format` must be a `json_schema` with its schema.", param="output_config"
                )
            is_strict = _is_closed(msgspec.json.decode(form.schema))
            schema = {"name": "answer", "schema": form.schema, "strict": is_strict}
            self._say("response_format", {"type": "json_schema", "json_schema": schema})
            if not is_strict:
                self.hints.add("output_config.format (strictly)")
            self.needs.add("json_schema")

    def _tools(self, native: Fields) -> None:
        tools = read(native, "tools", asked.TOOLS)
        if not tools:
            return
        self.needs.add("tools")
        said = []
        for tool in tools:
            if tool.type not in {None, "custom"}:
                self.lost.add(f"tools.{shown(tool.type or '')}")
                continue
            function: Said = {"name": tool.name}
            if tool.description:
                function["description"] = tool.description
            function["parameters"] = tool.input_schema if is_given(tool.input_schema) else _NO_SCHEMA
            if tool.strict is not None:
                function["strict"] = tool.strict
            said.append(_marked({"type": "function", "function": function}, tool))
        if said:
            self._say("tools", said)
        choice = read(native, "tool_choice", asked.TOOL_CHOICE)
        if choice is None or not said:
            return
        if choice.type == "tool":
            self._say("tool_choice", {"type": "function", "function": {"name": choice.name or ""}})
        elif choice.type in _TOOL_CHOICES:
            self._say("tool_choice", _TOOL_CHOICES[choice.type])
        else:
            self.lost.add("tool_choice")
        if choice.disable_parallel_tool_use:
            self._say("parallel_tool_calls", value=False)

    def _thinking(self, native: Fields) -> None:
        """How much to think, as a `reasoning_effort`: what was named, else what a budget comes to."""
        thinking = read(native, "thinking", asked.THINKING)
        config = read(native, "output_config", asked.OUTPUT_CONFIG)
        effort = config.effort if config is not None else None
        if thinking is not None and thinking.type == "disabled":
            effort = "none"
        elif effort is None and thinking is not None:
            budget = thinking.budget_tokens
            effort = "high" if budget is not None and budget > _SOME_THOUGHT else "medium"
            if budget is not None and budget <= _LITTLE_THOUGHT:
                effort = "low"
        if effort is not None:
            self._say("reasoning_effort", effort)


def translated(native: Fields) -> Translation:
    """What the hub can say of a request. Raises InvalidRequest for what is no request of Anthropic's either."""
    try:
        return Translation(native)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"`messages`: {error}", param="messages") from None


def _turns(native: Fields) -> list[asked.Message]:
    turns = read(native, "messages", asked.MESSAGES)
    if not turns:
        raise InvalidRequest("`messages` must be a list with at least one message.", param="messages")
    return turns


def _text(block: asked.Block) -> Said:
    return _marked({"type": "text", "text": block.text or ""}, block)


def _joined(parts: Iterable[Said]) -> str | list[Said]:
    """Content as servers take it most readily: a text alone as such."""
    listed = list(parts)
    if len(listed) == 1 and listed[0].keys() == {"type", "text"}:
        text: str = listed[0]["text"]
        return text
    return listed or ""


def _whole(parts: list[Said], between: str) -> str | list[Said]:
    """Content as one text where it is nothing else: of an assistant or a tool, many servers take no list of texts."""
    if all(part.keys() == {"type", "text"} for part in parts):
        return between.join(part["text"] for part in parts)
    return parts


def _marked(said: Said, marked: asked.Block | asked.Tool) -> Said:
    """With the mark that the prompt up to here is worth caching, if there is one."""
    if is_given(marked.cache_control):
        said["cache_control"] = marked.cache_control
    return said


def _is_closed(schema: Any) -> bool:
    """Whether OpenAI would hold to the schema strictly: all objects in it have exactly their properties, all required.

    It refuses others, which Anthropic takes. Then it is asked for the schema as a wish, and the client is told.
    """
    if isinstance(schema, list):
        return all(map(_is_closed, schema))
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, dict):
        names = set(properties) if isinstance(properties, dict) else set()
        required = schema.get("required", [])
        if schema.get("additionalProperties") is not False or set(required) != names:
            return False
    return all(map(_is_closed, schema.values()))


def _image(source: asked.Source) -> Said | None:
    if source.type == "url" and source.url:
        return {"type": "image_url", "image_url": {"url": source.url}}
    if source.type == "base64" and source.data and source.media_type:
        return {"type": "image_url", "image_url": {"url": f"data:{source.media_type};base64,{source.data}"}}
    return None


def _document(source: asked.Source, block: asked.Block) -> Said | None:
    """Files by their bytes and plain texts. With citations wanted it is something that only Anthropic's models do."""
    if is_given(block.citations) and b"true" in bytes(block.citations):
        return None
    if source.type == "text" and source.data is not None:
        title = f"{block.title}\n\n" if block.title else ""
        return {"type": "text", "text": f"{title}{source.data}"}
    if source.type == "base64" and source.data and source.media_type:
        file = {
            "filename": block.title or "document.pdf",
            "file_data": f"data:{source.media_type};base64,{source.data}",
        }
        return {"type": "file", "file": file}
    return None


def _user(user_id: str) -> str:
    """Who the end user is. OpenAI takes 64 characters: a longer name becomes one as good as it."""
    if len(user_id) <= _LONGEST_USER:
        return user_id
    return hashlib.sha256(user_id.encode("utf-8", "surrogatepass")).hexdigest()
