"""Makes any string fit for a log line or a span attribute. Pure.

Clients choose some of the strings we report (model names, user agents, paths), backends others (response ids, finish
reasons). None of them may break a line, drive a terminal, fill a disk or carry a secret.
"""

import re

from gateway.telemetry.semconv import OTHER

MAX_CHARS = 256
"""Longest string in a log field or an attribute (security K1)."""

_SECRET = re.compile(r"(?i)(\bsk-|\bbearer\s+|\bbasic\s+|[?&](?:api[-_]?)?key=|//[^/@\s:]*:)[^\s\"'&@]{8,}")
_SHORTEST_SECRET = 11
_PLAIN = re.compile(r"[0-9a-z._-]{1,256}")
"""What most ids are: nothing to escape or to cut, and no credential without an `sk-`."""
_CODE = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,63}")


def clean(text: str) -> str:
    """`text` cut to 256 characters, with unprintable characters escaped and whatever looks like a credential masked.

    Masking is the second line of defence, for what users paste into the wrong field; the first is that keys are never
    handed to telemetry.
    """
    if _PLAIN.fullmatch(text) is not None and "sk-" not in text:
        return text
    # Cut last: half a key no longer looks like one. Mask first: an escape before a key would hide where it begins.
    if len(text) >= _SHORTEST_SECRET:
        text = mask(text[: 4 * MAX_CHARS])
    if not text.isprintable():  # controls, U+2028, bidirectional overrides, lone surrogates (which break protobuf)
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…"


def code(told: str) -> str:
    """A backend's error code as it may stand in a label: what does not look like one could be anything."""
    return told if _CODE.fullmatch(told) is not None else OTHER


def mask(text: str) -> str:
    """`text` with whatever looks like a credential masked."""
    return _SECRET.sub(r"\1***", text)
