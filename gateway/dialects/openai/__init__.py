"""OpenAI's dialect in both directions: Chat Completions, (legacy) Completions, Embeddings. Does no I/O."""

from gateway.dialects.openai.endpoint import CHAT, COMPLETIONS, EMBEDDINGS
from gateway.dialects.openai.upstream import UPSTREAM

__all__ = ["CHAT", "COMPLETIONS", "EMBEDDINGS", "UPSTREAM"]
