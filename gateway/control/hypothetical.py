"""Requests that nobody sent, as routing sees them: features without content. Pure."""

from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.domain.backend import Capability
from gateway.domain.chat import ChatRequest, EndpointName
from gateway.domain.preferences import Preferences

_BYTES_PER_TOKEN: Final = 4
_ANYTHING: Final = msgspec.Raw(b'[{"role":"user","content":"."}]')
"""A dialect into which requests are translated looks for messages; without any it would find that it cannot be told."""
_ABSENT: Final = msgspec.Raw(b"null")


def hypothetical(
    model: str,
    *,
    endpoint: EndpointName,
    stream: bool,
    needs: Iterable[Capability],
    prompt_tokens: int,
    output_tokens: int | None,
    belongs_to: str | None = None,
    names: Iterable[str] = (),
    preferences: Preferences | None = None,
) -> ChatRequest:
    """A request with these features.

    `belongs_to` is what affinity keeps together; `names` are fields that it has at the top, with nothing in them.
    """
    fields = dict.fromkeys(names, _ABSENT)
    if endpoint == "chat":
        fields["messages"] = _ANYTHING
    if belongs_to is not None:
        fields["prompt_cache_key"] = msgspec.Raw(msgspec.json.encode(belongs_to))
    return ChatRequest(
        endpoint=endpoint,
        model=model,
        stream=stream,
        wants_usage=False,
        max_output_tokens=output_tokens,
        choices=1,
        needs=frozenset(needs),
        prompt_bytes=prompt_tokens * _BYTES_PER_TOKEN,
        fields=fields,
        preferences=preferences,
    )
