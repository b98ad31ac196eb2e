"""Gemini's generateContent, on AI Studio and on Vertex AI, towards backends. Does no I/O."""

from gateway.dialects.gemini.upstream import UPSTREAM

__all__ = ["UPSTREAM"]
