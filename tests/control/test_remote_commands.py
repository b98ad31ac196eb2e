"""What a running gateway tells its operator on the command line: why, how much, how it stands, who changed it."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.backends.openai_backend import error_reply, openai_backend
from tests.backends.scripted import ScriptedBackend
from tests.control.operator import OWNER, Shell
from tests.running.configuration import configuration
from tests.running.gateway import command, gateway


@pytest.fixture(scope="module")
async def backend() -> AsyncIterator[ScriptedBackend]:
    """A backend that answers."""
    async with openai_backend() as running:
        yield running


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, backend: ScriptedBackend) -> Iterator[Shell]:
    """On a gateway with that backend under two names."""
    house = configuration(
        backends={"first": backend.base_url, "second": backend.base_url},
        models={"assistant": ["first", "second"]},
        tenants={"acme": {}, "other": {}},
    )
    with gateway(tmp_path_factory.mktemp("shell"), house, admin_key=OWNER) as running:
        yield Shell(running)


async def ask(shell: Shell, key: str | None = None, **fields: object) -> httpx.Response:
    """A small chat of `acme`, or with another key."""
    headers = shell.running.headers("acme") if key is None else {"authorization": f"Bearer {key}"}
    body = {"model": "assistant", "messages": [{"role": "user", "content": "Say hello."}]} | fields
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        return await client.post(f"{shell.running.base_url}/chat/completions", json=body, headers=headers)


async def test_a_served_request_is_explained(shell: Shell, backend: ScriptedBackend) -> None:
    """Its candidates in their order and what became of every try; for programs, as the API tells it."""
    backend.script(error_reply(500))
    request_id = (await ask(shell)).headers["x-request-id"]
    text = shell("explain", request_id).stdout
    head, candidates, tries = text.split("\n\n")
    assert f"request {request_id} of acme" in head
    assert "ended: ok, status 200" in head
    assert [line.split() for line in candidates.splitlines()[1:]] == [["1", "first/small"], ["2", "second/small"]]
    rows = [line.split() for line in tries.splitlines()[1:]]
    assert [row[:2] for row in rows] == [["1", "first/small"], ["2", "second/small"]]
    assert "server_error (500)" in tries
    assert "ok (200), sent on" in tries
    assert "hello" not in text.lower()
    assert [each["fault"] for each in shell.json("explain", request_id)["attempts"]] == ["server_error", None]


async def test_what_a_client_wished_is_told_to_both(shell: Shell) -> None:
    """The operator sees the wish; the client less of the way than the operator."""
    answer = await ask(shell, gateway={"ignore": ["first"], "explain": True})
    way = answer.json()["gateway"]
    assert way["attempts"][0]["backend"] == "second"
    assert way["decision"] == answer.headers["x-gateway-decision"]
    text = shell("explain", way["request_id"]).stdout
    assert 'wished: {"ignore":["first"],"explain":true}' in text
    known = shell.json("explain", way["request_id"])
    assert known["candidates"][1]["excluded"] == "preference:ignore"
    assert not {"seed", "cost_nano_usd", "score", "key"} & {*way, *way["attempts"][0], *way["candidates"][0]}


def test_a_request_that_nobody_sent_is_explained(shell: Shell) -> None:
    """Where it would go; or why it would be refused, target by target."""
    asked = ["explain", "--tenant", "acme", "--model", "assistant"]
    assert [row[:2] for row in shell.table(*asked)[2:]] == [["1", "first/small"], ["2", "second/small"]]
    text = shell(*asked, "--needs", "tools,embeddings", "--prompt-tokens", 9, "--stream").stdout
    assert "refused: " in text
    assert text.splitlines()[-1].split() == ["-", "second/small", "capability:embeddings"]
    assert shell.json(*asked)["order"] == ["first/small", "second/small"]
    wished = shell(*asked, "--wishes", '{"ignore": ["first"]}').stdout
    assert wished.splitlines()[-1].split() == ["-", "first/small", "preference:ignore"]
    assert "no such wish" in shell(*asked, "--wishes", '{"region": "eu"}', code=2).stderr
    assert "no model `x`; it has: assistant" in shell("explain", "--tenant", "acme", "--model", "x", code=1).stderr
    assert "No recent request" in shell("explain", "no-such-request", code=1).stderr


@pytest.mark.parametrize(
    "arguments",
    [[], ["--tenant", "acme"], ["some-id", "--tenant", "acme"], ["--tenant", "a", "--model", "m", "--needs", "wings"]],
    ids=" ".join,
)
def test_an_explanation_is_of_a_request_or_of_features(shell: Shell, arguments: list[str]) -> None:
    """Of both or of neither is wrong usage."""
    assert "usage: gateway explain" in shell("explain", *arguments, code=2).stderr


async def test_usage_adds_up_as_the_ledger_does(shell: Shell) -> None:
    """The same table as `ledger totals` has, over HTTP."""
    await ask(shell)
    told = shell("usage", "--by", "tenant,backend", "--tenant", "acme", "--since", "2020-01-01")
    read = command("ledger", "totals", "--by", "tenant,backend", "--tenant", "acme", "--store", shell.running.store_url)
    assert told.stdout == read.stdout
    assert "acme" in told.stdout
    assert shell.json("usage", "--by", "day", "--before", "2020-01-01")["totals"] == []


async def test_a_backend_is_drained_and_put_back(shell: Shell) -> None:
    """The table says so, and requests obey it."""
    shell("backends", "drain", "first", "--admin", shell.url)
    assert [row[:2] for row in shell.table("backends")] == [["first", "drained"], ["second", "ok"]]
    assert (await ask(shell)).headers["x-gateway-backend"] == "second"
    shell("backends", "undrain", "first")
    assert [each["drained"] for each in shell.json("backends", "--admin", shell.url)] == [False, False]
    assert "no backend `nowhere`" in shell("backends", "drain", "nowhere", code=1).stderr


def test_the_revision_of_every_gateway_is_shown(shell: Shell) -> None:
    """One here, which agrees with itself; what is not as the files say is named."""
    done = shell("revision", "--wait", 5)
    assert done.stderr.startswith("all run the same\n")
    (replica,) = shell.json("revision")["replicas"]
    assert done.stdout.splitlines()[1].split()[:2] == [replica["name"], replica["revision"]]


def test_every_change_is_shown(shell: Shell) -> None:
    """By number, with who and what; behind one that is known."""
    shell("backends", "drain", "second")
    shell("backends", "undrain", "second")
    changes = shell.json("audit")
    assert [each["seq"] for each in changes] == list(range(1, len(changes) + 1))
    (row,) = shell.table("audit", "--after", len(changes) - 1)
    assert row[0] == str(len(changes))
    assert row[-4:] == ["environment", "backend.undrain", "second", "false"]


def test_help_says_where_the_api_and_its_key_come_from(shell: Shell) -> None:
    """For each of the commands that work through it."""
    for name in ("explain", "usage", "backends", "revision", "audit"):
        assert "$GATEWAY_ADMIN_KEY" in shell(name, "--help").stdout, name
