"""A closed loop of clients: each connection sends its next request when it has the answer to the last.

Callbacks and sockets, no task per request, so that the load costs less than what it measures. Every answer is checked:
a benchmark that counts errors as answers flatters whoever fails fastest. Knows OpenAI's formats as far as needed to
build a request and to tell a whole answer from half of one.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

import httptools
import uvloop

from tests.bench.upstream import EVENTS

_WORDS = "Please read the following notes with care and say in two sentences what the board decided about the bridge. "
_PATIENCE_S = 30.0
"""What is under way when the time is up may take this long to end."""
_CONTENT = b'"content":"'
_STREAMED = frozenset({"burst", "paced", "slow"})


class LoadFailed(Exception):
    """Raised when an answer was not what it should be, or did not come; the message says what was wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where requests go, and as whom."""

    port: int
    key: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to send. The run ends at `requests`, or when `seconds` have passed, whichever comes first."""

    kind: str
    """`plain`, `burst`, `paced`, `slow` or `embed`: see `upstream`."""
    concurrency: int
    prompt_bytes: int
    requests: int
    seconds: float


@dataclass(slots=True)
class Answers:
    """What came back."""

    seconds: float = 0.0
    """From the first request to the last answer."""
    latencies_s: list[float] = field(default_factory=list)
    """From sending to the whole answer, or, of a stream, to its first chunk with text."""


def request_bytes(address: Address, *, kind: str, prompt_bytes: int) -> bytes:
    """One request as it goes over the wire: about 400 bytes more than its prompt."""
    prompt = (_WORDS * (prompt_bytes // len(_WORDS) + 1))[:prompt_bytes]
    # Some gateways change the model's name on the way; they leave the user's alone.
    value: dict[str, object] = {"model": f"bench-{kind}", "user": f"bench-{kind}"}
    if kind == "embed":
        path = "/v1/embeddings"
        value["input"] = prompt
    else:
        path = "/v1/chat/completions"
        system = "You answer briefly, in plain words, and say when you do not know."
        messages = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        value |= {"messages": messages, "temperature": 0.7, "max_tokens": 256}
    if kind in _STREAMED:
        value |= {"stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps(value, separators=(",", ":")).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{address.port}\r\nuser-agent: bench\r\naccept: */*\r\n"
        f"authorization: Bearer {address.key}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def once(address: Address) -> None:
    """One small chat on a connection of its own. Raises LoadFailed."""
    run(address, Load(kind="plain", concurrency=1, prompt_bytes=100, requests=0, seconds=0.0), begin=lambda: None)


def run(address: Address, load: Load, *, begin: Callable[[], None]) -> Answers:
    """Put the load on the server at `address`. Raises LoadFailed.

    Every connection first has one small answer that does not count, so that what is measured is warm. Then `begin` is
    called, once.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(address, load, begin))


async def _run(address: Address, load: Load, begin: Callable[[], None]) -> Answers:
    loop = asyncio.get_running_loop()
    warm = request_bytes(address, kind="plain", prompt_bytes=100)
    measured = request_bytes(address, kind=load.kind, prompt_bytes=load.prompt_bytes)
    clients: list[_Client] = []
    try:
        async with asyncio.timeout(load.seconds + _PATIENCE_S):
            for _ in range(load.concurrency):
                _, client = await loop.create_connection(_Client, "127.0.0.1", address.port)
                clients.append(client)
                await client.work(warm, stream=False, budget=_Budget(1, _PATIENCE_S), delay_s=0.0)
                client.answers.clear()
            begin()
            budget = _Budget(load.requests, load.seconds)
            # Spread over the gap of a paced stream, so that chunks of several do not arrive as one.
            steps = [0.005 * number / load.concurrency for number in range(load.concurrency)]
            await asyncio.gather(
                *(
                    client.work(measured, stream=load.kind in _STREAMED, budget=budget, delay_s=delay_s)
                    for client, delay_s in zip(clients, steps, strict=True)
                )
            )
            ended = perf_counter()
    except TimeoutError:
        raise LoadFailed(f"no answer within {load.seconds + _PATIENCE_S:.0f} s") from None
    finally:
        for client in clients:
            client.close()
        await asyncio.sleep(0)  # Sockets are closed in the loop's next turn.
    answers = Answers(seconds=ended - budget.began)
    for client in clients:
        answers.latencies_s += client.answers
    return answers


class _Budget:
    """How many requests may still begin; shared by all connections."""

    __slots__ = ("began", "left", "until")

    def __init__(self, requests: int, seconds: float) -> None:
        self.began = perf_counter()
        self.left = requests
        self.until = self.began + seconds

    def take(self, now: float) -> bool:
        if self.left <= 0 or now > self.until:
            return False
        self.left -= 1
        return True


class _Client(asyncio.Protocol):
    """One connection with at most one request on it."""

    __slots__ = (
        "_begun", "_budget", "_first", "_keep", "_parser", "_parts", "_request", "_stream", "_transport", "_waiter",
        "answers",
    )  # fmt: skip

    def __init__(self) -> None:
        self.answers: list[float] = []
        self._parts: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._begun = self._first = 0.0

    def work(self, request: bytes, *, stream: bool, budget: _Budget, delay_s: float) -> asyncio.Future[None]:
        """Send the request again and again until the budget is used up; then the future is done."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        self._request, self._stream, self._budget = request, stream, budget
        if self._transport.is_closing():
            self._fail("the server closed a connection that was to be kept")
        else:
            loop.call_later(delay_s, self._next)
        return self._waiter

    def close(self) -> None:
        self._waiter = None
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was cut: {exc or 'closed'}")
        del self._parser  # It holds our methods.

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the answer is not HTTP: {error}")

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        if self._stream and not self._first and _CONTENT in body:
            self._first = perf_counter()

    def on_message_complete(self) -> None:
        now = perf_counter()
        body = b"".join(self._parts)
        if (problem := self._problem(body)) is not None:
            self._fail(f"{problem}: {body[:300]!r}")
            return
        self.answers.append((self._first if self._stream else now) - self._begun)
        # Not from inside the parser, which is not done with this answer.
        asyncio.get_running_loop().call_soon(self._next)

    def _problem(self, body: bytes) -> str | None:
        if (status := self._parser.get_status_code()) != 200:
            return f"status {status}"
        if not self._stream:
            return None if b'"usage"' in body else "no usage"
        if (events := body.count(b"data: ")) != EVENTS:
            return f"{events} events instead of {EVENTS}"
        return None if self._first and body.endswith(b"data: [DONE]\n\n") else "a broken stream"

    def _next(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        now = perf_counter()
        if not self._budget.take(now):
            waiter.set_result(None)
            return
        self._parts.clear()
        self._first = 0.0
        self._begun = now
        self._transport.write(self._request)

    def _fail(self, message: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(LoadFailed(message))
