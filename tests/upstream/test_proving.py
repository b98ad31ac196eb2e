"""Requests whose sender is proved anew each time: they wait for the first fetch, and fail honestly without one."""

import pytest

from gateway.domain.fault import FaultKind
from gateway.upstream.credentials.identity import Grant, Identity, always
from gateway.upstream.destination import Destination, parse_destination
from gateway.upstream.transport import Transport
from tests.backends.scripted import ScriptedBackend
from tests.upstream.recording import POST, Recording, Watched

TOKEN = b"Bearer canary-41aa"


class Provider:
    """Gives a token, or fails."""

    def __init__(self) -> None:
        self.fails = False
        self.token = TOKEN

    def fetch(self) -> Grant:
        """The token."""
        if self.fails:
            raise OSError
        return Grant(always([(b"authorization", self.token)]), None)


@pytest.fixture
def provider() -> Provider:
    """One that is sound."""
    return Provider()


@pytest.fixture
def identity(provider: Provider) -> Identity:
    """A credential that was not fetched yet."""
    return Identity("cloud", provider)


@pytest.fixture
def to(backend: ScriptedBackend, identity: Identity) -> Destination:
    """The backend, to which requests go with that credential."""
    return parse_destination("cloud", backend.base_url, allow_private=True, identity=identity)


async def renew(identity: Identity) -> None:
    await identity.renew(Watched())


async def test_a_request_before_the_first_fetch_waits_for_it(
    transport: Transport, to: Destination, identity: Identity, backend: ScriptedBackend
) -> None:
    """It is in nobody's way: no connection, no place taken."""
    waiting = [Recording() for _ in range(3)]
    calls = [transport.send(to, POST, recording) for recording in waiting]
    calls[1].abort()
    assert backend.accepted == 0
    await renew(identity)
    await waiting[0].end()
    await waiting[2].end()
    assert waiting[1].told == []
    assert [seen.headers["authorization"] for seen in backend.requests] == [TOKEN.decode()] * 2
    assert transport._unproven == set()  # Nothing of them is kept.


async def test_a_lost_credential_is_told_as_what_ejects_it(
    transport: Transport, to: Destination, identity: Identity, provider: Provider, backend: ScriptedBackend
) -> None:
    """Waiting or not, never from inside `send`; and the backend hears nothing."""
    provider.fails = True
    waited, late = Recording(), Recording()
    transport.send(to, POST, waited)
    await renew(identity)
    transport.send(to, POST, late)
    assert late.told == []
    for recording in (await waited.end(), await late.end()):
        assert recording.told == ["failed"]
        assert recording.fault is not None
        assert (recording.fault.kind, recording.fault.effect.ejects) == (FaultKind.AUTH, "credential")
        assert recording.fault.message == "credential of backend `cloud`: OSError"
    assert backend.accepted == 0
    assert repr(transport) == "Transport()"


async def test_a_renewed_credential_is_used_from_the_next_request_on(
    transport: Transport, to: Destination, identity: Identity, provider: Provider, backend: ScriptedBackend
) -> None:
    """On the connections that are there."""
    for token in (TOKEN, b"Bearer second"):
        provider.token = token
        await renew(identity)
        recording = Recording()
        transport.send(to, POST, recording)
        await recording.end()
    assert [seen.headers["authorization"] for seen in backend.requests] == [TOKEN.decode(), "Bearer second"]
    assert backend.accepted == 1


async def test_a_token_that_would_break_the_framing_is_not_sent(
    transport: Transport, to: Destination, identity: Identity, provider: Provider, backend: ScriptedBackend
) -> None:
    provider.token = TOKEN + b"\r\nx: y"
    await renew(identity)
    recording = Recording()
    transport.send(to, POST, recording)
    await recording.end()
    assert recording.kind is FaultKind.AUTH
    assert "canary" not in str(recording.fault)
    assert backend.accepted == 0


async def test_closing_ends_what_waits(transport: Transport, to: Destination) -> None:
    recording = Recording()
    transport.send(to, POST, recording)
    await transport.aclose()
    assert recording.kind is FaultKind.CONNECT
