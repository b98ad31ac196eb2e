"""What a transport tells of one request, for each way in which a backend may answer or fail to.

Past 350 lines because the table of broken answers is best read in one piece.
"""

import asyncio
import socket

import pytest

from gateway.domain.fault import FaultKind
from gateway.domain.wire import Headers, WireRequest
from gateway.upstream.transport import Destination, Transport
from tests.backends.scripted import End, Framing, Script, ScriptedBackend, black_hole
from tests.upstream.recording import POST, Recording, destination, eventually

OK = b"HTTP/1.1 200 OK\r\n"


def raw(*writes: bytes, end: End = "keep") -> Script:
    return Script(framing="raw", steps=[(0, data) for data in writes], end=end)


async def ask(transport: Transport, to: Destination, request: WireRequest = POST) -> Recording:
    recording = Recording()
    transport.send(to, request, recording)
    return await recording.end()


@pytest.mark.parametrize("framing", ["length", "chunked", "eof"])
async def test_an_answer_is_told_whole(
    transport: Transport, backend: ScriptedBackend, to: Destination, framing: Framing
) -> None:
    """Status, headers in lower case, body, end; for every way of framing a body."""
    backend.script(Script(status=418, headers=[("X-Tea", "Pot")], framing=framing, steps=[(0, b"one"), (0, b"two")]))
    told = await ask(transport, to)
    assert told.told == ["sent", "head", "data", "ended"]
    assert (told.status, told.body) == (418, b"onetwo")
    assert (b"x-tea", b"Pot") in told.headers


async def test_the_backend_sees_the_request_that_was_meant(transport: Transport, backend: ScriptedBackend) -> None:
    to = destination(backend.base_url, headers=[(b"authorization", b"Bearer k")])
    await ask(transport, to, WireRequest(method="POST", path="/chat/completions", body=b"x" * 300_000))
    seen = backend.requests[0]
    assert (seen.method, seen.path, seen.body) == ("POST", "/v1/chat/completions", b"x" * 300_000)
    assert seen.headers["authorization"] == "Bearer k"
    assert seen.headers["host"] == f"127.0.0.1:{backend.port}"


async def test_nothing_is_told_from_inside_send(transport: Transport, to: Destination) -> None:
    for _ in range(2):  # a new connection, then a kept one
        recording = Recording()
        transport.send(to, POST, recording)
        assert recording.told == []
        await recording.end()


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_body_ends_with_its_head(
    transport: Transport, backend: ScriptedBackend, to: Destination, status: int
) -> None:
    backend.script(raw(b"HTTP/1.1 %d Nothing\r\n\r\n" % status))
    told = await ask(transport, to)
    assert (told.told, told.status) == (["sent", "head", "ended"], status)


async def test_interim_answers_are_skipped(transport: Transport, backend: ScriptedBackend, to: Destination) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    backend.script(raw(interim + OK + b"content-length: 2\r\n\r\nhi"))
    told = await ask(transport, to)
    assert (told.status, told.headers, told.body) == (200, [(b"content-length", b"2")], b"hi")


async def test_what_one_read_brings_is_told_at_once(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    """However many HTTP chunks a read holds: 500 one-byte chunks are not 500 calls."""
    chunks = b"".join(b"1\r\n%c\r\n" % (97 + index % 26) for index in range(500))
    backend.script(raw(OK + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"))
    told = await ask(transport, to)
    assert len(told.body) == 500
    assert told.pieces < 10


class AtOnce(Recording):
    """Takes a whole answer, too."""

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Take note."""
        self.told.append("whole")
        self.status, self.headers, self.body = status, headers, body
        self._note("ended")


async def test_an_answer_of_one_read_is_told_at_once_to_whoever_takes_it_so(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    """And one of several reads piece by piece; the connection is kept after both."""
    head = OK + b"content-length: 3\r\n\r\n"
    for writes, told in (
        ([head + b"abc"], ["sent", "whole", "ended"]),
        ([head, b"abc"], ["sent", "head", "data", "ended"]),
    ):
        backend.script(Script(framing="raw", steps=[(0.02 * number, data) for number, data in enumerate(writes)]))
        asked = AtOnce()
        transport.send(to, POST, asked)
        await asked.end()
        assert (asked.told, asked.status, asked.body) == (told, 200, b"abc")
    assert backend.accepted == 1


async def test_any_split_of_an_answer_reads_the_same(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    answer = OK + b"x-a: b\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nt: 1\r\n\r\n"
    for cut in range(1, len(answer)):
        backend.script(Script(framing="raw", steps=[(0, answer[:cut]), (0.001, answer[cut:])]))
        told = await ask(transport, to)
        assert (told.told, told.body) == (["sent", "head", "data", "ended"], b"abc")
    assert backend.accepted == 1


@pytest.mark.parametrize(
    ("script", "kind", "told"),
    [
        pytest.param(raw(end="fin"), FaultKind.LOST, ["sent", "failed"], id="closed without a word"),
        pytest.param(raw(end="rst"), FaultKind.LOST, ["sent", "failed"], id="reset without a word"),
        pytest.param(raw(b"HTTP/1.1 200 O", end="fin"), FaultKind.LOST, ["sent", "failed"], id="closed in the head"),
        pytest.param(
            raw(OK + b"content-length: 9\r\n\r\nabc", end="fin"),
            FaultKind.LOST,
            ["sent", "head", "data", "failed"],
            id="closed before the length",
        ),
        pytest.param(
            raw(OK + b"content-length: 9\r\n\r\nabc", end="rst"),
            FaultKind.LOST,
            ["sent", "head", "data", "failed"],
            id="reset before the length",
        ),
        pytest.param(
            raw(OK + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", end="fin"),
            FaultKind.LOST,
            ["sent", "head", "data", "failed"],
            id="no terminal chunk",
        ),
        pytest.param(
            raw(OK + b"\r\nabc", end="rst"), FaultKind.LOST, ["sent", "head", "data", "failed"], id="endless body reset"
        ),
        pytest.param(raw(b"<html>no</html>"), FaultKind.PROTOCOL, ["sent", "failed"], id="not HTTP"),
        pytest.param(raw(OK + b"x: a\nb: c\r\n\r\n"), FaultKind.PROTOCOL, ["sent", "failed"], id="bare line feed"),
        pytest.param(raw(OK + b"x: a\r\n b\r\n\r\n"), FaultKind.PROTOCOL, ["sent", "failed"], id="folded header"),
        pytest.param(raw(OK + b"x: a\x00\r\n\r\n"), FaultKind.PROTOCOL, ["sent", "failed"], id="NUL in a header"),
        pytest.param(
            raw(OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab"),
            FaultKind.PROTOCOL,
            ["sent", "failed"],
            id="two lengths",
        ),
        pytest.param(
            raw(OK + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
            FaultKind.PROTOCOL,
            ["sent", "failed"],
            id="length and chunks",
        ),
        pytest.param(
            raw(OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            FaultKind.PROTOCOL,
            ["sent", "failed"],
            id="compressed transfer",
        ),
        pytest.param(
            raw(OK + b"content-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc"),
            FaultKind.PROTOCOL,
            ["sent", "failed"],
            id="compressed content",
        ),
        pytest.param(
            raw(b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"),
            FaultKind.PROTOCOL,
            ["sent", "failed"],
            id="protocol switch",
        ),
        pytest.param(
            raw(OK + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n"),
            FaultKind.PROTOCOL,
            ["sent", "head", "data", "failed"],
            id="broken chunk after a good one",
        ),
        pytest.param(raw(OK + b"x: " + b"a" * 70_000), FaultKind.PROTOCOL, ["sent", "failed"], id="endless header"),
        pytest.param(
            raw(OK + b"x: " + b"a" * 70_000 + b"\r\ncontent-length: 2\r\n\r\nhi"),
            FaultKind.PROTOCOL,
            ["sent", "failed"],
            id="large head",
        ),
        pytest.param(
            raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 4000), FaultKind.PROTOCOL, ["sent", "failed"], id="endless interim"
        ),
        pytest.param(
            raw(OK + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", b"t: " + b"a" * 1_000_000),
            FaultKind.PROTOCOL,
            ["sent", "head", "data", "failed"],
            id="endless trailer",
        ),
    ],
)
async def test_a_broken_answer_is_a_fault(
    transport: Transport, backend: ScriptedBackend, to: Destination, *, script: Script, kind: FaultKind, told: list[str]
) -> None:
    """What was good before the break is told, then the fault; the connection is not used again."""
    backend.script(script)
    recording = await ask(transport, to)
    assert (recording.kind, recording.told) == (kind, told)
    await eventually(lambda: repr(transport) == "Transport()")


async def test_a_refused_connection_is_told_before_anything_is_sent(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    backend.refuse()
    recording = await ask(transport, to)
    assert (recording.kind, recording.told) == (FaultKind.CONNECT, ["failed"])
    assert recording.fault is not None
    assert recording.fault.message == "the connection was refused"
    assert repr(transport) == "Transport()"


async def test_aborting_a_connect_that_never_ends_frees_its_place(transport: Transport) -> None:
    async with black_hole() as base_url:
        recording = Recording()
        call = transport.send(destination(base_url), POST, recording)
        assert repr(transport) == "Transport(worker: 0 busy, 0 idle, 1 connecting, 0 waiting)"
        await asyncio.sleep(0)
        call.abort()
        await eventually(lambda: repr(transport) == "Transport()")
        assert recording.told == []


async def test_aborting_closes_the_connection_and_silences_the_receiver(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    """While the backend is silent, too: it sees our close at once (F3)."""
    backend.script(Script(framing="raw", end="hang"))
    recording = Recording()
    call = transport.send(to, POST, recording)
    await backend.wait_requests(1)
    call.abort()
    call.abort()
    await backend.wait_closed(1)
    assert recording.told == ["sent"]
    assert repr(transport) == "Transport()"


async def test_aborting_after_the_end_leaves_the_connection_to_others(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    first = Recording()
    call = transport.send(to, POST, first)
    await first.end()
    call.abort()
    call.pause()
    call.resume()
    await ask(transport, to)
    assert backend.accepted == 1


@pytest.mark.parametrize("event", ["sent", "head", "data"])
async def test_aborting_from_inside_a_callback_is_the_last_that_is_told(
    transport: Transport, backend: ScriptedBackend, to: Destination, event: str
) -> None:
    backend.script(raw(OK + b"content-length: 3\r\n\r\nabc"))
    recording = Recording()
    call = transport.send(to, POST, recording)
    recording.then = lambda what: call.abort() if what == event else None
    await backend.wait_closed(1)
    assert recording.told[-1] == event


async def test_a_call_may_be_followed_by_another_from_inside_its_end(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    """And uses the connection that just became free."""
    second = Recording()

    def follow(what: str) -> None:
        if what == "ended":
            transport.send(to, POST, second)

    first = Recording(then=follow)
    transport.send(to, POST, first)
    await first.end()
    await second.end()
    assert [request.connection for request in backend.requests] == [0, 0]


async def test_a_paused_answer_holds_the_backend_back(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    """Nothing is read ahead while paused; after resuming everything comes."""
    backend.script(Script(framing="length", steps=[(0, b"a" * 4_000_000)]))
    recording = Recording()
    call = transport.send(to, POST, recording)
    recording.then = lambda what: call.pause() if what == "data" else None
    await recording.until(lambda: bool(recording.body))
    held = len(recording.body)
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert len(recording.body) == held < 4_000_000
    recording.then = lambda _: None
    call.resume()
    await recording.end()
    assert recording.body == b"a" * 4_000_000


async def test_a_call_paused_before_it_is_sent_reads_nothing_until_resumed(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    recording = Recording()
    call = transport.send(to, POST, recording)
    call.pause()
    await recording.until(lambda: "sent" in recording.told)
    await backend.wait_until(lambda: bool(backend.requests) and backend.requests[0].answered)
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert recording.told == ["sent"]
    call.resume()
    await recording.end()


async def test_an_early_answer_to_a_request_still_being_written_closes_the_connection(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    """What is left of the request would run into the next one."""
    backend.script(Script(status=413, read_body=False, steps=[(0, b"too large")]))
    told = await ask(transport, to, WireRequest(method="POST", path="/x", body=b"x" * 20_000_000))
    assert (told.status, told.told[-1]) == (413, "ended")
    assert repr(transport) == "Transport()"


async def test_a_large_body_leaves_without_delay(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    """Nagle's algorithm is off."""
    recording = Recording()
    call = transport.send(to, POST, recording)
    await recording.until(lambda: "sent" in recording.told)
    sock = call.connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]  # no public way to the socket
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    await recording.end()


async def test_a_name_with_a_refused_address_is_not_dialled(backend: ScriptedBackend) -> None:
    """The check is at connect time and sees every address."""

    async def lookup(host: str, port: int) -> list[str]:
        await asyncio.sleep(0)
        return ["127.0.0.1", "169.254.169.254"]

    transport = Transport(resolver=lookup)
    told = await ask(transport, destination(f"http://metadata.example:{backend.port}/v1"))
    assert told.kind is FaultKind.CONNECT
    assert told.fault is not None
    assert "169.254.169.254, which is a metadata service" in told.fault.message
    assert backend.accepted == 0
    await transport.aclose()


async def test_another_address_is_tried_when_the_first_does_not_take_us(backend: ScriptedBackend) -> None:
    async def lookup(host: str, port: int) -> list[str]:
        await asyncio.sleep(0)
        return ["127.0.0.2", "127.0.0.1"]

    transport = Transport(resolver=lookup)
    told = await ask(transport, destination(f"http://two.example:{backend.port}/v1"))
    assert told.status == 200
    assert backend.requests[0].headers["host"] == f"two.example:{backend.port}"
    await transport.aclose()


async def test_a_hanging_resolver_is_left_by_aborting() -> None:
    async def lookup(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    transport = Transport(resolver=lookup)
    recording = Recording()
    call = transport.send(destination("http://slow.example:8000/v1"), POST, recording)
    await asyncio.sleep(0)
    call.abort()
    await eventually(lambda: repr(transport) == "Transport()")
    await transport.aclose()
    assert recording.told == []


async def test_a_bad_request_raises_and_takes_no_place(transport: Transport, to: Destination) -> None:
    with pytest.raises(ValueError, match="control character"):
        transport.send(
            to, WireRequest(method="POST", path="/x", headers=[(b"content-type", b"a\r\nb: c")]), Recording()
        )
    assert repr(transport) == "Transport()"
