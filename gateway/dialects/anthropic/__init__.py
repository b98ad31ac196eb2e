"""Anthropic's dialect in both directions: Messages as clients call it, and as backends serve it. Does no I/O."""

from gateway.dialects.anthropic.endpoint import MESSAGES
from gateway.dialects.anthropic.upstream import UPSTREAM

__all__ = ["MESSAGES", "UPSTREAM"]
