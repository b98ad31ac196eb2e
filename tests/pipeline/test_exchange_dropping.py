"""Fields that a target cannot be told: passed over, or asked without them where the policy says so."""

import json
from typing import Any

import pytest

from gateway.domain.errors import UnsupportedParameter
from tests.pipeline.driver import Play, World, configured
from tests.pipeline.wire import ask

PLAIN: dict[str, object] = {"models": {"model-a": {"accepts": []}}}
"""A backend whose model takes nothing beyond plain text."""


def played(*, drops: bool, places: dict[str, dict[str, object]], **fields: Any) -> Play:
    model: dict[str, object] = {"on_unsupported": "drop"} if drops else {}
    world = World(configured(targets=2, places=places, model=model))
    return Play(world, body=ask(**fields))


def sent(play: Play, number: int = -1) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(play.dispatched[number].request.body)
    return body


DISPENSABLE = {
    "seed": 5,
    "stop": ["END"],
    "logprobs": True,
    "top_logprobs": 2,
    "response_format": {"type": "json_object"},
}


def test_a_policy_that_rejects_passes_over_the_target() -> None:
    play = played(drops=False, places={"a": PLAIN}, **DISPENSABLE)
    assert play.dispatched[0].target.backend == "b"
    assert play.dispatched[0].request.dropped == ()
    assert sent(play).items() >= DISPENSABLE.items()


def test_a_policy_that_drops_asks_without_the_fields_and_names_them() -> None:
    play = played(drops=True, places={"a": PLAIN}, **DISPENSABLE, temperature=0.5)
    assert play.dispatched[0].target.backend == "a"
    assert not sent(play).keys() & DISPENSABLE.keys()
    assert sent(play)["temperature"] == 0.5
    assert sorted(play.exchange.attempts[0].dropped) == sorted(DISPENSABLE)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
    ],
    ids=["tools", "an image"],
)
def test_what_is_asked_is_never_dropped(fields: dict[str, Any]) -> None:
    play = played(drops=True, places={"a": PLAIN}, **fields)
    assert play.dispatched[0].target.backend == "b"


def test_when_no_target_takes_it_the_client_is_told_which_field() -> None:
    plain_too: dict[str, object] = {"models": {"model-b": {"accepts": []}}}
    play = played(drops=False, places={"a": PLAIN, "b": plain_too}, seed=5)
    assert isinstance(play.error, UnsupportedParameter)
    assert play.error.param == "seed"
    assert not play.dispatched
