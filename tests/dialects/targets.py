"""Targets and requests for the tests of dialects."""

import json
from typing import Any

from gateway.dialects.openai import CHAT
from gateway.domain.backend import Backend, Capability, Prices, Quirks, ServedModel
from gateway.domain.chat import ChatRequest
from gateway.domain.plan import Target

ALL: tuple[Capability, ...] = ("tools", "json_schema", "vision", "audio", "logprobs", "seed", "stop")
USER = {"role": "user", "content": "Hi"}
PNG = "data:image/png;base64,iVBORw0="


def target(
    dialect: Any,
    model: str = "m",
    *,
    accepts: tuple[Capability, ...] = ALL,
    max_tokens: int | None = None,
    **quirks: Any,
) -> Target:
    """A model behind a backend of this dialect."""
    facts = ServedModel(accepts=accepts, max_output_tokens=max_tokens, quirks=Quirks(**quirks))
    return Target(
        backend="cloud",
        model=model,
        weight=1,
        place=Backend(dialect=dialect, base_url="https://cloud.example", models={model: facts}),
        facts=facts,
        prices=Prices(input=0, output=0).table(),  # type: ignore[arg-type]  # 0 is exact in any form
    )


def ask(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    """A chat request as the endpoint reads it; `Hi` unless told."""
    body = {"model": "assistant", "messages": list(messages) or [USER], **fields}
    return CHAT.decode_request(json.dumps(body).encode())


def call(call_id: str = "c1", name: str = "look", arguments: str | None = '{"at": 1}', **more: Any) -> dict[str, Any]:
    """A tool call in an assistant's message."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def tool(name: str = "look", **more: Any) -> dict[str, Any]:
    """A function that the model may call."""
    return {"type": "function", "function": {"name": name, **more}}
