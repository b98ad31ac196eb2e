"""Recorded traffic of Bedrock's Converse and of Gemini, from the shared data beside the project. Judges nothing."""

import functools
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

from tests.dialects.recordings import FOLDER, LOADER, as_bytes


@dataclass(frozen=True)
class CloudExchange:
    """One recorded request and its answer."""

    name: str
    path: str
    """With the query string."""
    request: bytes
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    answer: bytes

    @property
    def asked(self) -> dict[str, Any]:
        """The request's fields."""
        fields: dict[str, Any] = json.loads(self.request)
        return fields


@functools.cache
def recorded(host: str) -> tuple[CloudExchange, ...]:
    """Every recorded call of a host whose name holds `host`; none when the data is absent."""
    files = [*FOLDER.rglob("*.yaml"), *FOLDER.rglob("*.yaml.gz")]
    return tuple(
        found for file in sorted(files) for found in _read(file.stem.partition(".")[0], file.read_bytes(), host)
    )


def _read(name: str, content: bytes, host: str) -> Iterator[CloudExchange]:
    text = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    if host.encode() not in text:
        return
    document = yaml.load(text, Loader=LOADER)  # a safe loader, the C one where there is one
    pairs = [(each["request"], each["response"]) for each in document.get("interactions", ())]
    pairs += zip(document.get("requests", ()), document.get("responses", ()), strict=True)
    for number, (request, response) in enumerate(pairs):
        url = urlsplit(request.get("uri") or request["url"])
        if host not in (url.hostname or ""):
            continue
        body = response["body"]
        headers = response.get("headers") or {}
        yield CloudExchange(
            name=f"{name}-{number}",
            path=url.path + (f"?{url.query}" if url.query else ""),
            request=as_bytes(request["body"]),
            status=int(response["status"]["code"]),
            headers={key.lower(): value[0] if isinstance(value, list) else value for key, value in headers.items()},
            answer=as_bytes(body["string"] if isinstance(body, dict) else body),
        )
