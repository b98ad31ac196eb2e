"""What a request's header fields tell, as a table."""

import pytest

from gateway.api.head import head_of

JSON = (b"content-type", b"application/json")
ID = b"abcdefgh-0123"
PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_what_clients_and_their_sdks_say_is_read() -> None:
    head = head_of(
        [
            JSON,
            (b"x-request-id", ID),
            (b"traceparent", PARENT),
            (b"x-gateway-buffer", b"True"),
            (b"x-request-deadline-ms", b"1500"),
            (b"x-stainless-read-timeout", b"600"),
            (b"x-stainless-retry-count", b"1"),
        ]
    )
    assert head.request_id == ID.decode()
    assert head.traceparent == PARENT
    assert head.wants_buffer
    assert (head.deadline_s, head.read_timeout_s) == (1.5, 600.0)
    assert head.is_retry
    assert head.problem is None


def test_what_is_absent_means_nothing() -> None:
    head = head_of([JSON])
    assert (head.request_id, head.traceparent, head.deadline_s, head.read_timeout_s) == (None, None, None, None)
    assert not head.wants_buffer
    assert not head.is_retry


@pytest.mark.parametrize("value", [b"", b"soon", b"-1", b"0", b"nan", b"inf", b"1e999", b"\xff", b"1 2"])
def test_a_number_that_cannot_be_counts_as_absent(value: bytes) -> None:
    head = head_of([JSON, (b"x-request-deadline-ms", value), (b"x-stainless-read-timeout", value)])
    assert (head.deadline_s, head.read_timeout_s) == (None, None)


@pytest.mark.parametrize("value", [b"short", b"a" * 65, b"has space", b"a\r\nb-12345678", "é".encode() * 8])
def test_an_id_that_is_not_sane_is_replaced(value: bytes) -> None:
    assert head_of([JSON, (b"x-request-id", value)]).request_id is None


def test_two_trace_parents_are_none() -> None:
    assert head_of([JSON, (b"traceparent", PARENT), (b"traceparent", PARENT)]).traceparent is None


@pytest.mark.parametrize("value", [b"false", b"1", b"yes", b""])
def test_only_true_asks_for_the_buffer(value: bytes) -> None:
    assert not head_of([JSON, (b"x-gateway-buffer", value)]).wants_buffer


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b"content-type", b"text/plain")],
        [(b"content-type", b"application/x-www-form-urlencoded")],
        [JSON, (b"content-encoding", b"gzip")],
    ],
)
def test_a_body_that_is_not_plain_json_is_a_problem(fields: list[tuple[bytes, bytes]]) -> None:
    problem = head_of(fields).problem
    assert problem is not None
    assert problem.http_status == 415


@pytest.mark.parametrize("value", [b"application/json; charset=utf-8", b"APPLICATION/JSON"])
def test_json_may_have_parameters_and_capitals(value: bytes) -> None:
    assert head_of([(b"content-type", value), (b"content-encoding", b"identity")]).problem is None
