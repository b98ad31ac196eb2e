"""OpenAI's dialect in both directions: Chat Completions and (legacy) Completions. Does no I/O."""

from gateway.dialects.openai.endpoint import CHAT, COMPLETIONS
from gateway.dialects.openai.upstream import UPSTREAM

__all__ = ["CHAT", "COMPLETIONS", "UPSTREAM"]
