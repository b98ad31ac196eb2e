"""Which connection serves which call: reuse, limits, waiting, idle ages, stale connections, closing."""

import asyncio

import pytest

from gateway.domain.fault import FaultKind, Recourse
from gateway.upstream.transport import Destination, Transport
from tests.backends.scripted import Script, ScriptedBackend, black_hole
from tests.upstream.recording import POST, Recording, destination, eventually

HANG = Script(framing="raw", end="hang")


async def ask(transport: Transport, to: Destination) -> Recording:
    recording = Recording()
    transport.send(to, POST, recording)
    return await recording.end()


async def test_a_connection_is_kept_and_used_again(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    for _ in range(5):
        await ask(transport, to)
    assert backend.accepted == 1
    assert repr(transport) == "Transport(worker: 0 busy, 1 idle, 0 connecting, 0 waiting)"


async def test_the_connection_used_last_is_used_first(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    """So that the connections of a burst may grow old."""
    backend.script(Script(head_delay_s=0.05), Script())
    slow, quick = Recording(), Recording()
    transport.send(to, POST, slow)
    transport.send(to, POST, quick)
    await slow.end()
    await quick.end()
    slow_one = backend.requests[0].connection
    await ask(transport, to)
    assert backend.requests[2].connection == slow_one


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(Script(headers=[("connection", "close")]), id="connection: close"),
        pytest.param(Script(framing="eof", steps=[(0, b"x")]), id="ended by closing"),
        pytest.param(
            Script(framing="raw", steps=[(0, b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx")]), id="HTTP/1.0"
        ),
        pytest.param(
            Script(framing="raw", steps=[(0, b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n")]),
            id="a second answer",
        ),
        pytest.param(
            Script(framing="raw", steps=[(0, b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxyz")]),
            id="bytes after the answer",
        ),
        pytest.param(
            Script(
                framing="raw",
                steps=[
                    (0, b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\ny")
                ],
            ),
            id="a whole second answer",
        ),
    ],
)
async def test_a_connection_that_cannot_be_trusted_further_is_closed_after_its_answer(
    transport: Transport, backend: ScriptedBackend, to: Destination, script: Script
) -> None:
    """The answer itself is good; nothing of a second one is told."""
    backend.script(script)
    first = await ask(transport, to)
    assert first.told[-1] == "ended"
    assert first.body in {b"", b"x"}
    assert repr(transport) == "Transport()"
    await ask(transport, to)
    assert backend.accepted == 2


async def test_unasked_bytes_close_a_kept_connection(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    """Else they would be taken for the answer to whoever comes next."""
    await ask(transport, to)
    next(iter(backend._connections)).transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    await backend.wait_closed(1)
    assert repr(transport) == "Transport()"


async def test_a_kept_connection_that_the_backend_closes_is_forgotten(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    await ask(transport, to)
    backend.close_connections()
    await eventually(lambda: repr(transport) == "Transport()")
    assert (await ask(transport, to)).told[-1] == "ended"


async def test_a_kept_connection_that_dies_before_its_answer_is_stale(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    """The same on a new connection means something else: there the backend took the request (LOST)."""
    await ask(transport, to)
    backend.script(Script(framing="raw", end="rst"))
    told = await ask(transport, to)
    assert told.kind is FaultKind.STALE
    assert told.fault is not None
    assert told.fault.recourse is Recourse.SAME_ONCE


async def test_a_connection_found_closed_when_it_should_take_a_request_is_stale(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    """The close and the send cross on the wire: whenever it is noticed, the call is told once and may try again."""
    kinds = set()
    for _ in range(30):
        await ask(transport, to)
        backend.close_connections()
        await asyncio.sleep(0)
        told = await ask(transport, to)
        kinds.add(told.kind)
    assert FaultKind.STALE in kinds
    assert kinds <= {None, FaultKind.STALE}


async def test_a_stale_connection_takes_the_older_ones_with_it(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    """A retry lands on a new connection, not on the next dead one."""
    for _ in range(3):
        backend.script(Script(head_delay_s=0.03))
    burst = [Recording() for _ in range(3)]
    for recording in burst:
        transport.send(to, POST, recording)
    for recording in burst:
        await recording.end()
    assert repr(transport) == "Transport(worker: 0 busy, 3 idle, 0 connecting, 0 waiting)"
    backend.script(Script(framing="raw", end="rst"))
    assert (await ask(transport, to)).kind is FaultKind.STALE
    assert repr(transport) == "Transport()"
    await ask(transport, to)
    assert backend.requests[-1].connection == 3


async def test_connections_grow_old(backend: ScriptedBackend, to: Destination) -> None:
    transport = Transport(idle_s=0.05)
    await ask(transport, to)
    await backend.wait_closed(1)
    assert repr(transport) == "Transport()"
    await transport.aclose()


async def test_calls_beyond_the_limit_wait_in_order(backend: ScriptedBackend, to: Destination) -> None:
    transport = Transport(connections_per_backend=2)
    backend.default = Script(head_delay_s=0.01)
    order: list[int] = []

    def note(index: int, what: str) -> None:
        if what == "sent":
            order.append(index)

    recordings = [Recording(then=lambda what, index=index: note(index, what)) for index in range(4)]  # type: ignore[misc]  # mypy cannot type a default
    for recording in recordings:
        transport.send(to, POST, recording)
    assert repr(transport) == "Transport(worker: 0 busy, 0 idle, 2 connecting, 2 waiting)"
    for recording in recordings:
        await recording.end()
    assert order[2:] == [2, 3]
    assert backend.accepted == 2
    await transport.aclose()


async def test_the_queue_is_bounded(backend: ScriptedBackend, to: Destination) -> None:
    transport = Transport(connections_per_backend=1)
    backend.script(HANG)
    recordings = [Recording() for _ in range(3)]
    for recording in recordings:
        transport.send(to, POST, recording)
        assert recording.told == []
    await recordings[2].end()
    assert recordings[2].kind is FaultKind.SATURATED
    assert recordings[2].told == ["failed"]
    await transport.aclose()


async def test_aborting_frees_a_place_for_whoever_waits(backend: ScriptedBackend, to: Destination) -> None:
    """Whether the aborted call was sent, or was waiting itself."""
    transport = Transport(connections_per_backend=1)
    backend.script(HANG)
    recordings = [Recording() for _ in range(2)]
    calls = [transport.send(to, POST, recording) for recording in recordings]
    await recordings[0].until(lambda: "sent" in recordings[0].told)
    calls[0].abort()
    await recordings[1].end()
    assert recordings[1].status == 200

    backend.script(HANG)
    calls = [transport.send(to, POST, Recording()) for _ in range(2)]
    calls[1].abort()
    assert repr(transport) == "Transport(worker: 1 busy, 0 idle, 0 connecting, 0 waiting)"
    await transport.aclose()


async def test_a_failed_connect_lets_the_next_one_try(backend: ScriptedBackend, to: Destination) -> None:
    transport = Transport(connections_per_backend=1)
    backend.refuse()
    recordings = [Recording() for _ in range(2)]
    for recording in recordings:
        transport.send(to, POST, recording)
    for recording in recordings:
        await recording.end()
        assert recording.kind is FaultKind.CONNECT
    assert repr(transport) == "Transport()"
    await transport.aclose()


async def test_a_call_aborted_before_its_turn_leaves_the_kept_connection_untouched(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    await ask(transport, to)
    recording = Recording()
    transport.send(to, POST, recording).abort()
    assert repr(transport) == "Transport(worker: 0 busy, 1 idle, 0 connecting, 0 waiting)"
    await ask(transport, to)
    assert recording.told == []
    assert (backend.accepted, len(backend.requests)) == (1, 2)


async def test_one_bad_backend_takes_no_place_from_another(backend: ScriptedBackend, to: Destination) -> None:
    transport = Transport(connections_per_backend=1)
    async with black_hole() as base_url:
        bad = transport.send(destination(base_url, name="bad"), POST, Recording())
        assert (await ask(transport, to)).status == 200
        bad.abort()
    await transport.aclose()


async def test_a_changed_credential_keeps_the_connections(transport: Transport, backend: ScriptedBackend) -> None:
    for key in (b"old", b"new"):
        await ask(transport, destination(backend.base_url, headers=[(b"x-api-key", key)]))
    assert [request.headers["x-api-key"] for request in backend.requests] == ["old", "new"]
    assert backend.accepted == 1


async def test_closing_tells_every_call_and_closes_every_connection(backend: ScriptedBackend, to: Destination) -> None:
    """Those sent are lost, those not sent never were; later ones are refused; nothing stays open."""
    transport = Transport(connections_per_backend=2)
    await ask(transport, to)
    backend.script(HANG)
    sent = Recording()
    transport.send(to, POST, sent)
    await sent.until(lambda: "sent" in sent.told)
    async with black_hole() as base_url:
        connecting = Recording()
        transport.send(destination(base_url, name="hole"), POST, connecting)
        await asyncio.sleep(0)
        await transport.aclose()
        await transport.aclose()
    later = Recording()
    transport.send(to, POST, later)
    assert later.told == []
    assert [(await told.end()).kind for told in (sent, connecting, later)] == [
        FaultKind.LOST,
        FaultKind.CONNECT,
        FaultKind.CONNECT,
    ]
    await backend.wait_until(lambda: backend.open == 0)
    assert repr(transport) == "Transport()"
