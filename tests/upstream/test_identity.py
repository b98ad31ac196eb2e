"""A credential with a life: fetched off the loop, renewed ahead of its end, lost only at its end. Clock by hand."""

import threading
from collections.abc import Callable, Iterator

import anyio
import pytest
import structlog
from botocore.exceptions import ClientError
from structlog.testing import capture_logs

from gateway.upstream.credentials import identity as module
from gateway.upstream.credentials.identity import CredentialLost, Grant, Identity, Unsigned, always, reason, rest_s
from gateway.upstream.credentials.static import CredentialUnusable
from tests.upstream.recording import Watched, eventually

CANARY = "canary-7c1e"
NOW = 1_000_000.0
REQUEST = Unsigned(method="GET", scheme="https", authority="a.example", target="/x", headers=(), body=b"")


def token(number: int, *, expires_at: float | None) -> Grant:
    return Grant(always([(b"authorization", f"Bearer {CANARY}-{number}".encode())]), expires_at)


class World:
    """A provider that answers as told, the time, and who was told of recoveries."""

    def __init__(self, *answers: Grant | Exception) -> None:
        self.answers = list(answers)
        self.threads: list[int] = []
        self.now = NOW
        self.watched = Watched()
        self.identity = Identity("cloud", self, wall=lambda: self.now)

    def fetch(self) -> Grant:
        """The next answer."""
        self.threads.append(threading.get_ident())
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def renew(self) -> float:
        """One fetch, with the least of the draws."""
        return await self.identity.renew(self.watched, lambda: 0.999999)

    @property
    def sent(self) -> str:
        """What a request would be sent with."""
        return self.identity.prove(REQUEST)[0][1].decode()


@pytest.fixture
def said() -> Iterator[list[structlog.typing.EventDict]]:
    """What was logged."""
    with capture_logs() as lines:
        yield lines


async def test_a_token_is_fetched_on_a_thread_and_then_sent() -> None:
    """Providers' libraries block; requests do not wait for them."""
    world = World(token(1, expires_at=NOW + 3600))
    await world.renew()
    assert world.sent == f"Bearer {CANARY}-1"
    assert world.threads != [threading.get_ident()]


async def test_renewing_begins_ten_minutes_before_the_end_and_the_next_requests_carry_the_new_token() -> None:
    world = World(token(1, expires_at=NOW + 3600), token(2, expires_at=NOW + 7200))
    rest = await world.renew()
    assert rest == pytest.approx(3000, rel=0.11)
    world.now += rest
    await world.renew()
    assert world.sent == f"Bearer {CANARY}-2"


async def test_a_failed_renewal_keeps_the_old_token_to_its_last_second() -> None:
    world = World(token(1, expires_at=NOW + 3600), OSError("gone"), OSError("gone"))
    await world.renew()
    world.now = NOW + 3000
    assert await world.renew() <= 2.0
    world.now = NOW + 3599.9
    assert world.sent == f"Bearer {CANARY}-1"
    world.now = NOW + 3600
    with pytest.raises(CredentialLost, match="credential of backend `cloud`: OSError"):
        _ = world.sent


async def test_a_loss_is_told_while_it_lasts_and_a_recovery_once() -> None:
    """Whoever routes leaves the backend out before a request fails there, and takes it in as soon as it can be."""
    world = World(
        token(1, expires_at=NOW + 60), OSError(), OSError(), OSError(), token(2, expires_at=NOW + 90), OSError()
    )
    told = []
    for later in (0, 50, 60, 65, 70, 80):
        world.now = NOW + later
        await world.renew()
        told.append(world.watched.told[:])
        world.watched.told.clear()
    assert told == [[], [], ["cloud lost"], ["cloud lost"], ["cloud restored"], []]


async def test_trouble_is_logged_once_in_our_words_and_with_no_secret(
    said: list[structlog.typing.EventDict],
) -> None:
    """A provider's sentence may quote what we sent: of it, only an error code is repeated."""
    world = World(
        ValueError(f"a_canary_like_a_word: invalid_client: AADSTS7000215 {CANARY}"),
        ValueError(CANARY),
        token(1, expires_at=NOW + 900),
    )
    for _ in range(3):
        await world.renew()
    assert [(line["event"], line.get("reason")) for line in said] == [
        ("credential.not_renewed", "ValueError invalid_client"),
        ("credential.recovered", None),
    ]
    assert CANARY not in str(said) + repr(world.identity) + repr(token(1, expires_at=None)) + repr(REQUEST)
    assert repr(world.identity.prove(REQUEST)) == "<secret headers: authorization>"


def test_awss_own_codes_are_told() -> None:
    """They say what to do: a role that may not be assumed, a clock that is wrong."""
    response = {"Error": {"Code": "ExpiredTokenException", "Message": f"The token {CANARY} has expired"}}
    assert reason(ClientError(response, "AssumeRoleWithWebIdentity")) == "ClientError ExpiredTokenException"


async def test_our_own_sentences_are_repeated() -> None:
    world = World(CredentialUnusable("no AWS credentials"))
    await world.renew()
    with pytest.raises(CredentialLost, match="no AWS credentials"):
        _ = world.sent


async def test_whoever_waits_for_the_first_fetch_is_called_once_whatever_comes_of_it() -> None:
    for answer in (token(1, expires_at=None), OSError()):
        world = World(answer, token(2, expires_at=None))
        called: list[bool] = []
        world.identity.when_known(lambda called=called, world=world: called.append(world.identity.is_known))  # type: ignore[misc]  # a default binds it now
        assert called == []
        await world.renew()
        await world.renew()
        assert called == [True]
        world.identity.when_known(lambda called=called: called.append(True))  # type: ignore[misc]  # as above
        assert called == [True, True]


async def test_a_provider_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread is left to itself; nobody waits for it."""
    monkeypatch.setattr(module, "FETCH_S", 0.01)
    let_go = threading.Event()

    class Hanging:
        def fetch(self) -> Grant:
            let_go.wait(5)
            raise OSError

    identity = Identity("cloud", Hanging())
    await identity.renew(Watched())
    with pytest.raises(CredentialLost, match="did not answer in time"):
        identity.prove(REQUEST)
    let_go.set()


async def test_it_runs_until_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetch, rest, fetch: the rest is what `rest_s` says."""
    monkeypatch.setattr(module, "rest_s", lambda *_: 0.0)
    world = World(token(1, expires_at=None), token(2, expires_at=None), token(3, expires_at=None))
    with anyio.move_on_after(5) as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.identity.run, world.watched)
            await eventually(lambda: not world.answers)
            scope.cancel()
    assert scope.cancelled_caught


RESTS: list[tuple[Grant | None, int, float, float]] = [
    # grant, failures in a row, the least and the most that is rested
    (token(1, expires_at=NOW + 3600), 0, 2700, 3000),
    (token(1, expires_at=NOW + 599), 0, 27, 30),  # near its end: the provider renews when it thinks best
    (token(1, expires_at=NOW + 20), 0, 9, 10),
    (token(1, expires_at=NOW - 5), 0, 0.9, 1),
    (token(1, expires_at=None), 0, 270, 330),
    (None, 1, 1, 2),
    (token(1, expires_at=NOW + 3600), 3, 4, 8),
    (None, 50, 30, 60),
]


@pytest.mark.parametrize(("grant", "failures", "least", "most"), RESTS)
@pytest.mark.parametrize("draw", [lambda: 0.0, lambda: 0.999999])
def test_how_long_it_rests(
    grant: Grant | None, failures: int, least: float, most: float, draw: Callable[[], float]
) -> None:
    assert least <= rest_s(grant, NOW, failures, draw) <= most
