"""A chat request in the words of Responses, for models that a provider serves there only. Pure.

Nothing is stored at the backend unless the client says so: the conversation is sent whole each time.
"""

from collections.abc import Iterator
from typing import Final, assert_never

import msgspec

from gateway.dialects.hub.conversation import (
    Conversation,
    JsonForm,
    Media,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from gateway.dialects.hub.fitting import HINTS, said
from gateway.dialects.hub.reading import Unreadable, conversation_of
from gateway.dialects.hub.turns import without_marks
from gateway.dialects.openai.wire import ABSENT
from gateway.domain.chat import ChatRequest

_AS_THEY_ARE: Final = (
    "temperature", "top_p", "parallel_tool_calls", "user", "safety_identifier", "prompt_cache_key",
    "prompt_cache_options", "prompt_cache_retention", "service_tier", "metadata",
)  # fmt: skip
"""Fields that mean the same in both."""
_EXPRESSIBLE: Final = frozenset(
    {
        *_AS_THEY_ARE, "tools", "tool_choice", "response_format", "reasoning_effort", "verbosity", "logprobs",
        "top_logprobs", "store",
    }
)  # fmt: skip

Json = dict[str, object]


def untellable(request: ChatRequest) -> tuple[str, ...]:
    """The fields that Responses has no words for: `n`, `stop`, `seed`, the penalties."""
    try:
        talk = conversation_of(request)
    except Unreadable as unreadable:
        return (unreadable.field,)
    more = ["n"] if talk.choices > 1 else []
    more += [
        part.field for turn in talk.turns for part in turn.parts if isinstance(part, Media) and part.kind == "audio"
    ]
    return tuple(sorted({*(said(request) - _EXPRESSIBLE - HINTS), *more}))


def asked(request: ChatRequest, model: str) -> tuple[bytes, tuple[str, ...]]:
    """The body for `POST /responses`, and what it does without inside of the messages.

    Not for requests of which something is `untellable` and may not be dropped.
    """
    talk = conversation_of(request)
    untold = {
        "cache_control": without_marks(talk) != talk,
        "messages.name": talk.is_named,
        "thinking_blocks": any(isinstance(part, Reasoning) for turn in talk.turns for part in turn.parts),
    }
    fields = request.fields
    body: Json = {"model": model, "input": list(_input(talk)), "store": fields.get("store", False)}
    body |= {name: fields[name] for name in _AS_THEY_ARE if name in fields}
    if request.stream:
        body["stream"] = True
    if request.max_output_tokens is not None:
        body["max_output_tokens"] = request.max_output_tokens
    if talk.tools:
        body["tools"] = [_tool(tool) for tool in talk.tools]
    if talk.tool_choice is not None:
        body["tool_choice"] = _tool_choice(talk.tool_choice)
    if talk.effort is not None:
        body["reasoning"] = {"effort": talk.effort}
    text: Json = {}
    if talk.form is not None:
        text["format"] = _form(talk.form)
    if "verbosity" in fields:
        text["verbosity"] = fields["verbosity"]
    if text:
        body["text"] = text
    if talk.logprobs:
        body["include"] = ["message.output_text.logprobs"]
        body["top_logprobs"] = talk.top_logprobs or 0
    return msgspec.json.encode(body), tuple(name for name, is_there in untold.items() if is_there)


def _input(talk: Conversation) -> Iterator[Json]:
    if talk.system:
        yield {"role": "system", "content": "\n\n".join(part.text for part in talk.system)}
    for turn in talk.turns:
        yield from _items(turn)


def _items(turn: Turn) -> Iterator[Json]:
    content: list[Json] = []
    later: list[Json] = []
    if turn.role == "assistant":
        text = "".join(part.text for part in turn.parts if isinstance(part, Text))
        if text:
            yield {"role": "assistant", "content": text}
    for part in turn.parts:
        match part:
            case Text(text=text):
                content.append({"type": "input_text", "text": text})
            case Media():
                content.append(_media(part))
            case ToolCall():
                call = {"call_id": part.id, "name": part.name, "arguments": bytes(part.arguments).decode()}
                later.append({"type": "function_call", **call})
            case ToolResult():
                later.append({"type": "function_call_output", "call_id": part.call_id, "output": part.text})
                # What a tool shows stands behind its answer: an output is text.
                content += [_media(each) for each in part.parts if isinstance(each, Media)]
            case Reasoning():
                pass  # Another maker's, who alone can read it.
            case _:
                assert_never(part)
    yield from later
    if content and turn.role != "assistant":
        yield {"role": turn.role, "content": content}


def _media(media: Media) -> Json:
    where = media.url if media.data is None else f"data:{media.media_type};base64,{media.data}"
    if media.kind == "image":
        return {"type": "input_image", "image_url": where, "detail": media.detail or "auto"}
    return {"type": "input_file", "file_data": where, "filename": media.name or "file"}


def _tool(tool: Tool) -> Json:
    told: Json = {"type": "function", "name": tool.name, "parameters": tool.schema, "strict": tool.strict}
    return told | ({"description": tool.description} if tool.description else {})


def _tool_choice(choice: ToolChoice) -> object:
    if not choice.names:
        return choice.mode
    if choice.mode == "required" and len(choice.names) == 1:
        return {"type": "function", "name": choice.names[0]}
    named = [{"type": "function", "name": name} for name in choice.names]
    return {"type": "allowed_tools", "mode": choice.mode, "tools": named}


def _form(form: JsonForm) -> Json:
    if form.schema is ABSENT:
        return {"type": "json_object"}
    told: Json = {"type": "json_schema", "name": form.name or "answer", "schema": form.schema, "strict": form.strict}
    return told | ({"description": form.description} if form.description else {})
