"""What backends mean by their errors: a table, and what holds for every error."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.openai import UPSTREAM
from gateway.dialects.openai.faults import fault_of
from gateway.domain.fault import Fault, FaultKind
from gateway.domain.wire import Headers

K = FaultKind


def body(code: object = None, kind: object = None, message: object = "m", **more: object) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "code": code, "param": None} | more}).encode()


def read(status: int, content: bytes = b"", headers: Headers = ()) -> Fault:
    return UPSTREAM.decode_fault(status, headers, content)


TABLE = [
    # What the status says alone.
    (301, b"", K.PROTOCOL), (302, b"", K.PROTOCOL), (307, b"", K.PROTOCOL),
    (400, b"", K.REJECTED), (401, b"", K.AUTH), (402, b"", K.QUOTA), (403, b"", K.AUTH), (404, b"", K.MODEL_MISSING),
    (408, b"", K.SERVER_ERROR), (409, b"", K.SERVER_ERROR), (413, b"", K.REJECTED), (422, b"", K.REJECTED),
    (429, b"", K.RATE_LIMITED), (500, b"", K.SERVER_ERROR), (502, b"", K.SERVER_ERROR), (503, b"", K.OVERLOADED),
    (504, b"", K.SERVER_ERROR), (529, b"", K.OVERLOADED),
    # Codes and types say more: 429 may mean never, 400 too long.
    (429, body("insufficient_quota"), K.QUOTA), (429, body(None, "insufficient_quota"), K.QUOTA),
    (429, body("credit_balance_exhausted"), K.QUOTA), (400, body("billing_hard_limit_reached"), K.QUOTA),
    (429, body("rate_limit_exceeded", "tokens"), K.RATE_LIMITED), (429, body("slow_down"), K.RATE_LIMITED),
    (503, body("slow_down"), K.RATE_LIMITED), (400, body("invalid_api_key"), K.AUTH),
    (400, body("context_length_exceeded"), K.CONTEXT), (500, body("context_length_exceeded"), K.CONTEXT),
    (400, body("content_filter"), K.CONTENT_FILTER), (400, body("content_policy_violation"), K.CONTENT_FILTER),
    (400, body("model_not_found"), K.MODEL_MISSING), (500, body(None, "overloaded_error"), K.OVERLOADED),
    (401, body("401"), K.AUTH), (404, body("DeploymentNotFound"), K.MODEL_MISSING),
    # The code is asked before the type.
    (429, body("insufficient_quota", "rate_limit_error"), K.QUOTA),
    # OpenRouter's numbers; null and the empty word are no code.
    (429, body(429), K.RATE_LIMITED), (400, body(""), K.REJECTED), (400, body(0), K.REJECTED),
    # Servers without codes tell by their words that a prompt is too long.
    (400, body(message="This model's maximum context length is 4096 tokens"), K.CONTEXT),
    (400, body(message="The input (5000 tokens) is longer than the model's context length"), K.CONTEXT),
    (400, body(message="prompt is too long: 5000 > 4096"), K.CONTEXT),
    (422, body(message="too many tokens in the prompt"), K.CONTEXT),
    (500, body(message="maximum context length"), K.SERVER_ERROR),
    # A server error stays one, whatever its type says.
    (500, body(None, "invalid_request_error"), K.SERVER_ERROR),
    (409, body(None, "invalid_request_error"), K.SERVER_ERROR),
    # Inside a stream the status was 200: only words count.
    (200, body(None, "invalid_request_error"), K.REJECTED), (200, body(), K.SERVER_ERROR),
    # But numbers, which are the status that would have been.
    (200, body(429), K.RATE_LIMITED), (200, body(402), K.QUOTA), (200, body(400, "BadRequestError"), K.REJECTED),
    (200, body(502), K.SERVER_ERROR), (200, body(7), K.SERVER_ERROR), (200, body(200), K.SERVER_ERROR),
    (200, body("rate_limit_exceeded"), K.RATE_LIMITED), (200, body(None, "api_error"), K.SERVER_ERROR),
    # Other shapes.
    (400, b'{"object":"error","message":"maximum context length is 9","type":"BadRequestError","code":400}', K.CONTEXT),
    (400, b'{"error":"the prompt is too long"}', K.CONTEXT), (400, b'{"detail":"no"}', K.REJECTED),
    (503, b"<html>busy</html>", K.OVERLOADED),
    (400, b'{"error":null}', K.REJECTED), (400, b'{"error":[1]}', K.REJECTED),
    (400, b"[" * 100_000, K.REJECTED), (400, b'{"error":' + b"[" * 100_000, K.REJECTED), (400, b"\xff\xfe", K.REJECTED),
    (400, b'{"error":{"message":"\xff"}}', K.REJECTED), (400, b'{"error":"\xff"}', K.REJECTED),
    (429, b'{"error":{"message":7,"code":"insufficient_quota"}}', K.RATE_LIMITED),
]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "content", "kind"),
    [pytest.param(*case, id=f"{case[0]} {case[1][:60].decode('latin-1')}") for case in TABLE],
)
def test_what_an_error_means(status: int, content: bytes, kind: FaultKind) -> None:
    fault = read(status, content)
    assert (fault.kind, fault.status) == (kind, status)


def test_code_parameter_and_message_are_kept() -> None:
    """A client whose request is wrong must learn what is wrong with it."""
    fault = read(400, body("bad", "invalid_request_error", "`top_p` must be at most 1", param="top_p"))
    assert (fault.code, fault.param, fault.message) == ("bad", "top_p", "`top_p` must be at most 1")
    assert read(400, body(1234)).code == "1234"
    assert read(400, b'{"error":"no such thing"}').message == "no such thing"
    assert read(400, b'{"message":"said at the top"}').message == "said at the top"


@pytest.mark.parametrize("content", [b"", b"<html>nginx/1.2</html>", b'{"detail":"x"}', body(message=None), b"{}"])
def test_what_is_no_error_object_lends_no_words(content: bytes) -> None:
    """No page of a proxy reaches a client."""
    assert read(502, content).message == "the backend gave no reason"


@pytest.mark.parametrize(
    "secret", ["sk-abcdefghijkl", "sk-proj-abc_DEF-123", "nvapi-abcdefgh", "sk-gw-aaaaaaaaaaaa-bbbbbbbb", "key-1234567"]
)
def test_a_key_in_a_message_is_not_passed_on(secret: str) -> None:
    """OpenAI quotes parts of the credential it refuses: ours."""
    message = read(401, body("invalid_api_key", message=f"Incorrect API key provided: {secret}.")).message
    assert secret not in message
    assert "[redacted]" in message


@given(
    status=st.integers(200, 599),
    code=st.none() | st.text() | st.integers(),
    kind=st.none() | st.text(),
    message=st.none() | st.text(max_size=2000),
)
def test_every_error_becomes_a_bounded_printable_fault(
    status: int, code: str | int | None, kind: str | None, message: str | None
) -> None:
    fault = read(status, body(code, kind, message))
    assert fault.status == status
    assert 0 < len(fault.message) <= 5000
    assert fault.message.isprintable()


@given(status=st.integers(300, 599), content=st.binary(max_size=60))
def test_no_bytes_make_reading_an_error_fail(status: int, content: bytes) -> None:
    assert read(status, content).kind in FaultKind
    assert fault_of(200, msgspec.Raw(content)).kind in FaultKind


WAITS: list[tuple[list[tuple[bytes, bytes]], float | None]] = [
    ([], None),
    ([(b"retry-after", b"2")], 2.0),
    ([(b"retry-after", b"0")], 0.0),
    ([(b"retry-after", b"1.5")], 1.5),
    ([(b"retry-after-ms", b"250")], 0.25),
    ([(b"retry-after", b"2"), (b"retry-after-ms", b"250")], 0.25),
    ([(b"retry-after", b"2"), (b"retry-after-ms", b"soon")], 2.0),
    ([(b"retry-after", b"-1")], None),
    ([(b"retry-after", b"soon")], None),
    ([(b"retry-after", b"nan")], None),
    ([(b"retry-after", b"inf")], None),
    ([(b"retry-after", b"1e9")], 1e9),
    ([(b"retry-after", b"")], None),
    # A date counts from the answer's own: the backend's clock may be wrong, and we need none.
    ([(b"retry-after", b"Wed, 21 Oct 2026 07:28:00 GMT")], None),
    ([(b"retry-after", b"Wed, 21 Oct 2026 07:28:00 GMT"), (b"date", b"Wed, 21 Oct 2026 07:27:15 GMT")], 45.0),
    ([(b"date", b"Sat, 31 Dec 1999 23:59:58 GMT"), (b"retry-after", b"Sat, 01 Jan 2000 00:00:00 GMT")], 2.0),
    ([(b"retry-after", b"Wed, 21 Oct 2026 07:28:00 GMT"), (b"date", b"Thu, 22 Oct 2026 07:28:00 GMT")], 0.0),
    ([(b"retry-after", b"Wed, 21 Oct 2026 07:28:00 GMT"), (b"date", b"today")], None),
    ([(b"retry-after", b"tomorrow"), (b"date", b"Wed, 21 Oct 2026 07:27:15 GMT")], None),
    ([(b"retry-after", b"Wed, 99 Oct 2026 07:28:00 GMT"), (b"date", b"Wed, 21 Oct 2026 07:27:15 GMT")], None),
    ([(b"retry-after", b"Wed, 21 Oct 2026 07:28:00"), (b"date", b"Wed, 21 Oct 2026 07:27:15 GMT")], None),
    ([(b"retry-after", b"\xff"), (b"date", b"\xff")], None),
    ([(b"retry-after", b"-1"), (b"date", b"Wed, 21 Oct 2026 07:27:15 GMT")], None),
]


@pytest.mark.parametrize(("headers", "expected"), WAITS, ids=str)
def test_the_wait_a_backend_asks_for(headers: Headers, expected: float | None) -> None:
    """F6: as it said it, None for nonsense; what is made of it is the pipeline's matter."""
    assert read(429, b"", headers).retry_after_s == expected
