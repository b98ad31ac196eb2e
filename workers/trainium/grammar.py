"""Constrained decoding: from a JSON schema, or the tools of a request, to the tokens that may come next.

llguidance does the work, on the host: it compiles in about a millisecond, and its mask takes about 0.1 ms per token of
a vocabulary of 49,152. The mask becomes part of the sequence's steering, so no executable is added.
"""

import json
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from workers.trainium.errors import InvalidRequest
from workers.trainium.text import Vocabulary
from workers.trainium.tools import CallFormat, Tool, ToolUse

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_STYLE: Final[dict[str, Any]] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As models write JSON. Free white space lets a small model go on with line feeds until its last token."""


class TokenGrammar:
    """A grammar on its way through one answer; implements `steering.Grammar`."""

    def __init__(self, matcher: "LLMatcher", size: int) -> None:
        self._matcher = matcher
        self._size = size

    def allowed(self) -> npt.NDArray[np.bool_]:
        """For each token whether it may come next; only end tokens once the text is whole."""
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        return bits[: self._size].view(np.bool_)

    def accept(self, token: int) -> None:
        """The token was chosen; it was allowed."""
        self._matcher.consume_token(token)

    def fork(self, begun: Sequence[int], param: str) -> "TokenGrammar":
        """The same grammar for another answer, after the tokens it begins with.

        Raises `InvalidRequest` that names `param` when they do not fit.
        """
        matcher = self._matcher.deep_copy()
        if begun and not matcher.consume_tokens(list(begun)):
            raise InvalidRequest("the answer's beginning does not fit its `response_format` or tools", param=param)
        return TokenGrammar(matcher, self._size)


class Grammars:
    """Compiles grammars for one vocabulary. May be used from several threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokenizer: LLTokenizer | None = None
        self._lock = threading.Lock()

    def of_schema(self, schema: str) -> TokenGrammar:
        """Texts that are JSON of this schema. Raises `InvalidRequest` that says what of it is not supported."""
        return self._compile(_json_grammar(schema), "response_format")

    def of_calls(self, use: ToolUse, form: CallFormat) -> TokenGrammar | None:
        """Texts that call tools as the request demands; None when it leaves all open and no mark announces a call.

        Arguments are held to their schema. One that llguidance cannot express is taken as any object, unless `strict`.
        """
        tags = [self._tag(tool, form) for tool in use.tools if use.choice in ("auto", "required", tool.name)]
        mark, gap = form.opening.rstrip(), form.opening[len(form.opening.rstrip()) :]
        if use.choice == "auto":
            if not mark:
                return None
            # Text of any kind up to where a call begins: the shortest, so that every mark begins a call.
            rules = (
                f'start: called* end\nend: TEXT\ncalled: to_call rest\nTEXT: /(.|\\n)*/\nto_call[lazy]: TEXT "{mark}"'
            )
            return self._compile(_lark(rules, tags, gap, form.closing), "tools")
        # A call of a named tool is one; several are only possible where the tools are left open.
        more = ' ("\\n" call)*' if use.choice == "required" and use.is_parallel else ""
        return self._compile(_lark(f"start: call{more}\ncall: rest", tags, form.opening, form.closing), "tools")

    def _tag(self, tool: Tool, form: CallFormat) -> tuple[str, str]:
        """What stands before the arguments, and the schema of the arguments."""
        schema = json.dumps(tool.parameters or {"type": "object"})
        problem = self._problem(_json_grammar(schema))
        if problem and tool.is_strict:
            raise InvalidRequest(f"the parameters of tool `{tool.name}` are not supported: {problem}", param="tools")
        head = f'{{"name": {json.dumps(tool.name)}, "{form.arguments}": '
        return head, json.dumps({"type": "object"}) if problem else schema

    def _compile(self, grammar: str, param: str) -> TokenGrammar:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._ready(), grammar, log_level=0)
        if matcher.is_error():
            raise InvalidRequest(f"`{param}` is not supported: {matcher.get_error().splitlines()[0]}", param=param)
        return TokenGrammar(matcher, self._vocabulary.size)

    def _problem(self, grammar: str) -> str:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._ready(), grammar, log_level=0)
        return matcher.get_error().splitlines()[0] if matcher.is_error() else ""

    def _ready(self) -> "LLTokenizer":
        """Built when first needed: it takes a quarter of a second."""
        from llguidance import LLTokenizer

        with self._lock:
            if self._tokenizer is None:
                vocabulary = self._vocabulary
                self._tokenizer = LLTokenizer(
                    vocabulary.tokenizer_json(), n_vocab=vocabulary.size, eos_token=sorted(vocabulary.end_tokens)
                )
            return self._tokenizer


def _json_grammar(schema: str) -> str:
    from llguidance import LLMatcher

    try:
        return LLMatcher.grammar_from_json_schema(schema, overrides=_STYLE)  # type: ignore[arg-type]  # a TypedDict it does not export
    except ValueError as error:
        raise InvalidRequest(f"the schema is not a JSON object: {error}", param="response_format") from error


def _lark(rules: str, tags: Sequence[tuple[str, str]], opening: str, closing: str) -> str:
    """The rules, with `rest` for any of the calls: what opens it, its head, its arguments, and what closes it."""
    from llguidance import LLMatcher

    lines = [rules, "rest: " + " | ".join(f"rest_{index}" for index in range(len(tags)))]
    for index, (head, schema) in enumerate(tags):
        styled = json.dumps(json.loads(schema) | {"x-guidance": _STYLE})
        lines.append(f"rest_{index}: {json.dumps(opening + head)} %json {styled} {json.dumps('}' + closing)}")
    return LLMatcher.grammar_from_lark("%llguidance {}\n" + "\n".join(lines) + "\n")
