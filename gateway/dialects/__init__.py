"""Wire formats: bytes to domain values and back, one folder a dialect. Does no I/O."""

from gateway.dialects import anthropic, bedrock, gemini, openai
from gateway.dialects.protocols import UpstreamDialect

_UPSTREAM: dict[str, UpstreamDialect] = {
    "openai": openai.UPSTREAM,
    "anthropic": anthropic.UPSTREAM,
    "bedrock": bedrock.UPSTREAM,
    "gemini": gemini.UPSTREAM,
}


def upstream_dialect(name: str) -> UpstreamDialect:
    """The dialect that a backend's configuration names; the configuration's own check guarantees that it exists."""
    return _UPSTREAM[name]
