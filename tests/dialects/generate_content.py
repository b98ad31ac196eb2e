"""Google's own client as the judge of Gemini: what it sends for a request, and what it reads in an answer."""

import functools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx
from google import genai
from google.genai import types

_FREE = {"args", "response", "parametersJsonSchema", "responseJsonSchema"}
"""Fields whose content is the client's own JSON."""


class _Captured(httpx.BaseTransport):
    """Keeps the request and answers with something."""

    def __init__(self) -> None:
        self.request: httpx.Request | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.request = request
        return httpx.Response(200, json={"candidates": [{"content": {"parts": [{"text": "x"}]}}]})


@functools.cache
def _client() -> tuple[genai.Client, _Captured]:
    """Made once: it reads the certificates of the machine each time."""
    captured = _Captured()
    options = types.HttpOptions(
        base_url="https://gemini.example", api_version="v1beta", httpx_client=httpx.Client(transport=captured)
    )
    return genai.Client(api_key="k", http_options=options), captured


def sent_by_google(
    contents: list[types.Content], config: types.GenerateContentConfig, model: str = "m"
) -> tuple[str, Any]:
    """Path and body of what the official client sends, in canonical words."""
    client, captured = _client()
    client.models.generate_content(model=model, contents=list(contents), config=config)
    assert captured.request is not None
    return captured.request.url.raw_path.decode(), canonical(json.loads(captured.request.content))


def canonical(value: Any) -> Any:
    """Names in camel case, no empty settings, no role where there is but one: proto JSON reads either."""
    if isinstance(value, list):
        return [canonical(each) for each in value]
    if not isinstance(value, dict):
        return value
    named = {re.sub(r"_([a-z])", lambda found: found[1].upper(), name): each for name, each in value.items()}
    if "systemInstruction" in named:
        named["systemInstruction"].pop("role", None)
    if named.get("generationConfig") == {}:
        del named["generationConfig"]
    return {name: each if name in _FREE else canonical(each) for name, each in named.items()}


def check_request(body: bytes) -> None:
    """Fails where Google's types know no such field or value."""
    fields = json.loads(body)
    for content in fields.pop("contents"):
        types.Content.model_validate(content)
    if "systemInstruction" in fields:
        types.Content.model_validate(fields.pop("systemInstruction"))
    for tool in fields.pop("tools", ()):
        types.Tool.model_validate(tool)
    types.ToolConfig.model_validate(fields.pop("toolConfig", {}))
    types.GenerationConfig.model_validate(fields.pop("generationConfig", {}))
    assert fields.pop("serviceTier", "flex") in {"flex", "priority", "standard"}
    assert not fields


@dataclass
class Heard:
    """What the official types read in the first candidate."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str | None, Any, bytes | None]] = field(default_factory=list)
    """Name, arguments and signature."""
    finish: str | None = None
    usage: types.GenerateContentResponseUsageMetadata | None = None
    id: str | None = None
    model: str | None = None


def heard(answers: Iterable[Any]) -> Heard:
    """One whole answer, or the events of a stream, as JSON values."""
    found = Heard()
    for value in answers:
        answer = types.GenerateContentResponse.model_validate(value)
        found.usage = answer.usage_metadata or found.usage
        found.id, found.model = answer.response_id or found.id, answer.model_version or found.model
        candidate = (answer.candidates or [types.Candidate()])[0]
        found.finish = candidate.finish_reason.name if candidate.finish_reason is not None else found.finish
        for part in (candidate.content.parts if candidate.content is not None else None) or []:
            if part.function_call is not None:
                found.calls.append((part.function_call.name, part.function_call.args, part.thought_signature))
            elif part.thought:
                found.reasoning += part.text or ""
            else:
                found.text += part.text or ""
    return found
