"""What clients ask in a soak, what backends do about it, and which endings are right.

Everything at once, by chance with a seed: whole answers and streams, three APIs, clients that leave, mistakes of
clients, and backends that fail in every way that has a name.
"""

import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tests.backends.openai_backend import answer_sensibly, chat_reply, chat_stream, embeddings_reply, error_reply
from tests.backends.scripted import Request, Script
from tests.running.client import chat

WORDS: Final = tuple(f"word{number} " for number in range(24))
PATIENCE_S: Final = 30.0
RIGHT: Final = {200, 400, 401, 404, 429, 502, 503, 504}
"""What a client may be answered. 500 is a mistake of the gateway's."""

UNBILLED: Final = "count tokens"
"""What asks no backend, and so has no row in the ledger."""


@dataclass(slots=True)
class Tally:
    """What came of the requests."""

    endings: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Kind of request and how it ended → how many."""
    wrong: list[str] = field(default_factory=list)
    """Endings that the contract does not know."""
    answered: set[str] = field(default_factory=set)
    """Ids of requests whose client saw a success that costs something."""

    def note(self, kind: str, ending: str) -> None:
        """Count an ending."""
        self.endings[kind, ending] += 1


Ask = Callable[[httpx.AsyncClient, Tally], Awaitable[None]]


def flaky(rng: random.Random) -> Callable[[Request], Script]:
    """A backend that is well most of the time."""

    def answer(request: Request) -> Script:
        if request.method == "GET":
            return answer_sensibly(request)
        body = request.json()
        streamed = body.get("stream", False)
        luck = rng.random()
        if luck < 0.03:
            return error_reply(500)
        if luck < 0.05:
            return error_reply(503, delay_s=0.2)
        if luck < 0.06:
            return error_reply(429, retry_after="1")
        if luck < 0.07:
            return Script(end="rst", read_body=True, steps=[], framing="raw")
        if luck < 0.10 and streamed:
            return chat_stream(WORDS, cut_after=rng.randrange(1, 8), gap_s=0.01, end="rst")
        return _well(request, body, streamed, rng)

    return answer


def sound(rng: random.Random) -> Callable[[Request], Script]:
    """A backend that is well."""

    def answer(request: Request) -> Script:
        if request.method == "GET":
            return answer_sensibly(request)
        body = request.json()
        return _well(request, body, body.get("stream", False), rng)

    return answer


def _well(request: Request, body: Mapping[str, Any], streamed: bool, rng: random.Random) -> Script:
    if request.path.endswith("/embeddings"):
        return embeddings_reply(dict(body))
    if streamed:
        usage = (20, len(WORDS)) if body.get("stream_options", {}).get("include_usage") else None
        return chat_stream(WORDS, usage=usage, gap_s=0.02, first_delay_s=rng.uniform(0.01, 0.1))
    return chat_reply("".join(WORDS), usage=(20, len(WORDS)), delay_s=rng.uniform(0.01, 0.3))


def pick(rng: random.Random) -> tuple[str, Ask]:
    """A kind of request by its weight."""
    names = list(_KINDS)
    name = rng.choices(names, [_KINDS[each][0] for each in names])[0]
    return name, _KINDS[name][1](name, rng.random())


def _posts(path: str, body: Mapping[str, Any], *, key: str | None = None) -> Callable[[str, float], Ask]:
    def make(kind: str, _luck: float) -> Ask:
        async def ask(client: httpx.AsyncClient, tally: Tally) -> None:
            headers = {} if key is None else {"authorization": f"Bearer {key}"}
            answer = await client.post(path, json=body, headers=headers)
            _judge(tally, kind, answer, answer.content)

        return ask

    return make


def _streams(path: str, body: Mapping[str, Any], end: bytes, *, leaves: bool = False) -> Callable[[str, float], Ask]:
    def make(kind: str, luck: float) -> Ask:
        async def ask(client: httpx.AsyncClient, tally: Tally) -> None:
            async with client.stream("POST", path, json={**body, "stream": True}) as answer:
                read = b""
                async for part in answer.aiter_raw():
                    read += part
                    if leaves and luck < 0.5 + len(read) / 4000:
                        tally.note(kind, "left")
                        return
            if answer.status_code != 200:
                _judge(tally, kind, answer, read)
            elif end in read:
                tally.answered.add(answer.headers["x-request-id"])
                tally.note(kind, "whole")
            elif b'"error"' in read:
                tally.note(kind, "broken, and said so")
            else:
                tally.wrong.append(f"{kind}: a stream without its end: {read[-200:]!r}")

        return ask

    return make


def _hangs_up(kind: str, luck: float) -> Ask:
    """Leaves while it waits for the first word."""

    async def ask(client: httpx.AsyncClient, tally: Tally) -> None:
        try:
            answer = await client.post(
                "/v1/chat/completions", json=chat(), timeout=httpx.Timeout(5, read=luck / 10 + 0.01)
            )
            _judge(tally, kind, answer, answer.content)
        except httpx.ReadTimeout:
            tally.note(kind, "left")

    return ask


def _judge(tally: Tally, kind: str, answer: httpx.Response, body: bytes) -> None:
    status = answer.status_code
    if status not in RIGHT or (status != 200 and "error" not in json.loads(body)):
        tally.wrong.append(f"{kind}: {status} {body[:200]!r}")
    if status == 200 and kind != UNBILLED:
        tally.answered.add(answer.headers["x-request-id"])
    tally.note(kind, str(status))


_MESSAGES: Final = {"model": "assistant", "max_tokens": 64, "messages": [{"role": "user", "content": "Say hello."}]}
_RESPONSES: Final = {"model": "assistant", "input": "Say hello."}
_CHAT: Final = "/v1/chat/completions"
_KINDS: Final[dict[str, tuple[float, Callable[[str, float], Ask]]]] = {
    "chat": (30, _posts(_CHAT, chat())),
    "chat, 20 kB": (5, _posts(_CHAT, chat("Read this. " * 2000))),
    "chat, streamed": (25, _streams(_CHAT, chat(), b"data: [DONE]")),
    "chat, streamed, client leaves": (8, _streams(_CHAT, chat(), b"data: [DONE]", leaves=True)),
    "chat, client leaves before it begins": (5, _hangs_up),
    "messages": (6, _posts("/v1/messages", _MESSAGES)),
    "messages, streamed": (5, _streams("/v1/messages", _MESSAGES, b"message_stop")),
    "responses": (3, _posts("/v1/responses", _RESPONSES)),
    "responses, streamed": (3, _streams("/v1/responses", _RESPONSES, b"response.completed")),
    "embeddings": (3, _posts("/v1/embeddings", {"model": "vectors", "input": "one two"})),
    "no messages": (1, _posts(_CHAT, {"model": "assistant"})),
    "unknown model": (2, _posts(_CHAT, chat(model="nobody"))),
    "wrong key": (2, _posts(_CHAT, chat(), key="sk-gw-abcdefghijkl-nobody")),
    UNBILLED: (2, _posts("/v1/messages/count_tokens", _MESSAGES)),
}
