"""Which URLs the edge serves itself."""

import pytest

from gateway.api.edge import served_here
from gateway.dialects.anthropic import MESSAGES


@pytest.mark.parametrize("prefix", [b"", b"/v1"])
def test_a_query_changes_nothing(prefix: bytes) -> None:
    """Anthropic's agents send one with every request."""
    assert served_here(prefix + b"/messages?beta=true") == (MESSAGES, "/v1/messages")


@pytest.mark.parametrize(
    "url", [b"/v1/messages", b"/v1/messages/count_tokens?beta=true", b"/v1/messages/?x", b"/?", b""]
)
def test_all_else_is_handed_on(url: bytes) -> None:
    """What has no query was looked for already."""
    assert served_here(url) is None
