"""What Bedrock's errors mean, by the exception's name and what it says."""

import json

import pytest

from gateway.dialects.bedrock import UPSTREAM
from gateway.domain.chat import Label
from gateway.domain.fault import Fault, FaultKind
from tests.dialects.converse import operation
from tests.dialects.targets import ask

TOO_LONG = "Input is too long for requested model."
NOT_OURS = "You don't have access to the model with the specified model ID."
ON_DEMAND = "Invocation of model ID x with on-demand throughput isn't supported."


def fault(status: int, name: str | None, message: str = "m", **headers: str) -> Fault:
    fields = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
    if name is not None:
        fields.append((b"x-amzn-errortype", name.encode()))
    return UPSTREAM.decode_fault(status, fields, json.dumps({"message": message}).encode())


KINDS: list[tuple[int, str | None, str, FaultKind]] = [
    (400, "ValidationException", "bad", FaultKind.REJECTED),
    (400, "ValidationException", TOO_LONG, FaultKind.CONTEXT),
    (400, "ValidationException", "prompt is too long: 250000 tokens > 200000 maximum", FaultKind.CONTEXT),
    (400, "ValidationException", "The provided model identifier is invalid.", FaultKind.MODEL_MISSING),
    (400, "ValidationException", ON_DEMAND, FaultKind.MODEL_MISSING),
    (400, "ValidationException", "Output blocked by content filtering policy", FaultKind.CONTENT_FILTER),
    (400, "ServiceQuotaExceededException", "m", FaultKind.RATE_LIMITED),
    (403, "AccessDeniedException", "no", FaultKind.AUTH),
    (403, "AccessDeniedException", NOT_OURS, FaultKind.MODEL_MISSING),
    (403, "UnrecognizedClientException", "m", FaultKind.AUTH),
    (403, "ExpiredTokenException", "m", FaultKind.AUTH),
    (403, "InvalidSignatureException", "m", FaultKind.AUTH),
    (404, "ResourceNotFoundException", "m", FaultKind.MODEL_MISSING),
    (408, "ModelTimeoutException", "m", FaultKind.SERVER_ERROR),
    (424, "ModelErrorException", "m", FaultKind.SERVER_ERROR),
    (429, "ThrottlingException", "m", FaultKind.RATE_LIMITED),
    (429, "ThrottlingException:http://internal.amazon.com/coral/", "m", FaultKind.RATE_LIMITED),
    (429, "ModelNotReadyException", "m", FaultKind.OVERLOADED),
    (500, "InternalServerException", "m", FaultKind.SERVER_ERROR),
    (503, "ServiceUnavailableException", "m", FaultKind.OVERLOADED),
    (429, None, "m", FaultKind.RATE_LIMITED),
    (403, None, "m", FaultKind.AUTH),
    (400, None, TOO_LONG, FaultKind.CONTEXT),
    (502, None, "m", FaultKind.SERVER_ERROR),
    (301, None, "m", FaultKind.PROTOCOL),
]


@pytest.mark.parametrize(("status", "name", "message", "kind"), KINDS)
def test_the_name_and_the_message_say_what_went_wrong(
    status: int, name: str | None, message: str, kind: FaultKind
) -> None:
    assert fault(status, name, message).kind is kind


def test_every_error_of_the_apis_model_has_a_meaning_of_its_own() -> None:
    """None is left to its status alone: statuses lie about ModelNotReady and the like."""
    named = {name for _, name, _, _ in KINDS}
    assert {shape.name for shape in operation("ConverseStream").error_shapes} <= named


def test_the_name_may_stand_in_the_body() -> None:
    body = b'{"__type": "com.amazon.coral#ThrottlingException", "Message": "Slow"}'
    found = UPSTREAM.decode_fault(400, (), body)
    assert (found.kind, found.code, found.message) == (FaultKind.RATE_LIMITED, "ThrottlingException", "Slow")


def test_a_page_that_is_no_json_is_told_by_its_status_alone() -> None:
    found = UPSTREAM.decode_fault(503, (), b"<html>secret</html>")
    assert (found.kind, found.message) == (FaultKind.OVERLOADED, "the backend gave no reason")


def test_whose_account_it_is_does_not_reach_the_client() -> None:
    message = "User: arn:aws:iam::123456789012:user/ops may not use arn:aws:bedrock:us-east-1::model/x here"
    assert fault(400, "ValidationException", message).message == "User: [arn] may not use [arn] here"


def test_a_wait_is_taken_from_the_header() -> None:
    assert fault(429, "ThrottlingException", retry_after="3").retry_after_s == 3.0
    assert fault(429, "ThrottlingException").retry_after_s is None


@pytest.mark.parametrize("body", [b"", b"[]", b'{"output": {}}', b'{"message": "x"}', b"\xff"])
def test_what_is_no_answer_is_a_fault_of_the_protocol(body: bytes) -> None:
    found = UPSTREAM.decode_reply(ask(), body, Label("i", "m", 1))
    assert isinstance(found, Fault)
    assert found.kind is FaultKind.PROTOCOL
