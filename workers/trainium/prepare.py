"""From a checked request to the sequence the engine runs: the prompt's tokens, where they must fit, and the seed.

Pure but for an unseeded request's random numbers.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from workers.trainium.caller import Caller
from workers.trainium.conversation import Conversation
from workers.trainium.engine.sequences import Sampling, Sequence
from workers.trainium.errors import ContextTooLong, InvalidRequest
from workers.trainium.grammar import TokenGrammar
from workers.trainium.loading import Loaded
from workers.trainium.steering import RowSteering
from workers.trainium.text import StreamReader
from workers.trainium.tools import format_of, render
from workers.trainium.wire import Generate

_PARTS: Final = 1 << 23


def tokenize(prompt: Conversation | str, loaded: Loaded) -> tuple[int, ...]:
    """The tokens of a text or a conversation. Raises `InvalidRequest` or `ContextTooLong`."""
    return _read_prompt(prompt, loaded).tokens


@dataclass(frozen=True, slots=True)
class _Prompt:
    """What the model reads."""

    tokens: tuple[int, ...]
    said: int
    """How many of the last tokens are the beginning of the answer."""
    param: str
    """The parameter the tokens came from."""


def prepare(request: Generate, loaded: Loaded, caller: Caller) -> list[Sequence]:
    """The `n` sequences that answer the request. Raises `InvalidRequest` or `ContextTooLong`, naming the parameter.

    Its place in the line is the gateway's to say, where it does: a tenant's word does not move it before another's.
    """
    prompt = _read_prompt(request.prompt, loaded)
    limit = loaded.runner.capacity.max_len
    size, wanted = len(prompt.tokens), request.max_tokens or 1
    if not prompt.tokens:
        raise InvalidRequest(f"`{prompt.param}` is empty", param=prompt.param)
    if size + wanted > limit:
        answer = f"{request.max_tokens} for the answer" if request.max_tokens else "at least 1 for the answer"
        raise ContextTooLong(
            f"this model's maximum context length is {limit} tokens; you asked for {size} in the prompt and {answer}",
            param=prompt.param if size >= limit else "max_tokens",
        )
    if any(token >= loaded.vocabulary.size for token in request.penalties.bias):
        raise InvalidRequest(f"token ids must be between 0 and {loaded.vocabulary.size - 1}", param="logit_bias")

    grammar = _grammar(request, loaded)
    # A grammar allows nothing but the end once the text is whole.
    goes_on = request.ignore_eos and grammar is None

    def sequence(index: int) -> Sequence:
        return Sequence(
            id=uuid.uuid4().hex,
            prompt=prompt.tokens,
            sampling=Sampling(
                max_tokens=request.max_tokens or limit - size,
                temperature=request.temperature,
                top_p=request.top_p,
                top_k=request.top_k,
                min_p=request.min_p,
                top_logprobs=request.top_logprobs,
                steering=_steering(request, prompt, grammar, loaded),
                draw=_uniforms(request.seed, index, skipped=prompt.said),
            ),
            reader=StreamReader(loaded.vocabulary, request.stop),
            end_tokens=frozenset() if goes_on else loaded.vocabulary.end_tokens,
            salt=caller.salt(request.cache_salt),
            priority=request.priority if caller.priority is None else caller.priority,
        )

    return [sequence(index) for index in range(request.n)]


def _grammar(request: Generate, loaded: Loaded) -> TokenGrammar | None:
    if request.schema is not None:
        return loaded.grammars.of_schema(request.schema)
    tools = request.prompt.tools if isinstance(request.prompt, Conversation) else None
    if tools is None or loaded.template is None:
        return None
    return loaded.grammars.of_calls(tools, format_of(loaded.template))


def _steering(request: Generate, prompt: _Prompt, grammar: TokenGrammar | None, loaded: Loaded) -> RowSteering | None:
    if grammar is None and request.penalties.is_neutral:
        return None
    own = grammar.fork(prompt.tokens[len(prompt.tokens) - prompt.said :], "messages") if grammar is not None else None
    return RowSteering(loaded.vocabulary.size, request.penalties, prompt.tokens, said=prompt.said, grammar=own)


def _read_prompt(prompt: Conversation | str | tuple[int, ...], loaded: Loaded) -> _Prompt:
    if isinstance(prompt, Conversation):
        return _read_conversation(prompt, loaded)
    if isinstance(prompt, str):
        return _Prompt(_encode(prompt, loaded, "prompt"), 0, "prompt")
    if any(not 0 <= token < loaded.vocabulary.size for token in prompt):
        raise InvalidRequest(f"token ids must be between 0 and {loaded.vocabulary.size - 1}", param="prompt")
    return _Prompt(prompt, 0, "prompt")


def _read_conversation(conversation: Conversation, loaded: Loaded) -> _Prompt:
    """The conversation through the model's template.

    A begun answer is encoded apart from what stands before it, since that is how its tokens came about: joined, the
    last token of the prompt and the first of the answer could become one the model never saw.
    """
    if loaded.template is None:
        raise InvalidRequest("this model has no chat template; use /v1/completions", param="messages")
    text = render(
        loaded.template,
        conversation.messages,
        conversation.tools,
        add_generation_prompt=conversation.add_generation_prompt,
    )
    asked = _encode(text, loaded, "messages")
    said = _encode(conversation.begun, loaded, "messages", is_begun=True)
    return _Prompt(asked + said, len(said), "messages")


def _encode(text: str, loaded: Loaded, param: str, *, is_begun: bool = False) -> tuple[int, ...]:
    """Tokens of the text. Raises `ContextTooLong` early when it cannot fit: encoding megabytes would stall the loop."""
    vocabulary, limit = loaded.vocabulary, loaded.runner.capacity.max_len
    if len(text) > limit * vocabulary.longest:
        raise ContextTooLong(
            f"this model's maximum context length is {limit} tokens; {len(text)} characters are more than that",
            param=param,
        )
    return vocabulary.encode_begun(text) if is_begun else vocabulary.encode(text)


def _uniforms(seed: int | None, index: int, *, skipped: int) -> Callable[[], float]:
    """A stream of numbers in (0, 1) on the host, so that a seed means the same on every device.

    Each of a request's answers has its own, told apart by `index`. The first `skipped` numbers are those that an
    answer's beginning used up: continued, it goes on as it would have. Middles of 2^23 equal parts, exact in float32.
    An exact 0 would choose the first token of the vocabulary that is not impossible, however unlikely it is.
    """
    entropy = None if seed is None else [seed % (1 << 64), *([index] if index else [])]
    generator = np.random.Generator(np.random.Philox(entropy))
    if seed is not None:
        generator.integers(_PARTS, size=skipped)
    return lambda: (int(generator.integers(_PARTS)) + 0.5) / _PARTS
