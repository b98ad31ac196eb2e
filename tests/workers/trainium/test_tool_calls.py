"""Tools: told to the model, called by it, and read back out of what it says."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.trainium.tiny import TEMPLATE
from workers.trainium.conversation import WireMessage, read_messages
from workers.trainium.errors import InvalidRequest
from workers.trainium.grammar import Grammars, TokenGrammar
from workers.trainium.model.gguf import GgufFile
from workers.trainium.text import ChatTemplate, Message, Vocabulary
from workers.trainium.tools import HERMES, LLAMA, Call, CallFormat, CallReader, Part, Tool, ToolUse, format_of, render

WEATHER = Tool(
    "weather",
    "How the weather is.",
    {
        "type": "object",
        "properties": {"city": {"enum": ["a", "b"]}, "days": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    is_strict=True,
)
CLOCK = Tool("clock", "", None, is_strict=False)
KNOWS_TOOLS = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function.arguments | tojson }}</tool_call>"
    "{% endfor %}"
    "{% endfor %}"
)


@pytest.fixture(scope="module")
def vocabulary(tiny_path: Path) -> Vocabulary:
    return Vocabulary.from_gguf(GgufFile(tiny_path))


def use(choice: str = "auto", *tools: Tool, is_parallel: bool = True) -> ToolUse:
    return ToolUse(tools or (WEATHER, CLOCK), choice, is_parallel)


def read(form: CallFormat, pieces: list[str]) -> list[tuple[str, str] | str]:
    """What a reader makes of the pieces: joined texts, and names with arguments."""
    reader = CallReader(form, ["weather", "clock"])
    parts: list[Part] = [part for piece in pieces for part in reader.push(piece)] + reader.close()
    found: list[tuple[str, str] | str] = []
    for part in parts:
        if isinstance(part, Call):
            found.append((part.name, part.arguments))
        elif found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return found


CALL = '{"name": "clock", "arguments": {"a": "}{"}}'
ARGUMENTS = '{"a":"}{"}'


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        (HERMES, "just text < 3", ["just text < 3"]),
        (HERMES, f"<tool_call>\n{CALL}\n</tool_call>", [("clock", ARGUMENTS)]),
        (HERMES, f"Well.\n<tool_call>{CALL}</tool_call>", ["Well.\n", ("clock", ARGUMENTS)]),
        (HERMES, f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>\n", [("clock", ARGUMENTS)] * 2),
        (HERMES, f"<tool_call>{CALL}", [("clock", ARGUMENTS)]),
        (HERMES, f"<tool_call>{CALL[:-3]}", [f"<tool_call>{CALL[:-3]}"]),
        (HERMES, "<tool_call>{}</tool_call> <tool_ca", ["<tool_call>{}</tool_call> <tool_ca"]),
        (
            HERMES,
            '<tool_call>{"name": "other", "arguments": {}}</tool_call>',
            ['<tool_call>{"name": "other", "arguments": {}}</tool_call>'],
        ),
        (LLAMA, '{"name": "clock", "parameters": {"a": "}{"}}', [("clock", ARGUMENTS)]),
        (LLAMA, "It is {late}.", ["It is {late}."]),
        (LLAMA, "{late}", ["{late}"]),
        (LLAMA, f"{CALL}\n{CALL}", [("clock", ARGUMENTS)] * 2),
    ],
)
@given(cuts=st.sets(st.integers(0, 120)))
@settings(max_examples=25, deadline=None)
def test_calls_are_read_out_of_the_text_however_it_is_cut(
    form: CallFormat, text: str, expected: list[tuple[str, str] | str], cuts: set[int]
) -> None:
    """What is no call stays text, to the last character."""
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    assert read(form, [text[a:b] for a, b in pairwise(edges)]) == expected


def test_a_template_that_knows_tools_is_given_them() -> None:
    """With arguments as objects and in its own way of calling."""
    template = ChatTemplate(KNOWS_TOOLS)
    wire = [{"id": "1", "type": "function", "function": {"name": "clock", "arguments": '{"ä": "<"}'}}]
    messages = read_messages(
        [WireMessage("user", "now?"), *_convert([{"role": "assistant", "content": None, "tool_calls": wire}])]
    )
    text = render(template, messages, use(), add_generation_prompt=True)
    assert '"name": "weather"' in text
    assert '[assistant]<tool_call>{"ä": "<"}</tool_call>' in text
    assert format_of(template) == HERMES
    assert format_of(ChatTemplate("{{ tools }}{{ messages }}")) == LLAMA


def _convert(messages: list[dict[str, Any]]) -> list[WireMessage]:
    import msgspec

    return [msgspec.convert(message, WireMessage) for message in messages]


def test_a_template_without_tools_has_them_told_in_the_system_message() -> None:
    """And former calls and answers spelled in the same words."""
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": {"a": 1}}}
    messages = [
        Message(role="system", content="Be brief."),
        Message(role="user", content="now?"),
        Message(role="assistant", content="", tool_calls=[call]),
        Message(role="tool", content="12:00", tool_call_id="1"),
    ]
    text = render(ChatTemplate(TEMPLATE), messages, use(), add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nBe brief.\n\nYou may call functions")
    assert '"name": "weather"' in text
    assert 'assistant\n<tool_call>\n{"name": "clock", "arguments": {"a": 1}}\n</tool_call><|im_end|>' in text
    assert "user\n<tool_response>\n12:00\n</tool_response><|im_end|>" in text
    assert format_of(ChatTemplate(TEMPLATE)) == HERMES
    assert render(ChatTemplate(TEMPLATE), messages[:2], None, add_generation_prompt=False).count("functions") == 0


def follows(grammar: TokenGrammar, vocabulary: Vocabulary, text: str) -> bool | None:
    """Whether the text is allowed: True when it may end there, None when it must go on, False when it is not."""
    own = grammar.fork([], "x")
    for token in vocabulary.encode(text):
        if not own.allowed()[token]:
            return False
        own.accept(token)
    return True if own.allowed()[list(vocabulary.end_tokens)].all() else None


@pytest.mark.parametrize("form", [HERMES, LLAMA], ids=["hermes", "llama"])
def test_a_call_that_must_be_made_can_be_nothing_else(vocabulary: Vocabulary, form: CallFormat) -> None:
    """Of the named tool, or of any, with arguments that fit."""
    good = f'{form.opening}{{"name": "weather", "{form.arguments}": {{"city": "a", "days": 3}}}}{form.closing}'
    other = f'{form.opening}{{"name": "clock", "{form.arguments}": {{}}}}{form.closing}'
    named = Grammars(vocabulary).of_calls(use("weather"), form)
    required = Grammars(vocabulary).of_calls(use("required"), form)
    single = Grammars(vocabulary).of_calls(use("required", is_parallel=False), form)
    assert named is not None
    assert required is not None
    assert single is not None
    cases = [(good, True), (other, False), (good[:-1], None), (good.replace("3", "30"), False), ("Well", False)]
    assert [follows(named, vocabulary, text) for text, _ in cases] == [expected for _, expected in cases]
    assert follows(required, vocabulary, other) is True
    assert follows(required, vocabulary, f"{good}\n{other}") is True
    assert follows(single, vocabulary, f"{good}\n{other}") is False
    assert follows(named, vocabulary, f"{good}\n{good}") is False


def test_where_calls_are_free_only_what_begins_one_is_held_to_its_form(vocabulary: Vocabulary) -> None:
    """Text goes on as it likes."""
    grammar = Grammars(vocabulary).of_calls(use(), HERMES)
    assert grammar is not None
    good = '<tool_call>\n{"name": "weather", "arguments": {"city": "b", "days": 0}}\n</tool_call>'
    for text, expected in [
        ("no calls {} < <tool", True),
        (f"first {good}", True),
        (f"{good}\n{good}", True),
        ("<tool_call>", None),
        ("<tool_call>nonsense", False),
        (good.replace("weather", "x"), False),
        (good.replace('"b"', '"c"'), False),
    ]:
        assert follows(grammar, vocabulary, text) is expected, text
    assert Grammars(vocabulary).of_calls(use(), LLAMA) is None


def test_a_schema_that_cannot_be_held_is_refused_or_loosened(vocabulary: Vocabulary) -> None:
    """Refused where the request insists, any object where it does not."""
    odd: dict[str, Any] = {"type": "object", "properties": {"a": {"$ref": "http://example.com/x"}}}
    with pytest.raises(InvalidRequest, match="not supported") as refused:
        Grammars(vocabulary).of_schema(json.dumps(odd))
    assert refused.value.param == "response_format"
    with pytest.raises(InvalidRequest, match="`odd`"):
        Grammars(vocabulary).of_calls(use("required", Tool("odd", "", odd, is_strict=True)), HERMES)
    loose = Grammars(vocabulary).of_calls(use("required", Tool("odd", "", odd, is_strict=False)), LLAMA)
    assert loose is not None
    assert follows(loose, vocabulary, '{"name": "odd", "parameters": {"z": 1}}') is True


def test_a_begun_answer_goes_on_within_its_grammar(vocabulary: Vocabulary) -> None:
    """From where it was cut; a beginning that does not fit is refused."""
    grammar = Grammars(vocabulary).of_schema('{"type": "integer"}')
    assert grammar.fork(vocabulary.encode("12"), "messages").allowed()[vocabulary.encode("3")[0]]
    with pytest.raises(InvalidRequest, match="beginning"):
        grammar.fork(vocabulary.encode("x"), "messages")
