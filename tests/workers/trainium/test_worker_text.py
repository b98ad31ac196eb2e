"""Tokenizer, chat template and the incremental reader."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.trainium.tiny import END
from workers.trainium.errors import InvalidRequest
from workers.trainium.model.gguf import GgufFile
from workers.trainium.text import ChatTemplate, Message, StreamReader, Vocabulary


@pytest.fixture(scope="module")
def vocabulary(tiny_path: Path) -> Vocabulary:
    return Vocabulary.from_gguf(GgufFile(tiny_path))


anything = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(text=st.text())
@anything
def test_decoding_gives_back_what_was_encoded(vocabulary: Vocabulary, text: str) -> None:
    """Any Unicode text survives the byte-level vocabulary, except control tokens spelled in it."""
    if "<|" in text:
        return
    assert b"".join(vocabulary.bytes_of(token) for token in vocabulary.encode(text)).decode() == text


@given(text=st.text())
@anything
def test_the_reader_never_gives_out_half_a_character(vocabulary: Vocabulary, text: str) -> None:
    """The pieces join to the text, and none holds the replacement character the text does not hold."""
    if "<|" in text:
        return
    reader = StreamReader(vocabulary, [])
    pieces = [reader.push(token) for token in vocabulary.encode(text)] + [reader.close()]
    assert "".join(pieces) == text
    assert all(piece in text for piece in pieces)


@given(
    text=st.text(alphabet="abcé ", max_size=40),
    stops=st.lists(st.text(alphabet="abcé ", min_size=1, max_size=5), min_size=1, max_size=4),
)
@anything
def test_text_ends_before_the_first_stop_string(vocabulary: Vocabulary, text: str, stops: list[str]) -> None:
    """Whatever token borders it spans; nothing of it is ever given out."""
    reader = StreamReader(vocabulary, stops)
    given_out = ""
    for token in vocabulary.encode(text):
        given_out += reader.push(token)
        assert not any(stop in given_out for stop in stops)
    given_out += reader.close()
    ends = [text.index(stop) for stop in stops if stop in text]
    assert reader.is_stopped == bool(ends)
    if not ends:
        assert given_out == text
    else:
        # Several stops may end in one token; the text then ends before the earliest of those met so far.
        assert text.startswith(given_out)
        assert len(given_out) >= min(ends)
        assert not any(stop in given_out for stop in stops)


def test_an_unfinished_character_at_the_end_becomes_a_replacement(vocabulary: Vocabulary) -> None:
    """The length limit may cut a character in two."""
    reader = StreamReader(vocabulary, [])
    first = vocabulary.encode("é")[0]
    assert reader.push(first) == ""
    assert reader.close() == "�"


def test_text_held_back_for_a_stop_string_comes_when_it_does_not_match(vocabulary: Vocabulary) -> None:
    """Held back, then released whole."""
    reader = StreamReader(vocabulary, ["zzz"])
    assert [reader.push(token) for token in vocabulary.encode("zz!")] == ["", "", "zz!"]


def test_control_tokens_are_encoded_as_one_and_shown_as_nothing(vocabulary: Vocabulary) -> None:
    """They mark structure."""
    assert vocabulary.encode("<|im_end|>") == (END,)
    assert vocabulary.bytes_of(END) == b""
    assert vocabulary.end_tokens == {END}


def test_the_template_renders_a_conversation(tiny_path: Path) -> None:
    """As the model was trained to read it."""
    template = ChatTemplate(GgufFile(tiny_path).text("tokenizer.chat_template"))
    rendered = template.render([Message(role="user", content="Hi"), Message(role="assistant", content="Ho")])
    assert rendered == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("source", ["{{ raise_exception('roles must alternate') }}", "{{ messages.append(1) }}"])
def test_what_a_template_may_not_do_is_a_refused_request(source: str) -> None:
    """It comes with the weights, so it runs in a sandbox."""
    with pytest.raises(InvalidRequest, match="chat template refused"):
        ChatTemplate(source).render([Message(role="user", content="Hi")])
