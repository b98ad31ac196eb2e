"""Text to tokens and back: tokenizer and chat template of a GGUF file or a model's folder, and the incremental reader.

Does no tensor work. The reader never gives out half a UTF-8 character, nor text that may turn out to be the start of a
stop string.
"""

import codecs
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn, NotRequired, TypedDict

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from workers.trainium.errors import InvalidRequest, ModelUnavailable
from workers.trainium.model.gguf import GgufFile
from workers.trainium.model.safetensors import read_json

_CONTROL: Final = 3
"""GGUF token type of tokens that mark structure and are never shown."""

_WORD: Final = "x"
"""Stands for whatever word a text may go on with."""


class Message(TypedDict):
    """One turn of a conversation, as chat templates want it."""

    role: str
    content: str
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]


class Vocabulary:
    """A byte-level BPE vocabulary: encodes text, and knows the bytes and the role of every token."""

    def __init__(
        self, tokenizer: Tokenizer, pieces: Sequence[bytes], end_tokens: frozenset[int], marks: Mapping[str, str]
    ) -> None:
        """`pieces` are the tokens' parts of a text, nothing for control tokens; `marks` are named in chat templates."""
        self._tokenizer = tokenizer
        self._bytes = pieces
        self.size = len(pieces)
        spelled = max(map(len, tokenizer.get_vocab()))
        self.longest = max(spelled, *map(len, pieces))
        """No token covers more characters of text than this."""
        self.end_tokens = end_tokens
        self.marks = marks

    @classmethod
    def from_gguf(cls, file: GgufFile) -> "Vocabulary":
        """Build it from the metadata; raises `ModelUnavailable` for a kind of tokenizer this worker does not know."""
        kind, flavour = file.text("tokenizer.ggml.model"), file.text("tokenizer.ggml.pre")
        if (kind, flavour) != ("gpt2", "smollm"):
            raise ModelUnavailable(f"{file.path} has tokenizer `{kind}`/`{flavour}`; this worker knows `gpt2`/`smollm`")
        tokens = [str(token) for token in file.list("tokenizer.ggml.tokens")]
        control = {i for i, role in enumerate(file.list("tokenizer.ggml.token_type")) if role == _CONTROL}
        pairs = [str(merge).split(" ", 1) for merge in file.list("tokenizer.ggml.merges")]
        model = models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[(left, right) for left, right in pairs])
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(tokens[i], special=True, normalized=False) for i in sorted(control)])
        table = _byte_of_character()
        pieces = [
            b"" if i in control else bytes(table[character] for character in token) for i, token in enumerate(tokens)
        ]
        marks = {
            f"{name}_token": tokens[file.integer(f"tokenizer.ggml.{name}_token_id")]
            for name in ("bos", "eos")
            if f"tokenizer.ggml.{name}_token_id" in file.metadata
        }
        return cls(tokenizer, pieces, frozenset({file.integer("tokenizer.ggml.eos_token_id")}), marks)

    @classmethod
    def from_folder(cls, folder: Path, size: int) -> "Vocabulary":
        """Build it from a folder's `tokenizer.json` and its neighbours, for a model of `size` tokens.

        Raises `ModelUnavailable` when it is missing, or not byte-level.
        """
        spelled = read_json(folder / "tokenizer.json")
        if (spelled.get("decoder") or {}).get("type") != "ByteLevel":
            raise ModelUnavailable(f"{folder}/tokenizer.json is not a byte-level tokenizer, which this worker needs")
        tokenizer = Tokenizer.from_str(json.dumps(spelled))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        table = _byte_of_character()
        # A model may have more rows than its tokenizer has tokens; those stand for nothing.
        pieces = [b""] * size
        for token, index in tokenizer.get_vocab(with_added_tokens=False).items():
            pieces[index] = bytes(table[character] for character in token)
        for added in spelled.get("added_tokens", []):
            pieces[added["id"]] = b"" if added["special"] else added["content"].encode()
        return cls(tokenizer, pieces, _end_tokens(folder, tokenizer), _marks(folder))

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of the text; control tokens spelled in it become themselves, nothing is added around it."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_begun(self, text: str) -> tuple[int, ...]:
        """As `encode`, of a text that goes on: white space at its end is split as it is before a word.

        Two line feeds are often one token at the end of a text, and two before a word: a model that was about to say
        the word has written two.
        """
        if text[-1:].isspace():
            *tokens, last = self.encode(text + _WORD)
            if self.bytes_of(last) == _WORD.encode():
                return tuple(tokens)
        # No white space, or a space that is one token with the word.
        return self.encode(text)

    def tokenizer_json(self) -> str:
        """The tokenizer in the form of a `tokenizer.json`, for whoever needs the whole vocabulary."""
        return str(self._tokenizer.to_str())

    def bytes_of(self, token: int) -> bytes:
        """The token's part of the text, perhaps not whole characters; nothing for control tokens."""
        return self._bytes[token]


class ChatTemplate:
    """A model's own chat template; runs in Jinja's immutable sandbox, as it comes with the weights."""

    def __init__(self, source: str, marks: Mapping[str, str] | None = None) -> None:
        """`marks` are the tokens templates call by name, such as `bos_token`."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, autoescape=False
        )  # the output is a prompt, not HTML
        environment.globals.update(marks or {})
        environment.globals["raise_exception"] = _refuse
        # Jinja's own escapes for HTML.
        environment.filters["tojson"] = _to_json
        environment.globals["strftime_now"] = lambda form: datetime.now(UTC).strftime(form)
        self.source = source
        self.knows_tools = re.search(r"\btools\b", source) is not None
        """Whether it can tell the model of tools."""
        self._template = environment.from_string(source)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt for the assistant's next turn, or without its opening; raises `InvalidRequest` when refused."""
        try:
            return self._template.render(messages=messages, tools=tools, add_generation_prompt=add_generation_prompt)
        except TemplateError as error:
            raise InvalidRequest(f"the model's chat template refused: {error}", param="messages") from error


class StreamReader:
    """Tokens in, certain text out; implements `engine.sequences.Reader`."""

    def __init__(self, vocabulary: Vocabulary, stops: Sequence[str]) -> None:
        self._vocabulary = vocabulary
        self._stops = tuple(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._is_stopped = False

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string was met; neither it nor anything after it is given out."""
        return self._is_stopped

    def push(self, token: int) -> str:
        """Text that became certain with this token."""
        return self._take(self._decoder.decode(self._vocabulary.bytes_of(token)))

    def close(self) -> str:
        """Everything still held back; an unfinished character becomes U+FFFD."""
        text = self._take(self._decoder.decode(b"", final=True))
        if self._is_stopped:
            return text
        text, self._held = text + self._held, ""
        return text

    def _take(self, new: str) -> str:
        if self._is_stopped:
            return ""
        text = self._held + new
        hits = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if hits:
            self._is_stopped = True
            self._held = ""
            return text[: min(hits)]
        keep = max((overlap(text, stop) for stop in self._stops), default=0)
        cut = len(text) - keep
        self._held = text[cut:]
        return text[:cut]


def read_template(folder: Path) -> str | None:
    """The chat template of a model's folder; None when it has none. Raises `ModelUnavailable`."""
    alone = folder / "chat_template.jinja"
    if alone.is_file():
        return alone.read_text("utf-8")
    settings = folder / "tokenizer_config.json"
    found = read_json(settings).get("chat_template") if settings.is_file() else None
    if isinstance(found, list):
        found = next((one["template"] for one in found if one.get("name") == "default"), None)
    return found


def _end_tokens(folder: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that end a text: generation settings know more of them than the tokenizer."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        found = read_json(path).get("eos_token_id") if path.is_file() else None
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    index = tokenizer.token_to_id(_marks(folder).get("eos_token", ""))
    if index is None:
        raise ModelUnavailable(f"{folder} does not say which token ends a text")
    return frozenset({index})


def _marks(folder: Path) -> dict[str, str]:
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    found = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = settings.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[name] = text
    return found


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-size:]):
            return size
    return 0


def _byte_of_character() -> dict[str, int]:
    """The byte each character of a byte-level vocabulary stands for.

    GPT-2's table: printable bytes stand for themselves, the others for the characters from U+0100 on, in order.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
