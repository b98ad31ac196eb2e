"""A drill in front of the transport: what each fault tells whoever sent, what the backend sees, and that it ends."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from gateway.dialects import upstream_dialect
from gateway.domain.fault import FaultKind
from gateway.upstream.drilling import MOST_READS, SLOWER, Behalf, DrillFault, Drilling, Strike
from gateway.upstream.transport import Destination, Transport
from tests.backends.scripted import Script, ScriptedBackend
from tests.upstream.recording import POST, Recording, eventually

ANSWER = Script(steps=[(0, b"first"), (0.02, b"second")], framing="chunked")

TICK_S = 0.002
"""uvloop tells the time in whole milliseconds."""


@dataclass(slots=True)
class Ours(Recording):
    """A receiver that knows for whom it receives."""

    tenant: str = "acme"
    model: str = "assistant"

    def on_behalf(self) -> Behalf:
        """For whom."""
        return Behalf("x", 1, self.tenant, self.model)


def drilling(
    transport: Transport,
    fault: DrillFault,
    *,
    tenant: str | None = None,
    model: str | None = None,
    part: float = 1.0,
    ends_in_s: float = 60.0,
    draw: Callable[[], float] = lambda: 0.5,
    struck: Callable[[Behalf, str], None] = lambda _behalf, _backend: None,
) -> Drilling:
    ends_at = asyncio.get_running_loop().time() + ends_in_s
    strike = Strike(fault=fault, tenant=tenant, model=model, part=part, ends_at=ends_at)
    return Drilling(strike, transport.send, backends=frozenset({"worker"}), draw=draw, struck=struck)


@pytest.mark.parametrize(
    ("fault", "told", "kind", "reaches"),
    [
        ("refuse", ["failed"], FaultKind.CONNECT, False),
        ("rate_limit", ["sent", "head", "data", "ended"], None, False),
        ("cut", ["sent", "head", "data", "failed"], FaultKind.LOST, True),
        ("slow", ["sent", "head", "data", "ended"], None, True),
    ],
)
async def test_what_a_fault_tells(  # noqa: PLR0917  # a table
    transport: Transport,
    backend: ScriptedBackend,
    to: Destination,
    fault: DrillFault,
    told: list[str],
    kind: FaultKind | None,
    reaches: bool,
) -> None:
    """In the order that a transport promises, and never from inside `send`; some reach the backend, some do not."""
    backend.script(ANSWER)
    heard: list[tuple[Behalf, str]] = []
    recording = Ours()
    drilling(transport, fault, struck=lambda behalf, name: heard.append((behalf, name))).send(to, POST, recording)
    assert recording.told == []
    await recording.end()
    assert (recording.told, recording.kind) == (told, kind)
    assert len(backend.requests) == int(reaches)
    assert heard == [(recording.on_behalf(), "worker")]


async def test_a_hang_lasts_until_the_drill_ends(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    """The request counts as sent, nothing comes; then it is as if the connection broke."""
    drill, recording = drilling(transport, "hang"), Recording()
    drill.send(to, POST, recording)
    await recording.until(lambda: recording.told == ["sent"])
    drill.end()
    drill.end()
    assert (recording.told, recording.kind) == (["sent", "failed"], FaultKind.LOST)
    assert backend.requests == []


@pytest.mark.parametrize("fault", ["refuse", "hang", "slow", "rate_limit", "cut"])
async def test_who_gives_up_is_told_nothing_more(
    transport: Transport, backend: ScriptedBackend, to: Destination, fault: DrillFault
) -> None:
    """Neither then nor when the drill ends."""
    backend.script(Script(end="hang"))
    drill, recording = drilling(transport, fault), Recording()
    call = drill.send(to, POST, recording)
    call.pause()
    call.abort()
    call.resume()
    call.abort()
    drill.end()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert recording.told == []


@pytest.mark.parametrize("dialect", ["anthropic", "bedrock", "gemini", "openai"])
async def test_every_dialect_understands_the_429(transport: Transport, to: Destination, dialect: str) -> None:
    """As a limit that is over in a second."""
    recording = Recording()
    drilling(transport, "rate_limit").send(to, POST, recording)
    await recording.end()
    fault = upstream_dialect(dialect).decode_fault(recording.status, recording.headers, recording.body)
    assert (fault.kind, fault.retry_after_s) == (FaultKind.RATE_LIMITED, 1.0)


async def test_a_slow_answer_takes_ten_times_as_long(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    """Each part of it, and its end; until the drill is over, from when on nothing waits."""
    delay_s, loop = 0.02, asyncio.get_running_loop()
    backend.default = Script(head_delay_s=delay_s, steps=[(0, b"one"), (delay_s, b"two")], framing="chunked")
    drill, recording = drilling(transport, "slow"), Recording()
    began = loop.time()
    drill.send(to, POST, recording)
    await recording.until(lambda: recording.body == b"one")
    assert loop.time() - began >= delay_s * SLOWER - TICK_S
    await recording.end()
    assert (recording.body, loop.time() - began >= 2 * delay_s * SLOWER - TICK_S) == (b"onetwo", True)

    released = Recording()
    drill.send(to, POST, released)
    await eventually(lambda: len(backend.requests) > 1 and backend.requests[1].answered)
    drill.end()
    await released.end()
    assert released.body == b"onetwo"


async def test_a_long_answer_is_cut_after_some_reads(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    """The backend is hung up on, and what came is a beginning of what it said."""
    pieces = [b"piece %d " % number for number in range(100)]
    backend.script(Script(steps=[(0.002, piece) for piece in pieces], framing="chunked"))
    recording = Recording()
    drilling(transport, "cut").send(to, POST, recording)
    await recording.end()
    assert recording.kind is FaultKind.LOST
    assert b"".join(pieces).startswith(recording.body)
    assert len(pieces[0]) < len(recording.body) <= len(pieces[0]) * (MOST_READS + 2) * 2
    await backend.wait_closed(1)


async def test_an_answer_that_was_to_be_cut_is_whole_when_the_drill_ends(
    transport: Transport, backend: ScriptedBackend, to: Destination
) -> None:
    """What was held back of it comes, and the rest as it is."""
    backend.script(Script(steps=[(0, b"held back"), (0.05, b" and the rest")], framing="chunked"))
    drill, recording = drilling(transport, "cut"), Recording()
    drill.send(to, POST, recording)
    await recording.until(lambda: bool(recording.body))
    assert recording.body == b"held"
    drill.end()
    await recording.end()
    assert (recording.body, recording.kind) == (b"held back and the rest", None)


@pytest.mark.parametrize(
    ("wanted", "is_struck"),
    [
        ({}, True),
        ({"tenant": "acme"}, True),
        ({"tenant": "other"}, False),
        ({"model": "assistant"}, True),
        ({"model": "other"}, False),
        ({"tenant": "acme", "model": "other"}, False),
        ({"part": 0.5, "draw": lambda: 0.49}, True),
        ({"part": 0.5, "draw": lambda: 0.5}, False),
        ({"ends_in_s": 0.0}, False),
    ],
)
async def test_only_whom_it_is_for_is_struck(
    transport: Transport, to: Destination, wanted: dict[str, object], is_struck: bool
) -> None:
    """By tenant, public model, part of the calls; nobody once its time is over, though nobody ended it."""
    recording = Ours()
    drilling(transport, "refuse", **wanted).send(to, POST, recording)  # type: ignore[arg-type]  # a table
    await recording.end()
    assert (recording.kind is FaultKind.CONNECT) is is_struck


@pytest.mark.parametrize("scope", [{}, {"tenant": "acme"}, {"model": "assistant"}])
async def test_a_look_at_a_backend_is_struck_with_everybody(
    transport: Transport, to: Destination, scope: dict[str, str]
) -> None:
    """An outage for one tenant alone is not one that a look would see."""
    heard: list[object] = []
    recording = Recording()
    drill = drilling(transport, "refuse", struck=lambda behalf, _name: heard.append(behalf), **scope)  # type: ignore[arg-type]  # a table
    drill.send(to, POST, recording)
    await recording.end()
    assert (recording.kind is FaultKind.CONNECT) is (not scope)
    assert heard == []


async def test_other_backends_are_not_struck(transport: Transport, to: Destination) -> None:
    """They are not the drill's."""
    drill, recording = drilling(transport, "refuse"), Ours()
    drill.backends = frozenset({"other"})
    drill.send(to, POST, recording)
    await recording.end()
    assert recording.told[-1] == "ended"
