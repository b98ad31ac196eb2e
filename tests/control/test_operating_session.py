"""The README's session of an operator, typed as it stands there, on two gateways that share a Redis, under load.

While it is typed the official client asks both gateways without a pause. Nothing fails that should not have, and what
was served names one revision of its policy, the one that its ledger rows name.
"""

import contextlib
import functools
import json
import re
import shlex
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import anyio.to_thread
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.backends.openai_backend import openai_backend
from tests.control.operator import OWNER, Done, Shell
from tests.running.configuration import Tree, configuration
from tests.running.gateway import ROOT, RunningGateway, gateway
from tests.running.polling import eventually
from tests.running.redis import redis_server

HERE = "http://127.0.0.1:8081"
PAUSE_S: Final = 0.1


class Seen(NamedTuple):
    """One request of the load."""

    at: RunningGateway
    began: float
    status: int
    policy: str | None
    """As the answer names it."""
    request_id: str


class Load:
    """Clients that ask with one key until they are stopped, and what they saw."""

    def __init__(self) -> None:
        self.seen: dict[str, list[Seen]] = {}
        """By whose key it was, in the order in which the requests ended."""

    async def ask(self, name: str, running: RunningGateway, key: str) -> None:
        """One after the other, every second one streamed. Anything but an answer of the gateway's ends the test."""
        seen = self.seen.setdefault(name, [])
        async with openai.AsyncOpenAI(base_url=running.base_url, api_key=key, max_retries=0, timeout=20) as client:
            streams = False
            while True:
                streams = not streams
                began = time.monotonic()
                response: Mapping[str, str]
                try:
                    response = await _answer(client, streams=streams)
                    status = 200
                except openai.APIStatusError as error:
                    response, status = error.response.headers, error.status_code
                policy, request_id = response.get("x-gateway-policy"), response["x-request-id"]
                seen.append(Seen(running, began, status, policy, request_id))
                await anyio.sleep(PAUSE_S)

    async def next(self, name: str, places: Sequence[RunningGateway]) -> list[Seen]:
        """What is seen at each of these gateways of a request that begins from now on."""
        now = time.monotonic()

        async def look() -> list[Seen] | None:
            found = [
                next((each for each in self.seen.get(name, ()) if each.at is at and each.began > now), None)
                for at in places
            ]
            return [each for each in found if each is not None] if all(found) else None

        return await eventually(look, "a further request at every gateway")


async def _answer(client: openai.AsyncOpenAI, *, streams: bool) -> Mapping[str, str]:
    """The headers of an answer that was whole."""
    create = client.chat.completions.with_raw_response.create
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello."}]
    if streams:
        streamed = await create(model="assistant", messages=messages, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in streamed.parse()])
        headers: Mapping[str, str] = streamed.headers
    else:
        whole = await create(model="assistant", messages=messages)
        text, headers = whole.parse().choices[0].message.content or "", whole.headers
    assert text == "Hello there"
    return headers


@pytest.fixture
def lines() -> list[str]:
    """The commands of the section."""
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.partition("\n## Operate it\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [line for line in str(block).splitlines() if line.startswith("gateway ")]


async def typed(shell: Shell, line: str, **variables: str) -> Done:
    """Run a line as a shell would: variables, a comment, and where the output goes. A drill is a short one."""
    for name, value in variables.items():
        line = line.replace(f"${name}", value)
    line = line.replace(HERE, shell.url).replace("--for 5m", "--for 1s")
    words = shlex.split(line, comments=True)[1:]
    at = words.index(">") if ">" in words else len(words)
    done = await beside(shell, *words[:at])
    if at < len(words):
        await anyio.Path(words[at + 1]).write_text(done.stdout, "utf-8")
    return done


async def beside(shell: Shell, *words: str) -> Done:
    """Not in the loop: the load goes on meanwhile."""
    return await anyio.to_thread.run_sync(functools.partial(shell, *words))


@contextlib.asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[tuple[Shell, Shell]]:
    """Two gateways on one Redis, two backends behind one model, a tenant."""
    async with openai_backend() as backend:
        served = {"small": {"prices": {"input": 1, "output": 2}, "accepts": ["tools"]}}
        house: Tree = configuration(
            backends={name: {"base_url": backend.base_url, "models": served} for name in ("nim", "openai")},
            models={"assistant": ["nim", "openai"]},
            tenants={"standard": {}},
        )
        house["tenants"] = {"acme": {"policy": "standard"}}
        with contextlib.ExitStack() as stack:
            redis = stack.enter_context(redis_server(folder / "redis"))
            shells = []
            for name in ("a", "b"):
                (folder / name).mkdir()
                running = gateway(folder / name, house, redis=redis.url, admin_key=OWNER)
                shells.append(Shell(stack.enter_context(running)))
            yield shells[0], shells[1]


async def test_the_session_of_the_readme_is_true(
    tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command does what its comment says, the other gateway follows, and the clients see no more than that."""
    monkeypatch.chdir(tmp_path)
    async with fleet(tmp_path) as (shell, other), anyio.create_task_group() as tasks:
        places = [shell.running, other.running]
        load = Load()
        for at in places:
            tasks.start_soon(load.ask, "acme", at, at.keys["acme"])
        before = {each.policy for each in await load.next("acme", places)}
        assert len(before) == 1

        session = iter(lines)
        assert "newcomer" in (await typed(shell, next(session))).stderr
        key = (await typed(shell, next(session))).stdout.strip()
        await typed(shell, "gateway revision --wait 5")
        for at in places:
            tasks.start_soon(load.ask, "newcomer", at, key)
        await load.next("newcomer", places)
        await tightened(shell, session, load, places)
        tight = {each.policy for each in await load.next("newcomer", places)}
        assert len(tight) == 1
        assert not tight & before

        seen = next(each for each in load.seen["acme"] if each.at is shell.running and each.status == 200)
        assert seen.request_id in (await typed(shell, next(session), REQUEST_ID=seen.request_id)).stdout
        assert seen.request_id in (await beside(other, "explain", seen.request_id)).stdout
        assert "1     nim/small" in (await typed(shell, next(session))).stdout
        assert "the files say holds" in (await typed(shell, next(session))).stderr
        await typed(shell, "gateway revision --wait 5")
        assert [each.status for each in await load.next("newcomer", places)] == [200, 200]
        revoked = time.monotonic()
        await typed(shell, next(session), KEY_ID=key.split("-")[2])
        await typed(shell, "gateway revision --wait 5")
        assert [each.status for each in await load.next("newcomer", places)] == [401, 401]
        assert "newcomer" in (await typed(shell, next(session))).stdout
        await eventually(functools.partial(adds_up, shell), "the whole fleet's usage")
        await typed(shell, next(session))
        await typed(shell, "gateway revision --wait 5")
        assert (await beside(other, "backends", "--json")).stdout.count('"drained": true') == 1
        assert (await typed(shell, next(session))).stdout == (await beside(other, "audit")).stdout
        assert list(session) == []
        await load.next("acme", places)
        tasks.cancel_scope.cancel()
        judged(load, before | tight, tight, revoked)


async def adds_up(shell: Shell) -> bool | None:
    """The fleet's usage has the tenant's requests of both gateways, as soon as their rows are there."""
    own, whole = [
        json.loads((await beside(shell, "usage", "--by", "tenant", "--tenant", "newcomer", *more, "--json")).stdout)
        for more in ((), ("--fleet",))
    ]
    return (whole["totals"] and whole["totals"][0]["requests"] > own["totals"][0]["requests"]) or None


async def tightened(shell: Shell, session: Iterator[str], load: Load, places: Sequence[RunningGateway]) -> None:
    """A policy is shown, changed, tried on what was recorded, and let hold."""
    await typed(shell, next(session))
    file = anyio.Path("standard.yaml")
    await file.write_text(await file.read_text("utf-8") + "    limits: {requests_per_minute: 2}\n", "utf-8")
    assert "+limits: {requests_per_minute: 2}" in (await typed(shell, next(session))).stdout
    assert re.search(r"[1-9]\d* requests replayed, 0 would go elsewhere", (await typed(shell, next(session))).stdout)
    assert "served: 100.0000%" in (await typed(shell, next(session))).stderr
    assert "ended" in (await typed(shell, next(session))).stdout
    assert {each.status for each in await load.next("newcomer", places)} == {200}
    assert "revision 1 holds" in (await typed(shell, next(session))).stderr
    assert "all run the same" in (await typed(shell, next(session))).stderr


def judged(load: Load, policies: set[str | None], tight: set[str | None], revoked: float) -> None:
    """Nothing failed that should not have, and each answer names the one revision that its rows name."""
    rows: dict[str, set[str]] = {}
    for at in {each.at.port: each.at for each in load.seen["acme"]}.values():
        for row in at.ledger():
            rows.setdefault(row.request_id, set()).add(row.policy)
    for name, requests in load.seen.items():
        assert len(requests) > 10
        for each in requests:
            is_limited = each.status == 429 and each.policy in tight
            is_revoked = each.status == 401 and name == "newcomer" and each.began > revoked
            assert each.status == 200 or is_limited or is_revoked, each
            assert is_revoked or each.policy in policies, each
            assert each.status != 200 or rows[each.request_id] == {each.policy}, each
        if name == "newcomer":
            for port in {each.at.port for each in requests}:
                statuses = [each.status for each in requests if each.at.port == port]
                assert set(statuses[statuses.index(401) :]) == {401}, "a revoked key worked again"
