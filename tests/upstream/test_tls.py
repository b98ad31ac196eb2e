"""TLS to backends: verified by default, and refused in every way in which it can be wrong (fault F20)."""

import shutil
from pathlib import Path

import pytest

from gateway import upstream
from gateway.domain.fault import FaultKind
from gateway.upstream.transport import Transport
from tests.backends.authority import Authority
from tests.backends.scripted import Script, scripted_backend
from tests.upstream.recording import POST, Recording, destination, eventually

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is needed to make certificates")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One authority for the tests of this file."""
    return Authority(tmp_path_factory.mktemp("ca"))


async def loopback(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


async def ask(transport: Transport, base_url: str) -> Recording:
    recording = Recording()
    transport.send(destination(base_url), POST, recording)
    return await recording.end()


async def test_a_verified_connection_is_kept_and_dials_the_checked_address(authority: Authority) -> None:
    """The certificate is checked against the name, while the address dialled is the one that was checked."""
    transport = Transport(ssl_context=authority.trusted(), resolver=loopback)
    async with scripted_backend(tls=authority.server("api.example")) as backend:
        for _ in range(3):
            told = await ask(transport, f"https://api.example:{backend.port}/v1")
            assert (told.status, told.told[-1]) == (200, "ended")
        assert backend.accepted == 1
        assert backend.requests[0].headers["host"] == f"api.example:{backend.port}"
        await transport.aclose()


async def test_a_body_that_ends_with_the_connection_ends_over_tls_too(authority: Authority) -> None:
    transport = Transport(ssl_context=authority.trusted(), resolver=loopback)
    async with scripted_backend(tls=authority.server("api.example")) as backend:
        backend.script(Script(framing="eof", steps=[(0, b"all")]))
        told = await ask(transport, f"https://api.example:{backend.port}/v1")
        assert (told.body, told.told[-1]) == (b"all", "ended")
        await transport.aclose()


@pytest.mark.parametrize(
    ("name", "days", "is_trusted", "message"),
    [
        ("other.example", 2, True, "Hostname mismatch"),
        ("api.example", -1, True, "certificate has expired"),
        ("api.example", 2, False, "unable to get local issuer certificate"),
    ],
)
async def test_a_wrong_certificate_is_a_connect_fault(
    authority: Authority, *, name: str, days: int, is_trusted: bool, message: str
) -> None:
    """Not one byte of the request is sent, and the reason is told."""
    transport = Transport(ssl_context=authority.trusted() if is_trusted else None, resolver=loopback)
    async with scripted_backend(tls=authority.server(name, days=days)) as backend:
        told = await ask(transport, f"https://api.example:{backend.port}/v1")
        assert (told.kind, told.told) == (FaultKind.TLS, ["failed"])
        assert told.fault is not None
        assert message in told.fault.message
        assert backend.requests == []
        assert repr(transport) == "Transport()"
        await transport.aclose()


async def test_a_handshake_that_stalls_is_left_by_aborting(authority: Authority) -> None:
    """A server that takes the client's hello and says nothing."""
    transport = Transport(ssl_context=authority.trusted(), resolver=loopback)
    async with scripted_backend() as backend:
        recording = Recording()
        call = transport.send(destination(f"https://api.example:{backend.port}/v1"), POST, recording)
        await backend.wait_until(lambda: backend.accepted == 1)
        call.abort()
        await backend.wait_closed(1)
        await eventually(lambda: repr(transport) == "Transport()")
        assert recording.told == []
        await transport.aclose()


async def test_an_answer_in_plain_text_is_a_connect_fault(authority: Authority) -> None:
    transport = Transport(ssl_context=authority.trusted(), resolver=loopback)
    async with scripted_backend() as backend:
        backend.accept_delay_s = 0.01
        recording = Recording()
        transport.send(destination(f"https://api.example:{backend.port}/v1"), POST, recording)
        await backend.wait_until(lambda: backend.open == 1)
        next(iter(backend._connections)).transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await recording.end()
        assert (recording.kind, recording.told) == (FaultKind.TLS, ["failed"])
        await transport.aclose()


def test_verification_cannot_be_switched_off() -> None:
    """No code in this room knows how to (security row L6)."""
    room = Path(upstream.__file__).parent
    for source in room.glob("*.py"):
        text = source.read_text()
        assert not any(word in text for word in ("CERT_NONE", "check_hostname", "verify=False", "_unverified"))
