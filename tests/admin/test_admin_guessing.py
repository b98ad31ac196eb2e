"""Who guesses admin keys is told to wait."""

import httpx
import pytest
from litestar import Litestar, Router, get

from gateway.api.admin.auth import Gatekeeper, guard, needs
from gateway.api.admin.problems import HANDLERS
from gateway.control.state import State
from gateway.domain.errors import RateLimited, Unauthenticated
from tests.admin.conftest import OWNER


class Clock:
    """A clock that stands until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


def guess(gatekeeper: Gatekeeper, peer: str = "10.0.0.1", key: str = "wrong") -> type[Exception] | None:
    try:
        gatekeeper.identify(peer, f"Bearer {key}")
    except (RateLimited, Unauthenticated) as error:
        return type(error)
    return None


def test_ten_wrong_keys_close_the_door_for_a_minute() -> None:
    """To that peer alone; even the right key is not looked at then."""
    clock = Clock()
    gatekeeper = Gatekeeper(OWNER, State, clock)
    assert [guess(gatekeeper) for _ in range(12)] == [Unauthenticated] * 10 + [RateLimited] * 2
    assert guess(gatekeeper, key=OWNER) is RateLimited
    assert guess(gatekeeper, "10.0.0.2", OWNER) is None
    clock.now = 61.0
    assert guess(gatekeeper, key=OWNER) is None


def test_a_lines_addresses_are_counted_together() -> None:
    """Of IPv6 nobody has just one."""
    gatekeeper = Gatekeeper(OWNER, State, Clock())
    assert [guess(gatekeeper, f"2001:db8:1:2::{number:x}") for number in range(11)][-1] is RateLimited
    assert guess(gatekeeper, "2001:db8:1:3::1") is Unauthenticated
    assert guess(gatekeeper, "fe80::1%eth0", OWNER) is None
    for number in range(11):
        assert guess(gatekeeper, f"::ffff:10.0.0.{number}") is Unauthenticated


def test_many_guessers_do_not_make_one_forgotten() -> None:
    """Only the oldest is; somebody with many addresses would else begin anew with all of them."""
    gatekeeper = Gatekeeper(OWNER, State, Clock())
    for _ in range(10):
        guess(gatekeeper, "10.0.0.1")
    guess(gatekeeper, "10.0.0.2")
    for number in range(4095):
        guess(gatekeeper, f"10.1.{number // 256}.{number % 256}")
    assert guess(gatekeeper, "10.0.0.1", OWNER) is None
    for _ in range(9):
        guess(gatekeeper, "10.0.0.2")
    assert guess(gatekeeper, "10.0.0.2", OWNER) is RateLimited


def test_without_a_key_in_the_environment_none_is_an_owners() -> None:
    """An empty key is no key."""
    gatekeeper = Gatekeeper(None, State, Clock())
    assert guess(gatekeeper, key="") is Unauthenticated
    assert guess(gatekeeper, key=OWNER) is Unauthenticated


def test_no_key_at_all_is_no_guess() -> None:
    """A probe without one does not close the door."""
    gatekeeper = Gatekeeper(OWNER, State, Clock())
    for _ in range(50):
        with pytest.raises(Unauthenticated):
            gatekeeper.identify("10.0.0.1", "")
    assert guess(gatekeeper, key=OWNER) is None


@pytest.mark.parametrize("authorization", ["Bearer", "Bearer ", "Basic x", f"bearer{OWNER}", "Bearer " + "x" * 600])
def test_what_is_no_bearer_key_is_wrong(authorization: str) -> None:
    """Without a look at it."""
    with pytest.raises(Unauthenticated):
        Gatekeeper(OWNER, State, Clock()).identify("10.0.0.1", authorization)


async def test_a_handler_that_names_no_role_is_closed_to_everybody() -> None:
    """An owner too: a forgotten line is a closed door."""

    @get("/forgotten")
    async def forgotten() -> str:
        return "open"

    @get("/told", opt=needs("viewer"))
    async def told() -> str:
        return "open"

    router = Router("/", route_handlers=[forgotten, told], guards=[guard(Gatekeeper(OWNER, State, Clock()))])
    app = Litestar([router], exception_handlers=HANDLERS, openapi_config=None, logging_config=None)
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]  # Litestar's scopes are narrower
    headers = {"authorization": f"Bearer {OWNER}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://admin", headers=headers) as client:
        assert (await client.get("/forgotten")).status_code == 403
        assert (await client.get("/told")).status_code == 200
