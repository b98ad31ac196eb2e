"""What becomes of a request when backends fail before any content: a table of event sequences."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from gateway.dialects.anthropic import MESSAGES
from gateway.dialects.protocols import Endpoint
from gateway.dialects.responses.endpoint import RESPONSES
from gateway.domain.fault import FaultKind
from gateway.domain.ledger import Outcome
from gateway.domain.usage import UsageSource
from tests.pipeline.driver import EVENT_STREAM, JSON, Play, World, configured
from tests.pipeline.wire import (
    DONE,
    PING,
    ROLE,
    USAGE,
    ask,
    chunk,
    error,
    error_event,
    event,
    finish,
    reply,
    usage_chunk,
)

PROMPT_TOKENS = 9
"""Of the request that `ask` makes: three words and the frame of a message."""
PROMPT_COST = PROMPT_TOKENS * 1_000
"""At backend `a`, in nano-dollars."""


def wait(seconds: float) -> Callable[[Play], object]:
    return lambda play: play.wait(seconds)


def status(code: int, body: bytes = b"", **headers: str) -> Callable[[Play], object]:
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return lambda play: play.answer(code, body, [*JSON, *fields])


def streamed(*pieces: bytes) -> Callable[[Play], object]:
    return lambda play: play.head().data(*pieces)


def lost(kind: FaultKind, *, sent: bool) -> Callable[[Play], object]:
    return lambda play: (play.sent() if sent else play).failed(kind)


def dribbled(play: Play) -> None:
    """The head is still on its way: the transport tells of nothing before it is whole."""
    play.sent().wait(19.9)
    assert play.tried == "a"
    play.wait(0.1)


def pinged(*pieces: bytes) -> Callable[[Play], object]:
    def script(play: Play) -> None:
        play.head()
        for _ in range(4):
            play.wait(4.75).data(*pieces)
        assert play.tried == "a"
        play.wait(1.0)

    return script


@dataclass(frozen=True)
class Case:
    """How `a` fails, and what is told when nobody else can take over."""

    name: str
    fails: Callable[[Play], object]
    status: int
    code: str
    cost: int = 0
    """What the failed attempt is expected to cost us, in nano-dollars."""


BOTH = [
    Case("F1 refused", lost(FaultKind.CONNECT, sent=False), 503, "no_backend_available"),
    Case("F2 black-holed", wait(2.0), 504, "upstream_timeout"),
    Case("lost after sending", lost(FaultKind.LOST, sent=True), 502, "upstream_error", PROMPT_COST),
    Case("not HTTP", lost(FaultKind.PROTOCOL, sent=True), 502, "upstream_invalid", PROMPT_COST),
    Case(
        "F6 429 with a wait", status(429, error("rate_limit_exceeded"), retry_after="2"), 429, "upstream_rate_limited"
    ),
    Case("F7 429 without", status(429), 429, "upstream_rate_limited"),
    Case("F8 429 without money", status(429, error("insufficient_quota")), 502, "upstream_auth"),
    Case("F8 429 balance", status(429, error("credit_balance_exhausted")), 502, "upstream_auth"),
    Case("F8 402", status(402), 502, "upstream_auth"),
    Case("F9 500", status(500, error()), 502, "upstream_error"),
    Case("F9 502 in HTML", status(502, b"<html>nginx</html>"), 502, "upstream_error"),
    Case("F9 503", status(503, error()), 503, "overloaded"),
    Case("F9 529", status(529, error(kind="overloaded_error")), 503, "overloaded"),
    Case(
        "F9 500 that calls the request invalid", status(500, error(kind="invalid_request_error")), 502, "upstream_error"
    ),
    Case("F24 401", status(401, error("invalid_api_key")), 502, "upstream_auth"),
    Case("F24 403", status(403), 502, "upstream_auth"),
    Case("F24 404", status(404, error("model_not_found")), 502, "upstream_error"),
    Case("E5 redirect", status(302, location="http://169.254.169.254/"), 502, "upstream_invalid", PROMPT_COST),
    Case("an error whose body stalls", lambda play: play.head(500).wait(15.0), 504, "upstream_timeout", PROMPT_COST),
    Case("an error without end", lambda play: play.head(500).data(b"x" * 70_000), 502, "upstream_error"),
]

STREAM = [
    Case("F3 read, never answered", lambda play: play.sent().wait(20.0), 504, "upstream_timeout", PROMPT_COST),
    Case("F4 head dribbled", dribbled, 504, "upstream_timeout", PROMPT_COST),
    Case("F5 silence after the head", lambda play: play.head().wait(20.0), 504, "upstream_timeout", PROMPT_COST),
    Case("F5 pings only", pinged(PING), 504, "upstream_timeout", PROMPT_COST),
    Case("F5 roles only", pinged(ROLE), 504, "upstream_timeout", PROMPT_COST),
    Case("F10 overloaded", streamed(ROLE, error_event(kind="overloaded_error")), 503, "overloaded"),
    Case("F10 rate limit", streamed(error_event("rate_limit_exceeded")), 429, "upstream_rate_limited"),
    Case("F10 server error", streamed(ROLE, PING, error_event()), 502, "upstream_error"),
    Case(
        "F11 cut before content",
        lambda play: play.head().data(ROLE).failed(FaultKind.LOST),
        502,
        "upstream_error",
        PROMPT_COST,
    ),
    Case(
        "F15 clean end before content", lambda play: play.head().data(ROLE).ended(), 502, "upstream_error", PROMPT_COST
    ),
    Case("F15 [DONE] before content", streamed(ROLE, DONE), 502, "upstream_error", PROMPT_COST),
    Case("F13 garbage only", streamed(b"data: ?\n\n", b"data: !\n\n"), 502, "upstream_invalid", PROMPT_COST),
    Case("F18 a line without end", streamed(b"data: " + b"x" * (1 << 20)), 502, "upstream_invalid", PROMPT_COST),
    Case("roles without end", streamed(ROLE * 20_000), 502, "upstream_invalid", PROMPT_COST),
    Case(
        "F19 HTML",
        lambda play: play.head(200, ((b"content-type", b"text/html"),)),
        502,
        "upstream_invalid",
        PROMPT_COST,
    ),
    Case("F19 JSON", lambda play: play.head(200, JSON), 502, "upstream_invalid", PROMPT_COST),
    Case("F19 empty", lambda play: play.head().ended(), 502, "upstream_error", PROMPT_COST),
]

WHOLE = [
    Case(
        "F11 cut",
        lambda play: play.head().data(reply("Hi")[:9]).failed(FaultKind.LOST),
        502,
        "upstream_error",
        PROMPT_COST,
    ),
    Case("F10 error with 200", status(200, error()), 502, "upstream_error"),
    Case("F19 HTML", status(200, b"<html>"), 502, "upstream_invalid", PROMPT_COST),
    Case("F19 empty", status(200, b""), 502, "upstream_invalid", PROMPT_COST),
    Case("F19 events", status(200, chunk("Hi") + finish() + DONE), 502, "upstream_invalid", PROMPT_COST),
    Case("F13 not UTF-8", status(200, reply("#").replace(b"#", b"\xff")), 502, "upstream_invalid", PROMPT_COST),
    Case("no choices", status(200, b'{"choices":[]}'), 502, "upstream_invalid", PROMPT_COST),
    Case("too large", lambda play: play.head().data(*[b"x" * (1 << 20)] * 17), 502, "upstream_invalid", PROMPT_COST),
]

CASES = [(case, stream) for stream, cases in ((True, BOTH + STREAM), (False, BOTH + WHOLE)) for case in cases]
EACH = pytest.mark.parametrize(
    ("case", "stream"), CASES, ids=[f"{case.name} {'stream' if stream else 'whole'}" for case, stream in CASES]
)


@EACH
def test_a_fault_before_content_is_invisible_where_another_backend_answers(case: Case, stream: bool) -> None:
    """The client gets the second backend's answer, whole and alone, and pays for that; the failure's cost is ours."""
    play = Play(stream=stream)
    case.fails(play)
    assert play.tried == "ab"
    if stream:
        play.head().data(ROLE, chunk("Hi"), finish(), usage_chunk(), DONE)
        assert play.body == ROLE + chunk("Hi") + finish() + DONE
    else:
        play.answer(200, reply("Hi"))
        assert play.body == reply("Hi")
    assert (play.status, play.error, play.finished, play.outstanding) == (200, None, True, 0)
    failed, answered = play.rows
    assert (failed.attempt, failed.backend, failed.outcome) == (1, "a", Outcome.FAILED)
    assert (failed.charge_nano_usd, failed.cost_nano_usd) == (0, case.cost)
    assert failed.usage.source is UsageSource.ESTIMATED
    assert (answered.attempt, answered.backend, answered.outcome) == (2, "b", Outcome.OK)
    assert (answered.charge_nano_usd, answered.usage.source) == (36_000, UsageSource.PROVIDER)
    assert play.settled[0].used.tokens == USAGE["prompt_tokens"] + USAGE["completion_tokens"]


@EACH
def test_a_fault_before_content_is_one_honest_error_where_nobody_is_left(case: Case, stream: bool) -> None:
    """A status of ours, nothing of the backend's, no charge; the SDKs are kept from retrying what is final."""
    play = Play(World(configured(targets=1)), stream=stream)
    case.fails(play)
    assert (play.status, play.code, play.body) == (case.status, case.code, b"")
    assert (play.tried, play.finished, play.outstanding) == ("a", True, 0)
    (row,) = play.rows
    assert (row.outcome, row.charge_nano_usd, row.cost_nano_usd) == (Outcome.FAILED, 0, case.cost)
    assert play.settled[0].used.tokens == 0
    assert play.error is not None
    assert play.error.should_retry is (False if case.status in {502, 504} else None)
    assert (play.error.retry_after_s is None) == (case.status in {502, 504})


REJECTIONS = [
    ("wrong", status(400, error(kind="invalid_request_error", param="top_p")), 400, None, "top_p"),
    ("too large", status(413), 413, None, None),
    ("unprocessable", status(422, error("bad_thing")), 422, "bad_thing", None),
    (
        "too long",
        status(400, error("context_length_exceeded", param="messages")),
        400,
        "context_length_exceeded",
        "messages",
    ),
    (
        "too long, in vLLM's words",
        status(400, error(message="This model's maximum context length is 9")),
        400,
        "context_length_exceeded",
        None,
    ),
    ("filtered", status(400, error("content_filter")), 400, "content_filter", None),
]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("fails", "expected", "code", "param"),
    [pytest.param(*case, id=name) for name, *case in REJECTIONS],
)
def test_the_requests_own_fault_is_passed_on_and_tried_nowhere_else(
    fails: Callable[[Play], object], expected: int, code: str | None, param: str | None, stream: bool
) -> None:
    """With the backend's status, and free: any other backend would say the same."""
    play = Play(stream=stream)
    fails(play)
    assert (play.tried, play.status, play.code, play.body) == ("a", expected, code, b"")
    assert play.error is not None
    assert (play.error.param, play.error.should_retry) == (param, False)
    assert [(row.outcome, row.cost_nano_usd) for row in play.rows] == [(Outcome.REJECTED, 0)]


def test_an_invalid_request_inside_a_stream_is_passed_on_as_400() -> None:
    """F10: the error's type counts, not the 200 it came with."""
    play = Play().head().data(ROLE, error_event(kind="invalid_request_error"))
    assert (play.tried, play.status, play.body) == ("a", 400, b"")


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_at_most_three_backends_are_tried(stream: bool) -> None:
    """I14, and each at another place; every attempt has its row."""
    play = Play(stream=stream)
    for _ in range(3):
        play.answer(500, error())
    assert (play.tried, play.status, play.finished) == ("abc", 502, True)
    assert [(row.attempt, row.backend, row.charge_nano_usd) for row in play.rows] == [
        (1, "a", 0),
        (2, "b", 0),
        (3, "c", 0),
    ]


def test_the_policy_may_allow_fewer_attempts() -> None:
    assert Play(World(configured(attempts=2))).answer(500, error()).answer(500, error()).tried == "ab"


def test_a_stale_connection_is_tried_again_in_place_once() -> None:
    """The backend never saw it, so it is free and no real retry; the second time it goes elsewhere."""
    play = Play().failed(FaultKind.STALE)
    assert play.tried == "aa"
    play.head().data(chunk("Hi"), finish(), usage_chunk(), DONE)
    assert [(row.outcome, row.cost_nano_usd) for row in play.rows] == [(Outcome.FAILED, 0), (Outcome.OK, 18_000)]

    play = Play().failed(FaultKind.STALE).failed(FaultKind.STALE)
    assert play.tried == "aab"
    for _ in range(4):
        play.failed(FaultKind.STALE)
    assert (play.tried, play.status, play.code) == ("aabbcc", 503, "no_backend_available")


def test_what_a_failed_backend_still_says_is_not_heard() -> None:
    """Its late bytes, end and failure belong to nobody."""
    play = Play().answer(500, error())
    play.exchange.answered(1, 200, EVENT_STREAM, play.now)
    play.data(chunk("from a"), attempt=1).ended(attempt=1).failed(FaultKind.LOST, attempt=1).sent(attempt=1)
    play.head().data(chunk("from b"), finish(), DONE).data(chunk("late"), attempt=2)
    assert (play.text, play.tried) == ("from b", "ab")


def test_each_attempt_sends_its_own_models_name() -> None:
    """The public name never leaves; the rest of the body is the same."""
    play = Play(body=ask(seed=7)).failed(FaultKind.CONNECT)
    bodies = [each.request.body for each in play.dispatched]
    assert bodies[0].replace(b"model-a", b"model-b") == bodies[1]
    assert b'"model":"model-a"' in bodies[0]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("endpoint", "asked"),
    [(MESSAGES, {"max_tokens": 9, "messages": [{"role": "user", "content": "Hi."}]}), (RESPONSES, {"input": "Hi."})],
    ids=["messages", "responses"],
)
def test_an_answer_that_cannot_be_put_in_the_clients_words_is_none(
    endpoint: Endpoint, asked: dict[str, object], stream: bool
) -> None:
    """To skip what has a strange shape would tell the client of an empty answer."""
    body = json.dumps({"model": "assistant", "stream": stream, **asked}).encode()
    play = Play(endpoint=endpoint, body=body, stream=stream)
    calls = {"tool_calls": [{"index": "0", "function": {"name": "look"}}]}
    if stream:
        play.head().data(event({"choices": [{"delta": calls}]}))
    else:
        choice = {"message": calls, "finish_reason": "tool_calls"}
        play.answer(200, json.dumps({"choices": [choice], "usage": USAGE}).encode())
    assert (play.tried, play.body) == ("ab", b"")
    play.head().data(chunk("Hi"), finish(), DONE) if stream else play.answer(200, reply("Hi"))
    assert (play.status, play.error, [row.outcome for row in play.rows]) == (200, None, [Outcome.FAILED, Outcome.OK])
