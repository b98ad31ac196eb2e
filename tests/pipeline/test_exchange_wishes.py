"""Wishes of a request's way, and the way that it took: told with the answer to whoever asks."""

import json
from typing import Any

import pytest

from gateway.dialects.anthropic import MESSAGES
from gateway.dialects.openai import COMPLETIONS
from gateway.dialects.protocols import Endpoint
from gateway.dialects.responses.endpoint import RESPONSES
from gateway.domain.fault import FaultKind
from tests.pipeline.driver import Play, World, configured
from tests.pipeline.wire import DONE, ask, chunk, event, finish, reply, usage_chunk

HELLO = [{"role": "user", "content": "Say hello."}]


def events(body: bytes) -> list[dict[str, Any]]:
    """The data of a stream's events."""
    lines = [line.removeprefix(b"data: ") for line in body.splitlines() if line.startswith(b"data: {")]
    return [json.loads(line) for line in lines]


def test_the_way_stands_in_the_last_chunk() -> None:
    """Which backends were asked and why, what was used, what is charged."""
    play = Play(body=ask(gateway={"explain": True}))
    play.failed(FaultKind.CONNECT)
    play.head().data(event({"id": "x", "model": "m", "choices": []}), chunk("Hello"), finish(), usage_chunk(), DONE)
    last = events(play.body)[-1]
    assert play.body.endswith(DONE)
    assert (last["id"], last["model"], last["choices"]) == ("x", "m", [])
    way = last["gateway"]
    assert [(each["backend"], each["reason"], each["outcome"]) for each in way["attempts"]] == [
        ("a", "initial", "failed"),
        ("b", "failover", "ok"),
    ]
    assert way["attempts"][0]["fault"] == "connect"
    assert (way["usage"]["prompt_tokens"], way["usage"]["completion_tokens"]) == (10, 4)
    assert way["charge_nano_usd"] == sum(row.charge_nano_usd for row in play.rows) > 0
    assert way["decision"] == play.exchange.id
    assert way["request_id"] == play.exchange.request_id
    assert (way["policy"], way["model"]) == (play.rows[0].policy, "assistant")


def test_a_whole_answer_has_the_way_beside_its_choices() -> None:
    play = Play(body=ask(stream=False, gateway={"explain": True}), stream=False)
    play.answer(200, reply("Hello"))
    body = json.loads(play.body)
    assert body["choices"][0]["message"]["content"] == "Hello"
    assert [each["backend"] for each in body["gateway"]["attempts"]] == ["a"]


@pytest.mark.parametrize("stream", [True, False])
def test_who_does_not_ask_is_told_nothing(stream: bool) -> None:
    """And no backend learns what was wished."""
    play = Play(body=ask(stream=stream, gateway={"only": ["b"]}), stream=stream)
    assert play.tried == "b"
    assert b"gateway" not in play.dispatched[0].request.body
    if stream:
        play.head().data(chunk("Hello"), finish(), DONE)
    else:
        play.answer(200, reply("Hello"))
    assert b"gateway" not in play.body


OTHERS: list[tuple[str, Endpoint, dict[str, object]]] = [
    ("messages", MESSAGES, {"max_tokens": 9, "messages": HELLO}),
    ("responses", RESPONSES, {"input": "Say hello."}),
    ("completions", COMPLETIONS, {"prompt": "Say hello."}),
]


@pytest.mark.parametrize(("endpoint", "asked"), [pytest.param(*row[1:], id=row[0]) for row in OTHERS])
@pytest.mark.parametrize("stream", [True, False])
def test_every_endpoint_takes_wishes_and_tells_the_way(
    endpoint: Endpoint,
    asked: dict[str, object],
    stream: bool,
) -> None:
    """Behind what its clients take for the end, or as a chunk before it; in one of its own fields where it is whole."""
    wishes = {"ignore": ["a"], "explain": True}
    body = json.dumps({"model": "assistant", "stream": stream, "gateway": wishes} | asked).encode()
    play = Play(body=body, stream=stream, endpoint=endpoint)
    assert b"gateway" not in play.dispatched[0].request.body
    if stream:
        text = event({"choices": [{"index": 0, "text": "Hello"}]}) if endpoint is COMPLETIONS else chunk("Hello")
        play.head().data(text, finish(), DONE)
        told = next(each["gateway"] for each in events(play.body) if "gateway" in each)
    else:
        plain = {"choices": [{"index": 0, "text": "Hello", "finish_reason": "stop"}]}
        play.answer(200, json.dumps(plain).encode() if endpoint is COMPLETIONS else reply("Hello"))
        told = json.loads(play.body)["gateway"]
    assert [each["backend"] for each in told["attempts"]] == ["b"]
    assert {"target": "a/model-a", "excluded": "preference:ignore"} in told["candidates"]


def test_whom_the_policys_conditions_keep_for_others_is_not_named() -> None:
    """Not in the way, and not in what is said when nobody is left."""
    targets = [
        {"backend": "a", "model": "model-a", "when": {"tenants": ["rival"]}},
        {"backend": "b", "model": "model-b"},
    ]
    model: dict[str, object] = {"strategy": {"mode": "conditional"}, "targets": targets}
    tenants = {"acme": {"policy": "standard"}, "rival": {"policy": "standard"}}
    world = World(configured(targets=2, model=model, tenants=tenants))
    play = Play(world, body=ask(stream=False, gateway={"explain": True}), stream=False).answer(200, reply("Hello"))
    assert json.loads(play.body)["gateway"]["candidates"] == [{"target": "b/model-b"}]
    world.house.fleet.adopt({"b": "credential_missing"}, frozenset({"a", "b"}))
    refused = Play(world)
    assert refused.code == "no_backend_available"
    assert refused.error is not None
    assert "model-b" in refused.error.message
    assert "model-a" not in refused.error.message


def test_a_client_that_wishes_everybody_away_is_refused() -> None:
    play = Play(body=ask(gateway={"only": ["elsewhere"]}))
    assert (play.error.http_status if play.error else None, play.param) == (400, "gateway")
    assert play.tried == ""
