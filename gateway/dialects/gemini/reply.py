"""Gemini's whole answers as chat completions. Does no I/O."""

import msgspec

from gateway.dialects.gemini.faults import told
from gateway.dialects.gemini.wire import Candidate, called, decode_answer, finish_of
from gateway.dialects.hub.writing import Choice, reply_of
from gateway.domain.chat import ChatReply, Label
from gateway.domain.fault import Fault, FaultKind


def decode_reply(body: bytes, label: Label) -> ChatReply | Fault:
    """The answer; a fault when the body is none, when the prompt was blocked, or when the model wrote nonsense."""
    try:
        answer = decode_answer(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return Fault(kind=FaultKind.PROTOCOL, status=200, message="the answer is not Gemini's")
    if answer.error is not None:
        return told(200, answer.error)
    if (refusal := answer.refusal()) is not None:
        return refusal
    if not answer.candidates:
        return Fault(kind=FaultKind.PROTOCOL, status=200, message="the answer has no candidates")
    choices: list[Choice] = []
    for candidate in sorted(answer.candidates, key=lambda each: each.index):
        choice = _choice(candidate, label)
        if isinstance(choice, Fault):
            return choice
        choices.append(choice)
    return reply_of(answer.labelled(label), choices, answer.usage())


def _choice(candidate: Candidate, label: Label) -> Choice | Fault:
    choice = Choice()
    for part in candidate.parts:
        if part.function_call is not None:
            place = len(choice.calls)
            call = called(part.function_call, part.thought_signature, label=label, choice=candidate.index, place=place)
            choice.calls.append(call)
        elif part.thought:
            choice.reasoning += part.text or ""
        else:
            choice.text += part.text or ""
            choice.signature = part.thought_signature or choice.signature
    finish = finish_of(candidate.finish_reason, has_calls=bool(choice.calls))
    if isinstance(finish, Fault):
        return finish
    choice.finish_reason = finish or "stop"
    if candidate.logprobs_result is not None:
        choice.logprobs = candidate.logprobs_result.tokens()
    return choice
