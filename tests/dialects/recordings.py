"""Recorded traffic of OpenAI-like servers, from the shared data beside the project. Reads files; judges nothing."""

import functools
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

FOLDER = Path(__file__).parents[2].parent / "shared" / "data" / "cassettes"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Exchanged:
    """One recorded request and its answer."""

    name: str
    host: str
    endpoint: str
    """`chat`, `completions` or `responses`."""
    request: bytes
    status: int
    answer: bytes

    @property
    def is_stream(self) -> bool:
        """Whether the answer is an event stream."""
        return self.answer.lstrip().startswith((b"data:", b"event:", b":"))

    @property
    def asked(self) -> dict[str, Any]:
        """The request's fields."""
        fields: dict[str, Any] = json.loads(self.request)
        return fields


@functools.cache
def recorded() -> tuple[Exchanged, ...]:
    """Every recorded call of Chat Completions and Completions ; none when the data is absent."""
    return tuple(_found("/completions"))


@functools.cache
def recorded_responses() -> tuple[Exchanged, ...]:
    """Every recorded call of Responses; none when the data is absent."""
    return tuple(_found("/responses"))


def _found(path: str) -> Iterator[Exchanged]:
    for file in sorted(FOLDER.rglob("*.yaml")):
        if path.encode() in file.read_bytes():
            yield from _read(file, path)


def _read(file: Path, path: str) -> Iterator[Exchanged]:
    document = yaml.load(file.read_bytes(), Loader=LOADER)  # a safe loader, the C one where there is one
    for number, each in enumerate(document["interactions"]):
        request, response = each["request"], each["response"]
        url = urlsplit(request.get("uri") or request["url"])
        if not url.path.endswith(path):
            continue
        body = response["body"]
        answer = as_bytes(body["string"] if isinstance(body, dict) else body)
        status = response["code"] if "code" in response else response["status"]["code"]
        endpoint = "chat" if url.path.endswith("/chat/completions") else path[1:]
        asked = as_bytes(request["body"])
        if asked:
            yield Exchanged(f"{file.stem}-{number}", url.hostname or "", endpoint, asked, int(status), answer)


def as_bytes(value: str | bytes | None) -> bytes:
    """What was on the wire, unpacked."""
    content = value.encode() if isinstance(value, str) else value or b""
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
