"""OpenAI's request bodies, checked: what this worker does becomes a `Generate`, the rest is refused by name.

A parameter we do not know, or one whose value asks for something we do not do, is a 400 that names it; a value that
changes nothing (null, the default, a note for the provider's records) is accepted. Does no I/O.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import msgspec

from workers.trainium.errors import InvalidRequest, UnsupportedParameter
from workers.trainium.steering import Penalties
from workers.trainium.text import Message

_TOKEN_ID: Final = re.compile(r"[0-9]{1,9}")
_MOST_ANSWERS: Final = 16
_PATH: Final = re.compile(r"(.*) - at `\$\.?(.*)`$", re.DOTALL)


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class _TextPart(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None


class _Message(msgspec.Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_TextPart]


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
    messages: list[_Message]
    max_completion_tokens: int | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class _Completion(_Common, frozen=True, kw_only=True):
    prompt: str | list[str | int]
    logprobs: int | None = None


_Body = TypeVar("_Body", bound=_Common)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said, and how the answer begins."""

    messages: tuple[Message, ...]
    """Without the answer that is to be continued."""
    add_generation_prompt: bool
    """Whether the template opens the assistant's turn after the messages."""
    begun: str
    """The beginning of the answer, which is not said again; empty when there is none."""


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
    "parallel_tool_calls": lambda value: isinstance(value, bool),
    "response_format": _is({"type": "text"}),
    "suffix": _is(""),
    "tool_choice": _is("none", "auto"),
    "tools": _is([]),
}
"""Parameter → whether its value changes nothing here."""

_HARMLESS_IN_MESSAGE: Final = frozenset({"name"})


def parse_chat(body: bytes) -> Generate:
    """A `/v1/chat/completions` body. Raises `InvalidRequest`, naming the parameter."""
    fields = _fields(body, _Chat)
    messages = fields.get("messages")
    if isinstance(messages, list):
        for index, message in enumerate(messages):
            _check_message(message, f"messages[{index}]")
    chat = _convert(fields, _Chat)
    if not chat.messages:
        raise InvalidRequest("`messages` is empty", param="messages")
    limit = chat.max_completion_tokens if chat.max_completion_tokens is not None else chat.max_tokens
    top = chat.top_logprobs
    _require(top is None or 0 <= top <= 20, "top_logprobs", "between 0 and 20")  # noqa: PLR2004  # the API's range
    _require(not top or chat.logprobs is True, "top_logprobs", "absent without `logprobs`")
    return _generate(chat, _conversation(chat), limit, top_logprobs=(top or 0) if chat.logprobs else None)


def parse_completion(body: bytes) -> Generate:
    """A `/v1/completions` body. Raises `InvalidRequest`, naming the parameter."""
    fields = _fields(body, _Completion)
    completion = _convert(fields, _Completion)
    top = completion.logprobs
    _require(top is None or 0 <= top <= 5, "logprobs", "between 0 and 5")  # noqa: PLR2004  # the API's range
    return _generate(completion, _prompt(completion.prompt), completion.max_tokens, top_logprobs=top)


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
    messages = tuple(_plain(message, f"messages[{index}]") for index, message in enumerate(chat.messages))
    if not chat.continue_final_message:
        return Conversation(messages, chat.add_generation_prompt is not False, "")
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
    return Conversation(tuple(before), add_generation_prompt=True, begun=last["content"])


def _fields(body: bytes, shape: type[_Common]) -> dict[str, Any]:
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


def _check_message(message: object, path: str) -> None:
    """Refuse what a message may carry and this worker cannot express, such as tool calls."""
    if not isinstance(message, dict):
        return
    role = message.get("role")
    if role in ("tool", "function"):
        raise UnsupportedParameter(f"this model does not support messages of role `{role}`", param=f"{path}.role")
    for name, value in message.items():
        if name not in ("role", "content", *_HARMLESS_IN_MESSAGE) and value not in (None, [], ""):
            raise UnsupportedParameter(f"this model does not support `{name}` in messages", param=f"{path}.{name}")


def _plain(message: _Message, path: str) -> Message:
    role = "system" if message.role == "developer" else message.role
    if isinstance(message.content, str):
        return Message(role=role, content=message.content)
    for index, part in enumerate(message.content):
        if part.type != "text" or part.text is None:
            raise UnsupportedParameter(
                f"this model reads text only, not a `{part.type}` part", param=f"{path}.content[{index}]"
            )
    return Message(role=role, content="".join(part.text or "" for part in message.content))


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
