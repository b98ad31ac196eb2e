"""OpenAI's request bodies, checked: what this worker does becomes a `Generate`, the rest is refused by name.

A parameter we do not know, or one whose value asks for something we do not do, is a 400 that names it; a value that
changes nothing (null, the default, a note for the provider's records) is accepted. Does no I/O.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeVar

import msgspec

from workers.trainium.conversation import (
    Conversation,
    ToolChoice,
    WireMessage,
    WireTool,
    check_message,
    read_messages,
    read_tools,
)
from workers.trainium.errors import InvalidRequest, UnsupportedParameter
from workers.trainium.steering import Penalties

_TOKEN_ID: Final = re.compile(r"[0-9]{1,9}")
_MOST_ANSWERS: Final = 16
_MOST_INPUTS: Final = 2048
"""Texts in one request for embeddings; OpenAI's limit."""
_PATH: Final = re.compile(r"(.*) - at `\$\.?(.*)`$", re.DOTALL)


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class _SchemaFormat(msgspec.Struct, frozen=True):
    name: str
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class _ResponseFormat(msgspec.Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _SchemaFormat | None = None


class _Common(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    cache_salt: str | None = None
    priority: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


class _Chat(_Common, frozen=True, kw_only=True):
    messages: list[WireMessage]
    max_completion_tokens: int | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[WireTool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: _ResponseFormat | None = None


class _Completion(_Common, frozen=True, kw_only=True):
    prompt: str | list[str | int]
    logprobs: int | None = None


class _Tokenize(msgspec.Struct, frozen=True, kw_only=True):
    model: str | None = None
    prompt: str | None = None
    messages: list[WireMessage] | None = None
    tools: list[WireTool] | None = None
    add_generation_prompt: bool | None = None


class _Embeddings(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


_Body = TypeVar("_Body", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Generate:
    """One request, whatever endpoint it came to."""

    model: str
    prompt: Conversation | str | tuple[int, ...]
    """A conversation, a text, or token ids."""
    max_tokens: int | None
    """None: as many as fit."""
    temperature: float
    top_p: float
    top_k: int
    """0: all tokens."""
    min_p: float
    penalties: Penalties
    n: int
    """Answers to the one prompt."""
    seed: int | None
    stop: tuple[str, ...]
    ignore_eos: bool
    """Whether the text goes on past the model's own end, up to `max_tokens`."""
    cache_salt: str | None
    """Whose cached prompts may be used, and who may use this one's; vLLM's name."""
    priority: int
    """The smaller, the sooner; vLLM's name."""
    top_logprobs: int | None
    """Alternatives to report with each token; None reports no log-probabilities."""
    is_stream: bool
    include_usage: bool
    """Whether the stream ends with a usage chunk."""
    schema: str | None = None
    """The JSON schema the answer must have, as JSON."""

    @property
    def needs_grammar(self) -> bool:
        """Whether the answer's tokens are constrained."""
        return self.schema is not None or (isinstance(self.prompt, Conversation) and self.prompt.tools is not None)


@dataclass(frozen=True, slots=True)
class Embed:
    """A request for embeddings."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    """Texts, or token ids."""
    is_base64: bool
    dimensions: int | None


def _anything(_: object) -> bool:
    return True


def _is(*values: object) -> Callable[[object], bool]:
    # By type as well: in Python `True == 1`.
    return lambda value: any(type(value) is type(one) and value == one for one in values)


_HARMLESS: Final[dict[str, Callable[[object], bool]]] = {
    # Notes for the provider's own records, and hints to caches and schedulers this worker does not have.
    "metadata": _anything,
    "prompt_cache_key": _anything,
    "safety_identifier": _anything,
    "user": _anything,
    "service_tier": _is("auto", "default"),
    "store": _is(False),
    # Values that say "do not".
    "best_of": _is(1),
    "echo": _is(False),
    "functions": _is([]),
    "modalities": _is(["text"]),
    "suffix": _is(""),
}
"""Parameter → whether its value changes nothing here."""


def parse_chat(body: bytes) -> Generate:
    """A `/v1/chat/completions` body. Raises `InvalidRequest`, naming the parameter."""
    fields = _fields(body, _Chat)
    messages = fields.get("messages")
    if isinstance(messages, list):
        for index, message in enumerate(messages):
            check_message(message, f"messages[{index}]")
    chat = _convert(fields, _Chat)
    limit = chat.max_completion_tokens if chat.max_completion_tokens is not None else chat.max_tokens
    top = chat.top_logprobs
    _require(top is None or 0 <= top <= 20, "top_logprobs", "between 0 and 20")  # noqa: PLR2004  # the API's range
    _require(not top or chat.logprobs is True, "top_logprobs", "absent without `logprobs`")
    conversation, schema = _conversation(chat), _schema(chat.response_format)
    _require(schema is None or conversation.tools is None, "response_format", "absent beside `tools`")
    generate = _generate(chat, conversation, limit, top_logprobs=(top or 0) if chat.logprobs else None)
    return replace(generate, schema=schema)


def parse_tokenize(body: bytes) -> tuple[str | None, Conversation | str]:
    """A `/tokenize` body: the model, if it names one, and what to take apart. Raises `InvalidRequest`."""
    wanted = _convert(_fields(body, _Tokenize), _Tokenize)
    _require((wanted.prompt is None) != (wanted.messages is None), "prompt", "given, or `messages`, and not both")
    if wanted.prompt is not None:
        return wanted.model, wanted.prompt
    return wanted.model, Conversation(
        read_messages(wanted.messages or []),
        wanted.add_generation_prompt is not False,
        "",
        read_tools(wanted.tools, None, is_parallel=True),
    )


def _schema(wanted: _ResponseFormat | None) -> str | None:
    """The JSON schema of the answer, as JSON; None when it may be any text."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return '{"type": "object"}'
    _require(
        wanted.json_schema is not None and wanted.json_schema.schema is not None,
        "response_format.json_schema",
        "an object with a `schema`",
    )
    return msgspec.json.encode(wanted.json_schema and wanted.json_schema.schema).decode()


def parse_completion(body: bytes) -> Generate:
    """A `/v1/completions` body. Raises `InvalidRequest`, naming the parameter."""
    fields = _fields(body, _Completion)
    completion = _convert(fields, _Completion)
    top = completion.logprobs
    _require(top is None or 0 <= top <= 5, "logprobs", "between 0 and 5")  # noqa: PLR2004  # the API's range
    return _generate(completion, _prompt(completion.prompt), completion.max_tokens, top_logprobs=top)


def parse_embeddings(body: bytes) -> Embed:
    """A `/v1/embeddings` body. Raises `InvalidRequest`, naming the parameter."""
    wanted = _convert(_fields(body, _Embeddings), _Embeddings)
    given = wanted.input
    if isinstance(given, str):
        inputs: tuple[str | tuple[int, ...], ...] = (given,)
    elif given and all(isinstance(item, int) for item in given):
        inputs = (tuple(item for item in given if isinstance(item, int)),)
    else:
        _require(not any(isinstance(item, int) for item in given), "input", "all texts, or all lists of token ids")
        inputs = tuple(item if isinstance(item, str) else tuple(item) for item in given if not isinstance(item, int))
    _require(0 < len(inputs) <= _MOST_INPUTS and all(inputs), "input", f"1 to {_MOST_INPUTS} texts, none of them empty")
    return Embed(wanted.model, inputs, wanted.encoding_format == "base64", wanted.dimensions)


def _prompt(prompt: str | list[str | int]) -> str | tuple[int, ...]:
    if isinstance(prompt, str):
        return prompt
    tokens = tuple(item for item in prompt if isinstance(item, int))
    if len(tokens) == len(prompt):
        return tokens
    if len(prompt) == 1 and isinstance(prompt[0], str):
        return prompt[0]
    raise UnsupportedParameter(
        "`prompt` must be one text, a list with one text, or a list of token ids", param="prompt"
    )


def _conversation(chat: _Chat) -> Conversation:
    """The messages, with the last one taken off when it is an answer to continue.

    Both parameters are vLLM's. To continue, the turn is opened as for a new answer and the beginning put behind it:
    exactly what the model had read when it wrote that beginning, whatever the template does to finished answers.
    """
    messages = read_messages(chat.messages)
    tools = read_tools(chat.tools, chat.tool_choice, is_parallel=chat.parallel_tool_calls is not False)
    if not chat.continue_final_message:
        return Conversation(messages, chat.add_generation_prompt is not False, "", tools)
    param = "continue_final_message"
    if chat.add_generation_prompt:
        raise InvalidRequest(
            "`continue_final_message` and `add_generation_prompt` exclude one another: the last message is either "
            "continued or answered",
            param=param,
        )
    *before, last = messages
    if last["role"] != "assistant" or not before:
        raise InvalidRequest(
            "`continue_final_message` needs a last message of role `assistant`, and one before it", param=param
        )
    return Conversation(tuple(before), add_generation_prompt=True, begun=last["content"], tools=tools)


def _fields(body: bytes, shape: type[msgspec.Struct]) -> dict[str, Any]:
    """The body's fields that `shape` has; the others have been checked to be harmless."""
    try:
        decoded = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the request body is not JSON: {error}") from error
    if not isinstance(decoded, dict):
        raise InvalidRequest("the request body is not a JSON object")
    known = set(shape.__struct_fields__)
    for name, value in decoded.items():
        if name in known or value is None:
            continue
        is_harmless = _HARMLESS.get(name)
        if is_harmless is None or not is_harmless(value):
            raise UnsupportedParameter(f"this model does not support `{name}` with this value", param=name)
    return {name: value for name, value in decoded.items() if name in known}


def _convert(fields: dict[str, Any], shape: type[_Body]) -> _Body:
    try:
        return msgspec.convert(fields, shape)
    except msgspec.ValidationError as error:
        match = _PATH.match(str(error))
        message, path = (match[1], match[2]) if match else (str(error), "")
        missing = re.search(r"missing required field `(\w+)`", message)
        if missing:
            path = f"{path}.{missing[1]}" if path else missing[1]
        raise InvalidRequest(f"`{path}` is wrong: {message}", param=path or None) from error


def _penalties(body: _Common) -> Penalties:
    """The penalties and biases, in the ranges of OpenAI's API, or of vLLM's for the repetition penalty."""
    for name in ("presence_penalty", "frequency_penalty"):
        value = getattr(body, name)
        _require(value is None or -2 <= value <= 2, name, "between -2 and 2")  # noqa: PLR2004  # the API's range
    repetition = 1.0 if body.repetition_penalty is None else body.repetition_penalty
    _require(0 < repetition <= 2, "repetition_penalty", "above 0 and at most 2")  # noqa: PLR2004  # vLLM's range
    bias = body.logit_bias or {}
    _require(all(_TOKEN_ID.fullmatch(key) for key in bias), "logit_bias", "an object of token ids")
    _require(all(-100 <= value <= 100 for value in bias.values()), "logit_bias", "between -100 and 100")  # noqa: PLR2004  # the API's range
    return Penalties(
        presence=body.presence_penalty or 0.0,
        frequency=body.frequency_penalty or 0.0,
        repetition=repetition,
        bias={int(key): value for key, value in bias.items()},
    )


def _generate(
    body: _Common, prompt: Conversation | str | tuple[int, ...], limit: int | None, *, top_logprobs: int | None
) -> Generate:
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    top_k = 0 if body.top_k in (None, -1) else body.top_k  # vLLM's -1 is its old word for "all"
    n = 1 if body.n is None else body.n
    _require(top_k >= 0, "top_k", "at least 1, or 0 for all tokens")
    _require(body.min_p is None or 0 <= body.min_p <= 1, "min_p", "between 0 and 1")
    _require(1 <= n <= _MOST_ANSWERS, "n", f"between 1 and {_MOST_ANSWERS}")
    _require(body.cache_salt != "", "cache_salt", "not empty")
    _require(limit is None or limit >= 1, "max_tokens", "at least 1")
    _require(body.temperature is None or 0 <= body.temperature <= 2, "temperature", "between 0 and 2")  # noqa: PLR2004  # the API's range
    _require(body.top_p is None or 0 <= body.top_p <= 1, "top_p", "between 0 and 1")
    _require(len(stop) <= 4 and all(stop), "stop", "at most 4 texts, none of them empty")  # noqa: PLR2004  # the API's limit
    return Generate(
        model=body.model,
        prompt=prompt,
        max_tokens=limit,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=top_k,
        min_p=body.min_p or 0.0,
        penalties=_penalties(body),
        n=n,
        seed=body.seed,
        stop=stop,
        ignore_eos=bool(body.ignore_eos),
        cache_salt=body.cache_salt,
        priority=body.priority or 0,
        top_logprobs=top_logprobs,
        is_stream=bool(body.stream),
        include_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
    )


def _require(holds: bool, param: str, expected: str) -> None:  # noqa: FBT001  # reads as an assertion
    if not holds:
        raise InvalidRequest(f"`{param}` must be {expected}", param=param)
