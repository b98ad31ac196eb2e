"""The shapes of Gemini's answers that we read, and what their words mean. Unknown fields are skipped. No I/O."""

from typing import Annotated, Final

import msgspec

from gateway.dialects.gemini.faults import Error
from gateway.dialects.gemini.request import OUR_CALL_ID
from gateway.dialects.hub.writing import Called, Logprob
from gateway.domain.chat import Label
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.usage import Usage

_FINISH: Final = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    **dict.fromkeys(
        (
            "BLOCKLIST", "ESCALATION", "IMAGE_OTHER", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "IMAGE_SAFETY",
            "LANGUAGE", "MODEL_ARMOR", "NO_IMAGE", "OTHER", "PROHIBITED_CONTENT", "PUP_LIMITED_DISABLED", "RECITATION",
            "SAFETY", "SPII",
        ),
        "content_filter",
    ),
}  # fmt: skip
"""A word that is not among these objects to an answer, unless it stands behind calls."""
_MALFORMED: Final = frozenset(
    {
        "MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "MISSING_THOUGHT_SIGNATURE", "TOO_MANY_TOOL_CALLS",
        "UNEXPECTED_TOOL_CALL",
    }
)  # fmt: skip
"""Finish reasons that mean that there is no answer."""
_UNFINISHED: Final = frozenset({None, "", "FINISH_REASON_UNSPECIFIED"})
_MOST_TOKENS: Final = 1_000_000_000
"""A report of more is nonsense."""


class FunctionCall(msgspec.Struct, gc=False):
    """A whole call."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    id: str | None = None
    args: dict[str, msgspec.Raw] | None = None


class Part(msgspec.Struct, rename="camel", gc=False):
    """A piece of an answer: text, a thought's summary, or a call."""

    text: str | None = None
    thought: bool = False
    thought_signature: str | None = None
    function_call: FunctionCall | None = None


class Content(msgspec.Struct, gc=False):
    """What a candidate says."""

    parts: list[Part] = []


class Token(msgspec.Struct, rename="camel", gc=False):
    """A token and how likely it was."""

    token: str = ""
    log_probability: float = 0.0


class TopTokens(msgspec.Struct, gc=False):
    """The likeliest tokens of one place."""

    candidates: list[Token] = []


class LogprobsResult(msgspec.Struct, rename="camel", gc=False):
    """The tokens that were chosen, and for each place those that might have been."""

    chosen_candidates: list[Token] = []
    top_candidates: list[TopTokens] = []

    def tokens(self) -> list[Logprob]:
        """The same as OpenAI writes it."""
        tops = [top.candidates for top in self.top_candidates]
        return [
            _logprob(chosen, [_logprob(each) for each in tops[place]] if place < len(tops) else [])
            for place, chosen in enumerate(self.chosen_candidates)
        ]


class Candidate(msgspec.Struct, rename="camel", gc=False):
    """One choice, or a piece of it."""

    index: int = 0
    content: Content | None = None
    finish_reason: str | None = None
    logprobs_result: LogprobsResult | None = None

    @property
    def parts(self) -> list[Part]:
        """What it says; nothing where it was stopped before."""
        return self.content.parts if self.content is not None else []


class UsageMetadata(msgspec.Struct, rename="camel", gc=False):
    """What was used so far: cumulative in a stream. The prompt's tokens hold those of the cache."""

    prompt_token_count: int | None = None
    cached_content_token_count: int = 0
    candidates_token_count: int = 0
    thoughts_token_count: int = 0
    tool_use_prompt_token_count: int = 0

    def buckets(self) -> Usage | None:
        """The same in disjoint buckets; None when it says nothing, or something that cannot be."""
        if self.prompt_token_count is None:
            return None
        prompt = self.prompt_token_count + self.tool_use_prompt_token_count
        cached, thoughts = self.cached_content_token_count, self.thoughts_token_count
        counts = (prompt, cached, self.candidates_token_count, thoughts, prompt - cached)
        if min(counts) < 0 or max(counts) > _MOST_TOKENS:
            return None
        return Usage(
            input_tokens=prompt - cached,
            cached_input_tokens=cached,
            output_tokens=self.candidates_token_count,
            reasoning_tokens=thoughts,
        )


class PromptFeedback(msgspec.Struct, rename="camel", gc=False):
    """Why a prompt was not answered."""

    block_reason: str | None = None


class Answer(msgspec.Struct, rename="camel"):
    """A GenerateContentResponse, whole or an event of a stream."""

    candidates: list[Candidate] = []
    usage_metadata: UsageMetadata | None = None
    prompt_feedback: PromptFeedback | None = None
    response_id: str | None = None
    model_version: str | None = None
    error: Error | None = None

    def labelled(self, label: Label) -> Label:
        """What the answer is called: by its own names where it has some."""
        return Label(self.response_id or label.id, self.model_version or label.model, label.created)

    def usage(self) -> Usage | None:
        """What was used, if it says."""
        return self.usage_metadata.buckets() if self.usage_metadata is not None else None

    def refusal(self) -> Fault | None:
        """That the prompt was blocked, if it was."""
        if self.candidates or self.prompt_feedback is None or not self.prompt_feedback.block_reason:
            return None
        reason = self.prompt_feedback.block_reason
        message = f"the prompt was blocked ({reason})"
        return Fault(kind=FaultKind.CONTENT_FILTER, status=200, code=reason, message=message)


decode_answer: Final = msgspec.json.Decoder(Answer).decode


def finish_of(reason: str | None, *, has_calls: bool) -> str | Fault | None:
    """OpenAI's word for the end; None where there is none yet; a fault where the model failed to write an answer."""
    if reason is None or reason in _UNFINISHED:
        return None
    if reason in _MALFORMED:
        return Fault(kind=FaultKind.SERVER_ERROR, status=200, code=reason, message="the model's output is malformed")
    finish = _FINISH.get(reason)
    if has_calls and finish in {None, "stop"}:
        return "tool_calls"
    return finish or "content_filter"


def called(call: FunctionCall, signature: str | None, *, label: Label, choice: int, place: int) -> Called:
    """The call, with an id of ours where it has none: the client needs one to answer, unlike any other it has seen."""
    call_id = call.id or f"{OUR_CALL_ID}{label.id[-20:]}_{choice}_{place}"
    arguments = msgspec.json.encode(call.args or {}).decode()
    return Called(id=call_id, name=call.name, arguments=arguments, signature=signature)


def _logprob(token: Token, top: list[Logprob] | None = None) -> Logprob:
    more = msgspec.UNSET if top is None else top
    return Logprob(
        token=token.token, logprob=token.log_probability, bytes=list(token.token.encode()), top_logprobs=more
    )
