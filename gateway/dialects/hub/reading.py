"""Reads a chat request into a `Conversation`. Strict where a wrong guess would change what is asked; no I/O.

Beyond OpenAI's own fields these extensions are read, as other gateways and SDKs write them: `cache_control` on parts,
messages and tools, `thinking_blocks` on an assistant's message, `extra_content.google.thought_signature` on its calls,
`is_error` on a tool's message, and `top_k`.
"""

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.dialects.hub import wire
from gateway.dialects.hub.conversation import (
    Cache,
    Conversation,
    JsonForm,
    Media,
    Part,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from gateway.dialects.openai.wire import ABSENT, is_given
from gateway.domain.chat import ChatRequest

_AT: Final = re.compile(r" - at `\$(.*)`$")
_EMPTY: Final = msgspec.Raw(b"{}")


class Unreadable(Exception):
    """Raised when a field has a shape that cannot be translated.

    `field` is its path, `messages[2].role`. A field at the top has a word behind it, `temperature (malformed)`: it is
    no field that may be dropped.
    """

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


_messages: Final = msgspec.json.Decoder(list[wire.Message])
_options: Final = msgspec.json.Decoder(wire.Options)


def conversation_of(request: ChatRequest) -> Conversation:
    """The request in neutral words. Raises Unreadable, naming the field."""
    fields = request.fields
    try:
        messages = _messages.decode(fields.get("messages", msgspec.Raw(b"null")))
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unreadable(f"messages{_place(error)}") from None
    wanted = {name: fields[name] for name in wire.Options.__struct_fields__ if name in fields}
    try:
        options = _options.decode(msgspec.json.encode(wanted))
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unreadable(f"{_place(error).removeprefix('.')} (malformed)") from None
    system: list[Text] = []
    turns: list[Turn] = []
    names: dict[str, str] = {}
    for index, message in enumerate(messages):
        turn = _turn(message, f"messages[{index}]", names)
        if turn.role == "system" and not turns:
            system += [part for part in turn.parts if isinstance(part, Text)]
        else:
            turns.append(turn)
    stop = options.stop
    return Conversation(
        system=tuple(system),
        turns=tuple(turns),
        is_named=any(message.name and message.role != "tool" for message in messages),
        tools=tuple(map(_tool, options.tools or ())),
        tool_choice=_tool_choice(options.tool_choice),
        allows_parallel_calls=options.parallel_tool_calls is not False,
        form=_form(options.response_format),
        max_output_tokens=request.max_output_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        choices=request.choices,
        seed=options.seed,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        logprobs=bool(options.logprobs),
        top_logprobs=options.top_logprobs,
        effort=options.reasoning_effort,
        service_tier=options.service_tier,
    )


def _place(error: Exception) -> str:
    """Where msgspec stumbled: `[0].content`; empty when it does not say."""
    found = _AT.search(str(error))
    return found[1] if found else ""


def _turn(message: wire.Message, field: str, names: dict[str, str]) -> Turn:
    """One message. `names` holds the tools behind the calls so far, by the call's id."""
    for name in ("function_call", "audio"):  # The latter is an earlier answer by its id alone.
        if is_given(getattr(message, name)):
            raise Unreadable(f"{field}.{name}")
    cache = _cache(message.cache_control)
    parts: list[Part] = list(_content(message.content, f"{field}.content"))
    match message.role:
        case "system" | "developer":
            if not all(isinstance(part, Text) for part in parts):
                raise Unreadable(f"{field}.content")
            return Turn(role="system", parts=_marked(parts, cache))
        case "user":
            return Turn(role="user", parts=_marked(parts, cache))
        case "assistant":
            if message.refusal:
                parts.append(Text(message.refusal))
            parts = [*map(_reasoning, message.thinking_blocks or ()), *parts]
            for index, call in enumerate(message.tool_calls or ()):
                names[call.id] = call.function.name
                parts.append(_tool_call(call, f"{field}.tool_calls[{index}]"))
            return Turn(role="assistant", parts=_marked(parts, cache), signature=_signature(message.extra_content))
        case "tool":
            if message.tool_call_id is None:
                raise Unreadable(f"{field}.tool_call_id")
            result = ToolResult(
                call_id=message.tool_call_id,
                name=names.get(message.tool_call_id) or message.name or "",
                parts=tuple(part for part in parts if isinstance(part, Text | Media)),
                is_error=message.is_error,
                cache=cache,
            )
            return Turn(role="user", parts=(result,))
        case _:
            raise Unreadable(f"{field}.role")


def _content(content: str | Sequence[wire.Part] | None, field: str) -> Sequence[Text | Media]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(content),)
    return [_part(part, f"{field}[{index}]") for index, part in enumerate(content)]


def _part(part: wire.Part, field: str) -> Text | Media:
    cache = _cache(part.cache_control)
    match part:
        case wire.Part(type="text", text=str(text)) | wire.Part(type="refusal", refusal=str(text)):
            return Text(text, cache)
        case wire.Part(type="image_url", image_url=str() | wire.Url() as image):
            url, detail = (image, None) if isinstance(image, str) else (image.url, image.detail)
            media_type, data = _data_url(url)
            return Media(
                kind="image",
                field=f"{field}.image_url",
                media_type=media_type,
                data=data,
                url=url if data is None else None,
                detail=detail,
                cache=cache,
            )
        case wire.Part(type="input_audio", input_audio=wire.Sound(data=data, format=form)):
            return Media(kind="audio", field=f"{field}.input_audio", media_type=f"audio/{form}", data=data, cache=cache)
        case wire.Part(type="file", file=wire.File(file_data=str(url), filename=name)):
            media_type, data = _data_url(url)
            if data is not None:
                return Media(
                    kind="file", field=f"{field}.file", media_type=media_type, data=data, name=name, cache=cache
                )
    raise Unreadable(field)


def _data_url(url: str) -> tuple[str | None, str | None]:
    """The media type and the base64 of a `data:` URL; nothing for any other."""
    if not url.startswith("data:"):
        return None, None
    head, comma, data = url.partition(",")
    kind, _, encoding = head.removeprefix("data:").rpartition(";")
    return (kind.partition(";")[0].lower() or None, data) if comma and encoding == "base64" else (None, None)


def _marked(parts: Sequence[Part], cache: Cache | None) -> tuple[Part, ...]:
    """The parts, the last one of which bears a mark that stood on the whole message."""
    if cache is None or not parts or isinstance(parts[-1], Reasoning):
        return tuple(parts)
    return (*parts[:-1], msgspec.structs.replace(parts[-1], cache=cache))


def _cache(mark: wire.Ephemeral | None) -> Cache | None:
    return None if mark is None else Cache(mark.ttl)


def _signature(extra: wire.Extra | None) -> str | None:
    return extra.google.thought_signature if extra is not None and extra.google is not None else None


def _reasoning(block: wire.Thought) -> Reasoning:
    return Reasoning(text=block.thinking, signature=block.signature, redacted=block.data)


def _tool_call(call: wire.Call, field: str) -> ToolCall:
    """A call whose arguments are an object, as every other dialect wants them; none at all are an empty one."""
    written = (call.function.arguments or "").strip()
    try:
        msgspec.json.decode(written or "{}", type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        raise Unreadable(f"{field}.function.arguments") from None
    return ToolCall(
        id=call.id,
        name=call.function.name,
        arguments=msgspec.Raw(written.encode()) if written else _EMPTY,
        signature=_signature(call.extra_content),
        cache=_cache(call.cache_control),
    )


def _tool(tool: wire.Tool) -> Tool:
    function = tool.function
    return Tool(
        name=function.name,
        description=function.description or "",
        parameters=function.parameters if is_given(function.parameters) else ABSENT,
        strict=bool(function.strict),
        cache=_cache(tool.cache_control or function.cache_control),
    )


def _tool_choice(choice: str | wire.Choice | None) -> ToolChoice | None:
    match choice:
        case None:
            return None
        case "auto" | "required" | "none":
            return ToolChoice(mode=choice)
        case wire.Choice(type="function", function=wire.Named(name=name)):
            return ToolChoice(mode="required", names=(name,))
        case wire.Choice(
            type="allowed_tools", allowed_tools=wire.AllowedTools(mode="auto" | "required" as mode, tools=tools)
        ):
            return ToolChoice(mode=mode, names=tuple(tool.function.name for tool in tools))
        case _:
            raise Unreadable("tool_choice.type")


def _form(form: wire.Form | None) -> JsonForm | None:
    match form:
        case None | wire.Form(type="text"):
            return None
        case wire.Form(type="json_object"):
            return JsonForm()
        case wire.Form(type="json_schema", json_schema=wire.Schema() as wanted) if is_given(wanted.schema):
            return JsonForm(
                schema=wanted.schema,
                name=wanted.name,
                description=wanted.description,
                strict=bool(wanted.strict),
            )
        case _:
            raise Unreadable("response_format.type")
