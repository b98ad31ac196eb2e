"""Heads that no sound client sends, and requests that come only in part: refused, and the connection closed."""

import contextlib
import json
import re
from collections.abc import Iterator

import anyio
import pytest

from tests.backends.scripted import ScriptedBackend
from tests.running.client import CHAT
from tests.running.configuration import Tree
from tests.running.gateway import RunningGateway, gateway

pytestmark = pytest.mark.skipif("config.getoption('--http') != 'edge'", reason="the guards stand at the edge")
KIB = 1 << 10
HEALTH = "GET /healthz HTTP/1.1\r\n"
SMUGGLED = f"{HEALTH}host: x\r\n\r\n"
MANY = "x-a: b\r\n" * 2000
LARGE = f"x-a: {'a' * KIB}\r\n" * 40
HEADS: dict[str, tuple[int, str]] = {
    "no host": (400, f"{HEALTH}\r\n"),
    "two hosts": (400, f"{HEALTH}host: a\r\nhost: b\r\n\r\n"),
    "the same host twice": (400, f"{HEALTH}host: a\r\nhost: a\r\n\r\n"),
    "empty host": (400, f"{HEALTH}host: \r\n\r\n"),
    "host with a path": (400, f"{HEALTH}host: a/b\r\n\r\n"),
    "host with a user": (400, f"{HEALTH}host: a@b\r\n\r\n"),
    "host with a query": (400, f"{HEALTH}host: a?b\r\n\r\n"),
    "long host": (400, f"{HEALTH}host: {'a' * 300}\r\n\r\n"),
    "absolute form": (400, "GET http://evil/healthz HTTP/1.1\r\nhost: x\r\n\r\n"),
    "asterisk": (400, "OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n"),
    "HTTP/0.9": (400, "GET /healthz\r\n\r\n"),
    "HTTP/3.0": (400, "GET /healthz HTTP/3.0\r\nhost: x\r\n\r\n"),
    "long URL": (414, f"GET /{'a' * 64 * KIB} HTTP/1.1\r\nhost: x\r\n\r\n"),
    "long URL that does not end": (414, f"GET /{'a' * 64 * KIB}"),
    "large head": (431, f"{HEALTH}host: x\r\n{LARGE}\r\n"),
    "large head that does not end": (431, f"{HEALTH}host: x\r\nx-a: {'a' * KIB * KIB}"),
    "many fields": (431, f"{HEALTH}host: x\r\n{MANY}\r\n"),
}


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory, house: Tree) -> Iterator[RunningGateway]:
    """A gateway that waits half a second for what has begun to come."""
    patience = {"gateway.api.edge.REST_TIMEOUT_S": 0.5}
    with gateway(tmp_path_factory.mktemp("hasty"), house, patience=patience) as process:
        yield process


async def told(running: RunningGateway, *parts: str, pause_s: float = 0.0) -> bytes:
    """Everything that is answered until the gateway says that no more will come."""
    answer = b""

    async def send() -> None:
        with contextlib.suppress(anyio.BrokenResourceError):  # closed while we were still sending
            for part in parts:
                await stream.send(part.encode("latin-1"))
                await anyio.sleep(pause_s)

    async with await anyio.connect_tcp("127.0.0.1", running.port) as stream, anyio.create_task_group() as tasks:
        with anyio.fail_after(10):
            tasks.start_soon(send)
            async for more in stream:
                answer += more
        tasks.cancel_scope.cancel()
    return answer


def assert_refused(answer: bytes, status: int) -> None:
    """One answer, in the contract's shape, that says it is the last."""
    assert re.findall(rb"HTTP/1\.1 (\d{3}) ", answer) == [str(status).encode()], answer[:200]
    head, _, body = answer.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert (fields[b"content-type"], fields[b"connection"]) == (b"application/json", b"close")
    assert int(fields[b"content-length"]) == len(body)
    assert len(fields[b"x-request-id"]) >= 8
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(("status", "head"), HEADS.values(), ids=HEADS)
async def test_an_odd_head_is_refused_and_ends_the_connection(
    running: RunningGateway, first: ScriptedBackend, status: int, head: str
) -> None:
    """Before anything acts on it; nothing behind it is read."""
    assert_refused(await told(running, head), status)


async def test_what_follows_an_odd_head_is_not_read(running: RunningGateway) -> None:
    assert_refused(await told(running, f"{HEADS['two hosts'][1]}{SMUGGLED}"), 400)


async def test_a_large_head_in_small_pieces_is_refused(running: RunningGateway) -> None:
    """Its size is bounded before it is whole."""
    pieces = [HEALTH, "host: x\r\n", *(f"x-{n}: {'a' * 4 * KIB}\r\n" for n in range(10))]
    assert_refused(await told(running, *pieces, pause_s=0.01), 431)


@pytest.mark.parametrize("host", ["localhost", "a.example:8080", "127.0.0.1:1", "[::1]:8080", "gateway_1"])
async def test_every_sound_host_is_served(running: RunningGateway, host: str) -> None:
    answer = await told(running, f"{HEALTH}host: {host}\r\nconnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_an_old_load_balancers_check_needs_no_host(running: RunningGateway) -> None:
    """HTTP/1.0 knows no such field."""
    assert (await told(running, "GET /healthz HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_a_head_just_below_the_bounds_is_served(running: RunningGateway) -> None:
    fields = "".join(f"x-{n}: {'a' * 300}\r\n" for n in range(100))
    answer = await told(running, f"GET /healthz?{'a' * 2000} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_head_that_does_not_end_is_not_waited_for(hasty: RunningGateway) -> None:
    assert_refused(await told(hasty, HEALTH), 408)


async def test_a_head_that_dribbles_is_not_waited_for(hasty: RunningGateway) -> None:
    """Each further byte wins it no more time."""
    assert_refused(await told(hasty, HEALTH, *(f"x-{n}: a\r\n" for n in range(8)), pause_s=0.1), 408)


async def test_line_ends_between_requests_do_not_keep_a_connection(hasty: RunningGateway) -> None:
    assert await told(hasty, *["\r\n"] * 8, pause_s=0.1) == b""


async def test_the_rest_of_a_refused_body_is_not_waited_for_for_ever(hasty: RunningGateway) -> None:
    """The answer is one, and the connection is closed in the end although bytes go on coming."""
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n"
    answer = await told(hasty, head, *["{"] * 12, pause_s=0.1)
    assert re.findall(rb"HTTP/1\.1 (\d{3}) ", answer) == [b"401"]
