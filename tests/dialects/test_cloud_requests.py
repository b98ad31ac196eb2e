"""Whatever a client asks, what leaves is a request of the other API; and a recorded one comes out as it went in."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import assume, given

from gateway.dialects import bedrock, gemini
from gateway.domain.chat import ChatRequest
from gateway.domain.dispensable import may_be_dropped
from gateway.domain.plan import Target
from tests.dialects.cloud_recordings import CloudExchange, recorded
from tests.dialects.conversations import requests
from tests.dialects.converse import check_request as check_converse
from tests.dialects.generate_content import check_request as check_gemini
from tests.dialects.targets import ask, target

CLAUDES = [
    target("bedrock", thinks_by=thinks_by, extra_fields=extra)
    for thinks_by in ("effort", "budget")
    for extra in ("none", "anthropic")
]
GEMINIS = [target("gemini", thinks_by=thinks_by) for thinks_by in ("effort", "budget")]


@given(request=requests())
@pytest.mark.parametrize(
    "place", CLAUDES, ids=lambda place: f"{place.facts.quirks.thinks_by}-{place.facts.quirks.extra_fields}"
)
def test_whatever_is_asked_converse_is_told_in_its_own_words(place: Target, request: ChatRequest) -> None:
    """Turns alternate, no text is blank, results stand before all words, calls in the history have their tools."""
    unsupported = bedrock.UPSTREAM.unsupported(request, place)
    assume("messages[0].role" not in unsupported)
    assert all(may_be_dropped(request, name) for name in unsupported)
    wire = bedrock.UPSTREAM.encode_request(request, place)
    check_converse(wire.body, "m")
    body = json.loads(wire.body)
    roles = [turn["role"] for turn in body["messages"]]
    assert all(one != other for one, other in itertools.pairwise(roles))
    used: set[str] = set()
    for turn in body["messages"]:
        kinds = [next(iter(block)) for block in turn["content"]]
        assert kinds
        assert all(block["text"].strip() for block in turn["content"] if "text" in block)
        results = [place for place, kind in enumerate(kinds) if kind == "toolResult"]
        assert all(kind in {"toolResult", "cachePoint"} for kind in kinds[: max(results, default=0)])
        used |= {block["toolUse"]["name"] for block in turn["content"] if "toolUse" in block}
    listed = [tool.get("toolSpec", {}).get("name") for tool in body.get("toolConfig", {}).get("tools", ())]
    assert not used or listed
    assert body["inferenceConfig"]["maxTokens"] >= 1
    if (budget := body.get("additionalModelRequestFields", {}).get("thinking", {}).get("budget_tokens")) is not None:
        assert 1024 <= budget < body["inferenceConfig"]["maxTokens"]


@given(request=requests())
@pytest.mark.parametrize("place", GEMINIS, ids=lambda place: place.facts.quirks.thinks_by)
def test_whatever_is_asked_gemini_is_told_in_its_own_words(place: Target, request: ChatRequest) -> None:
    """Turns alternate and none is empty; the first call of each has a signature."""
    assert all(may_be_dropped(request, name) for name in gemini.UPSTREAM.unsupported(request, place))
    wire = gemini.UPSTREAM.encode_request(request, place)
    check_gemini(wire.body)
    contents = json.loads(wire.body)["contents"]
    roles = [content["role"] for content in contents]
    assert all(one != other for one, other in itertools.pairwise(roles))
    for content in contents:
        assert content["parts"]
        calls = [part for part in content["parts"] if "functionCall" in part]
        assert not calls or calls[0]["thoughtSignature"]


# Recorded requests: said in the hub's words by the few lines below, our encoder says them as their client did.


def chat_of_converse(asked: dict[str, Any]) -> ChatRequest:
    messages: list[dict[str, Any]] = [{"role": "system", "content": each["text"]} for each in asked.get("system", ())]
    for turn in asked["messages"]:
        said: dict[str, Any] = {"role": turn["role"], "content": []}
        for block in turn["content"]:
            if (use := block.get("toolUse")) is not None:
                function = {"name": use["name"], "arguments": json.dumps(use["input"])}
                said.setdefault("tool_calls", []).append(
                    {"id": use["toolUseId"], "type": "function", "function": function}
                )
            elif (result := block.get("toolResult")) is not None:
                content = "".join(each["text"] for each in result["content"])
                messages.append({"role": "tool", "tool_call_id": result["toolUseId"], "content": content})
            elif (thought := block.get("reasoningContent")) is not None:
                text = thought["reasoningText"]
                signed = {"type": "thinking", "thinking": text["text"], "signature": text["signature"]}
                said.setdefault("thinking_blocks", []).append(signed)
            else:
                said["content"].append({"type": "text", "text": block["text"]})
        if said["content"] or "tool_calls" in said:
            messages.append(said)
    fields: dict[str, Any] = {}
    for name, theirs in (
        ("max_tokens", "maxTokens"),
        ("temperature", "temperature"),
        ("top_p", "topP"),
        ("stop", "stopSequences"),
    ):
        if theirs in asked.get("inferenceConfig", {}):
            fields[name] = asked["inferenceConfig"][theirs]
    if "toolConfig" in asked:
        fields["tools"] = [
            {"type": "function", "function": {
                "name": each["toolSpec"]["name"], "description": each["toolSpec"]["description"],
                "parameters": each["toolSpec"]["inputSchema"]["json"],
            }} for each in asked["toolConfig"]["tools"]
        ]  # fmt: skip
    return ask(*messages, **fields)


def plain_converse(asked: dict[str, Any]) -> dict[str, Any]:
    """Without what is the same when it is not said, and without what only others' clients say."""
    kept = {name: asked[name] for name in ("messages", "system", "toolConfig") if asked.get(name)}
    kept["inferenceConfig"] = {"maxTokens": 4096, **asked.get("inferenceConfig", {})}
    for turn in kept["messages"]:
        for block in turn["content"]:
            block.get("toolResult", {}).pop("status", None)
    return kept


BEYOND_US = (b'"document"', b"guardContent", b"citations", b"guardrailConfig")
COMPARABLE = [
    each
    for each in recorded("bedrock-runtime")
    if "/converse" in each.path and not any(word in each.request for word in BEYOND_US)
]


@pytest.mark.parametrize("seen", COMPARABLE, ids=lambda seen: seen.name)
def test_a_recorded_converse_request_is_said_as_its_own_client_said_it(seen: CloudExchange) -> None:
    wire = bedrock.UPSTREAM.encode_request(chat_of_converse(seen.asked), target("bedrock"))
    assert json.loads(wire.body) == plain_converse(seen.asked)


SETTINGS = {
    "maxOutputTokens": "max_tokens", "temperature": "temperature", "topP": "top_p", "seed": "seed",
    "stopSequences": "stop", "presencePenalty": "presence_penalty", "frequencyPenalty": "frequency_penalty",
}  # fmt: skip
"""Without `topK`, which a recorded client gave as a fraction."""


def chat_of_gemini(asked: dict[str, Any]) -> ChatRequest:
    messages: list[dict[str, Any]] = []
    if "systemInstruction" in asked:
        messages.append({"role": "system", "content": asked["systemInstruction"]["parts"][0]["text"]})
    pending: list[str] = []
    for content in asked["contents"]:
        for part in content["parts"]:
            if (call := part.get("functionCall")) is not None:
                pending.append(f"call_gw{len(pending)}")
                function = {"name": call["name"], "arguments": json.dumps(call["args"])}
                made = {"id": pending[-1], "type": "function", "function": function}
                messages.append({"role": "assistant", "tool_calls": [made]})
            elif (answer := part.get("functionResponse")) is not None:
                response = json.dumps(answer["response"])
                messages.append({"role": "tool", "tool_call_id": pending.pop(0), "content": response})
            else:
                role = "assistant" if content["role"] == "model" else "user"
                messages.append({"role": role, "content": part["text"]})
    settings = asked.get("generationConfig", {})
    return ask(*messages, **{SETTINGS[name]: value for name, value in settings.items() if name in SETTINGS})


GEMINI_ASKED = [
    each for each in recorded("googleapis")
    if each.status == 200 and b"fileData" not in each.request and b"labels" not in each.request
]  # fmt: skip


@pytest.mark.parametrize("seen", GEMINI_ASKED, ids=lambda seen: seen.name)
def test_a_recorded_gemini_request_is_said_as_its_own_client_said_it(seen: CloudExchange) -> None:
    wire = gemini.UPSTREAM.encode_request(chat_of_gemini(seen.asked), target("gemini", signs_calls=False))
    ours, theirs = json.loads(wire.body), seen.asked
    assert ours["contents"] == theirs["contents"]
    assert ours.get("systemInstruction", {}).get("parts") == theirs.get("systemInstruction", {}).get("parts")
    settings = {name: value for name, value in theirs.get("generationConfig", {}).items() if name in SETTINGS}
    assert ours.get("generationConfig", {}) == settings
