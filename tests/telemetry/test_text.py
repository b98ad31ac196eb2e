import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.text import MAX_CHARS, clean


@given(st.text(st.characters(codec=None), max_size=600))
def test_cleaned_text_is_short_printable_and_encodable(text: str) -> None:
    """Whatever goes in, one short printable line comes out that UTF-8 can carry."""
    cleaned = clean(text)
    assert len(cleaned) <= MAX_CHARS
    assert cleaned.isprintable()
    cleaned.encode()


@pytest.mark.parametrize(
    "text", ["", "gpt-4o-mini", "meta/llama-3.1-8b", "OpenAI/Python 3.51", "Modell für Prüfungen", "模型"]
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\r\nb", "a\\r\\nb"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\u2028b", "a\\u2028b"),
        ("a\x00b\x7f\x9b", "a\\x00b\\x7f\\x9b"),
        ("\u202egnp", "\\u202egnp"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_could_break_a_line_or_a_terminal_is_escaped(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "sk-gw-abcdef-CANARYCANARY",
        "sk-proj-CANARYCANARY",
        "Incorrect key: Bearer CANARYCANARY",
        "\x00sk-CANARYCANARY",
        "basic CANARYCANARY==",
        "POST https://host/v1beta/models/x:generate?key=CANARYCANARY",
        "https://host/?a=1&api_key=CANARYCANARY",
        "redis://user:CANARYCANARY@host/0",
        "x" * 250 + " sk-CANARYCANARY",
    ],
)
def test_what_looks_like_a_credential_is_masked(text: str) -> None:
    """A key pasted into the wrong field does not reach a log, not even by its first characters."""
    assert "CANA" not in clean(text)


@pytest.mark.parametrize("text", ["risk-assessment-model", "desk-lamp-v2-large", "http://127.0.0.1:8090/v1"])
def test_names_that_only_resemble_a_credential_stay(text: str) -> None:
    assert clean(text) == text
