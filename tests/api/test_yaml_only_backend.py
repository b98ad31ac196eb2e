"""A server that nobody here has heard of, served by configuration alone: its oddities are data, its name is nowhere."""

from collections.abc import Iterator

import pytest

from tests.backends.openai_backend import chat_reply, chat_stream
from tests.backends.scripted import ScriptedBackend
from tests.running.client import CHAT, chat, client_of, events
from tests.running.configuration import Tree, configuration
from tests.running.gateway import RunningGateway, gateway

QUIRKS = {
    "path": "/serve/{model}{path}?version=7",
    "max_tokens_field": "max_completion_tokens",
    "reports_stream_usage": False,
    "requires_finish_reason": False,
}
KEY = "newcomer-key-1"


@pytest.fixture(scope="module")
def house(backends: list[ScriptedBackend]) -> Tree:
    """One backend of the dialect that departs from it in every way that can be said."""
    place = {
        "base_url": backends[0].base_url.removesuffix("/v1"),
        "credential": {"header": {"name": "x-newcomer-key", "value": "env:NEWCOMER_KEY"}},
        "models": {"small": {"accepts": [], "quirks": QUIRKS, "prices": {"input": 1, "output": 2}}},
    }
    return configuration(backends={"newcomer": place}, models={"assistant": ["newcomer"]})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, house: Tree) -> Iterator[RunningGateway]:
    """The gateway."""
    with gateway(tmp_path_factory.mktemp("running"), house, environ={"NEWCOMER_KEY": KEY}) as process:
        yield process


async def test_a_chat_reaches_it_in_its_own_ways(running: RunningGateway, first: ScriptedBackend) -> None:
    """The path, the name of the limit, the credential."""
    first.script(chat_reply("Hello there"))
    async with client_of(running, "acme") as client:
        response = await client.post(CHAT, json=chat(max_tokens=7))
    assert response.json()["choices"][0]["message"]["content"] == "Hello there"
    seen = first.requests[-1]
    assert seen.path == "/serve/small/chat/completions?version=7"
    assert seen.headers["x-newcomer-key"] == KEY
    assert {name: seen.json()[name] for name in seen.json() if name.startswith("max_")} == {"max_completion_tokens": 7}


async def test_a_stream_without_usage_and_finish_reason_is_whole(
    running: RunningGateway, first: ScriptedBackend
) -> None:
    """And billed by what was counted, because the server does not say."""
    first.script(chat_stream(["Hello", " there"], finish_reason=None))
    async with (
        client_of(running, "acme") as client,
        client.stream("POST", CHAT, json=chat(stream=True, stream_options={"include_usage": True})) as response,
    ):
        told = [event async for event in events(response)]
        request_id = response.headers["x-request-id"]
    assert told[-1] == "[DONE]"
    assert "stream_options" not in first.requests[-1].json()
    row = running.ledger(request_id)[0]
    assert (row.usage.source, row.usage.output_tokens > 0) == ("counted", True)


async def test_what_it_does_not_take_is_not_sent_to_it(running: RunningGateway, first: ScriptedBackend) -> None:
    async with client_of(running, "acme") as client:
        response = await client.post(CHAT, json=chat(stop=["x"]))
    assert response.status_code >= 400
    assert first.requests == []
