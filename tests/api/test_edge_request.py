"""The bytes of an answer's head."""

import pytest

from gateway.api.edge_request import head_bytes


def test_a_head_is_a_status_line_and_its_fields() -> None:
    assert head_bytes(200, [(b"a", b"b"), (b"c", b"d e")]) == b"HTTP/1.1 200 OK\r\na: b\r\nc: d e\r\n\r\n"


def test_a_status_that_has_no_name_is_passed_on() -> None:
    assert head_bytes(499, []) == b"HTTP/1.1 499 \r\n\r\n"


@pytest.mark.parametrize("value", [b"b\r\nset-cookie: x", b"b\nx: y", b"b\rx", b"b\0"])
def test_a_value_that_would_end_its_line_is_left_out(value: bytes) -> None:
    """Nothing of ours contains one; if it ever does, the answer is not the attacker's to write."""
    assert head_bytes(200, [(b"a", value), (b"c", b"d")]) == b"HTTP/1.1 200 OK\r\nc: d\r\n\r\n"
