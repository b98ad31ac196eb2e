"""OpenTelemetry's standard variables, read as its specification asks: what makes no sense is logged and not heeded."""

import logging
from collections.abc import Mapping

log = logging.getLogger(__name__)


def is_on(environ: Mapping[str, str], exporter: str) -> bool:
    """Whether a signal may be sent: not if the SDK is disabled, nor if its `exporter` variable says `none`."""
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return not disabled and environ.get(exporter, "").strip().lower() != "none"


def positive(environ: Mapping[str, str], name: str, default: int) -> int:
    """A whole number above 0."""
    text = environ.get(name, "").strip()
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    if text:
        log.warning("%s is not a whole number above 0; using %d", name, default)
    return default
