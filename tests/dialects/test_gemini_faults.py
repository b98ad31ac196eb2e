"""What Google's errors mean, by its own word for them and by their details."""

import json
from typing import Any

import pytest

from gateway.dialects.gemini import UPSTREAM
from gateway.domain.fault import Fault, FaultKind
from tests.dialects.cloud_recordings import CloudExchange, recorded

BAD_KEY = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
WAIT = [
    {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": "PerMinute"}]},
    {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "13.5s"},
]
TOO_LONG = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
KINDS: list[tuple[int, str, str, Any, FaultKind]] = [
    (400, "INVALID_ARGUMENT", "bad", [], FaultKind.REJECTED),
    (400, "INVALID_ARGUMENT", TOO_LONG, [], FaultKind.CONTEXT),
    (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", BAD_KEY, FaultKind.AUTH),
    (400, "INVALID_ARGUMENT", "m", BAD_KEY, FaultKind.AUTH),
    (400, "FAILED_PRECONDITION", "User location is not supported for the API use.", [], FaultKind.AUTH),
    (400, "FAILED_PRECONDITION", "m", [], FaultKind.REJECTED),
    (401, "UNAUTHENTICATED", "m", [], FaultKind.AUTH),
    (403, "PERMISSION_DENIED", "m", [], FaultKind.AUTH),
    (404, "NOT_FOUND", "m", [], FaultKind.MODEL_MISSING),
    (429, "RESOURCE_EXHAUSTED", "m", WAIT, FaultKind.RATE_LIMITED),
    (500, "INTERNAL", "m", [], FaultKind.SERVER_ERROR),
    (503, "UNAVAILABLE", "m", [], FaultKind.OVERLOADED),
    (504, "DEADLINE_EXCEEDED", "m", [], FaultKind.SERVER_ERROR),
    (429, "", "m", [], FaultKind.RATE_LIMITED),
    (502, "", "m", [], FaultKind.SERVER_ERROR),
    (302, "", "m", [], FaultKind.PROTOCOL),
]


def fault(status: int, word: str, message: str = "m", details: Any = ()) -> Fault:
    error = {"code": status, "message": message, "status": word, "details": list(details)}
    return UPSTREAM.decode_fault(status, (), json.dumps({"error": error}).encode())


@pytest.mark.parametrize(("status", "word", "message", "details", "kind"), KINDS)
def test_the_word_the_details_and_the_message_say_what_went_wrong(
    status: int, word: str, message: str, details: Any, kind: FaultKind
) -> None:
    found = fault(status, word, message, details)
    assert found.kind is kind
    assert (found.status, found.code) == (status, word)


def test_the_wait_stands_in_the_details() -> None:
    assert fault(429, "RESOURCE_EXHAUSTED", details=WAIT).retry_after_s == 13.5
    assert fault(429, "RESOURCE_EXHAUSTED", details=[{"retryDelay": "soon"}]).retry_after_s is None
    assert UPSTREAM.decode_fault(429, [(b"retry-after", b"3")], b"{}").retry_after_s == 3.0


def test_an_error_may_stand_in_a_list() -> None:
    assert (
        UPSTREAM.decode_fault(503, (), b'[{"error": {"message": "busy", "status": "UNAVAILABLE"}}]').message == "busy"
    )
    assert UPSTREAM.decode_fault(503, (), b"[]").kind is FaultKind.OVERLOADED


def test_a_page_that_is_no_json_is_told_by_its_status_alone() -> None:
    found = UPSTREAM.decode_fault(502, (), b"<html>secret</html>")
    assert (found.kind, found.message) == (FaultKind.SERVER_ERROR, "the backend gave no reason")


def test_whose_project_it_is_does_not_reach_the_client() -> None:
    found = fault(400, "INVALID_ARGUMENT", "Publisher model `projects/our-secret-1/locations/x` is wrong.")
    assert found.message == "Publisher model `projects/[project]/locations/x` is wrong."


MEANT = {400: FaultKind.REJECTED, 404: FaultKind.MODEL_MISSING}


@pytest.mark.parametrize(
    "seen", [each for each in recorded("googleapis") if each.status >= 400], ids=lambda seen: seen.name
)
def test_every_recorded_error_is_understood(seen: CloudExchange) -> None:
    found = UPSTREAM.decode_fault(seen.status, (), seen.answer)
    assert found.kind is MEANT[seen.status]
    assert found.code == json.loads(seen.answer)["error"]["status"]
