"""Chat requests of every shape that a client of OpenAI's may write, for properties."""

import base64
import json
from typing import Any

from hypothesis import strategies as st

from gateway.domain.chat import ChatRequest
from tests.dialects.targets import ask

WORDS = st.text(st.characters(codec="utf-8"), max_size=12)
NAMES = st.sampled_from(["look", "now", "go_there-2"])
IDS = st.sampled_from(["c1", "c2", "call_3", "toolu:x/€"])
MARK = st.sampled_from([{}, {"cache_control": {"type": "ephemeral"}}])
PIECES = st.binary(min_size=1, max_size=4).map(lambda data: base64.b64encode(data).decode())


def _part(value: tuple[str, str]) -> dict[str, Any]:
    kind, data = value
    parts: dict[str, dict[str, Any]] = {
        "text": {"type": "text", "text": data},
        "image_url": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        "file": {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{data}"}},
    }
    return parts[kind]


TEXT_PARTS = st.builds(lambda text, mark: {"type": "text", "text": text, **mark}, WORDS, MARK)
PARTS = TEXT_PARTS | st.tuples(st.sampled_from(["text", "image_url", "file"]), PIECES).map(_part)
USERS = st.builds(lambda content: {"role": "user", "content": content}, WORDS | st.lists(PARTS, max_size=3))
SYSTEMS = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["system", "developer"]),
    WORDS | st.lists(TEXT_PARTS, max_size=2),
)
CALLS = st.builds(
    lambda call_id, name, value, extra: {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": "" if value is None else json.dumps(value)},
        **extra,
    },
    IDS,
    NAMES,
    st.none() | st.dictionaries(WORDS, st.integers() | WORDS, max_size=2),
    st.sampled_from([{}, {"extra_content": {"google": {"thought_signature": "c2ln"}}}]),
)
THOUGHTS = st.lists(
    st.builds(lambda text: {"type": "thinking", "thinking": text, "signature": "s"}, WORDS)
    | st.just({"type": "thinking", "thinking": "unsigned"})
    | st.just({"type": "redacted_thinking", "data": "AQID"}),
    max_size=2,
)
ASSISTANTS = st.builds(
    lambda content, calls, thoughts: {
        "role": "assistant",
        "content": content,
        "tool_calls": calls or None,
        "thinking_blocks": thoughts,
    },
    st.none() | WORDS | st.lists(TEXT_PARTS, max_size=2),
    st.lists(CALLS, max_size=3),
    THOUGHTS,
)
TOOLS = st.builds(
    lambda call_id, content, failed: {"role": "tool", "tool_call_id": call_id, "content": content, "is_error": failed},
    IDS,
    WORDS | st.lists(PARTS, max_size=2) | st.just('{"a": 1}'),
    st.booleans(),
)
SCHEMA = {"type": "object", "properties": {"at": {"type": "integer"}}}
FUNCTIONS = st.builds(
    lambda name, more, mark: {"type": "function", "function": {"name": name, **more}, **mark},
    NAMES,
    st.sampled_from([{}, {"description": ""}, {"description": "Looks.", "parameters": SCHEMA, "strict": True}]),
    MARK,
)
CHOICES = st.sampled_from(
    ["auto", "required", "none", {"type": "function", "function": {"name": "look"}},
     {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
         {"type": "function", "function": {"name": name}} for name in ("look", "now")]}}]
)  # fmt: skip
FORMS = st.sampled_from(
    [{"type": "text"}, {"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}]
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "tools": st.lists(FUNCTIONS, min_size=1, max_size=3, unique_by=lambda each: each["function"]["name"]),
        "tool_choice": CHOICES,
        "response_format": FORMS,
        "temperature": st.floats(0, 1),
        "top_p": st.floats(0, 1),
        "max_tokens": st.integers(1, 9000),
        "stop": st.lists(WORDS, max_size=4) | st.just(" "),
        "reasoning_effort": st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh"]),
        "user": WORDS,
    },
)


@st.composite
def requests(draw: st.DrawFn) -> ChatRequest:
    """Any order of messages, however odd, and any settings."""
    messages = draw(st.lists(USERS | SYSTEMS | ASSISTANTS | TOOLS, max_size=6))
    return ask(*messages, draw(USERS), **draw(FIELDS))
