"""Amazon Bedrock's Converse and ConverseStream, towards backends. Does no I/O."""

from gateway.dialects.bedrock.upstream import UPSTREAM

__all__ = ["UPSTREAM"]
