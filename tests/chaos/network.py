"""Faults on the way to a backend: TLS and names. Another backend answers, and not a byte of the request was sent."""

import asyncio
import functools
import socket
import ssl
import tempfile
import warnings
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from tests.backends.authority import Authority
from tests.backends.scripted import scripted_backend
from tests.chaos.catalogue import Catalogue
from tests.chaos.rig import rig
from tests.chaos.storms import FEW, all_served
from tests.chaos.ways import ALL, WHOLE, Way, healthy

CATALOGUE = Catalogue(alike=ALL)
row = CATALOGUE.row

NAME = "api.example"


@functools.cache
def authority() -> tuple[Authority, "tempfile.TemporaryDirectory[str]"]:
    """One for all; the folder lives as long as it does."""
    folder = tempfile.TemporaryDirectory()
    return Authority(Path(folder.name)), folder


def _expired() -> ssl.SSLContext:
    return authority()[0].server(NAME, days=-1)


def _other_name() -> ssl.SSLContext:
    return authority()[0].server("other.example")


def _old() -> ssl.SSLContext:
    context = authority()[0].server(NAME)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):  # deprecated: that is what is refused
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def _good() -> ssl.SSLContext:
    return authority()[0].server(NAME)


async def loopback(host: str, port: int) -> Sequence[str]:
    """Every name is this machine."""
    return ["127.0.0.1"]


BAD_TLS: dict[str, dict[str, Any]] = {
    "an expired certificate": {"server": _expired},
    "a certificate of another name": {"server": _other_name},
    "an unknown authority": {"server": _good, "is_trusted": False},
    # A server that does not want our TLS just hangs up, as one that is overwhelmed may do.
    "TLS 1.1 at most": {"server": _old, "told": (503, "no_backend_available")},
}


@row("F20", "TLS:", variants=BAD_TLS)
async def bad_tls(
    way: Way,
    server: Callable[[], ssl.SSLContext],
    *,
    is_trusted: bool = True,
    told: tuple[int, str] = (502, "upstream_tls"),
) -> None:
    """There is no insecure way round; when nobody is left the client is told so."""
    trusted = authority()[0].trusted() if is_trusted else ssl.create_default_context()
    async with scripted_backend(tls=server()) as backend:
        backend.default = healthy
        place = f"https://{NAME}:{backend.port}/v1"
        async with rig(places={"first": place}, resolver=loopback, ssl_context=trusted) as house:
            lost = house.failed_over(await house.ask(way), way)
            alone = await house.ask(way, model="first")
            assert (alone.status, alone.code) == told, alone.raw
            assert (lost.cost_nano_usd, lost.usage.total_tokens, backend.requests) == (0, 0, [])


@row("SLO", f"{FEW} at once, one healthy peer: F20", ways=WHOLE, variants=BAD_TLS)
async def bad_tls_for_all(
    way: Way, server: Callable[[], ssl.SSLContext], *, is_trusted: bool = True, told: object = None
) -> str:
    """Every client is served, and the peer sees each request once. `told` is for when nobody is left."""
    del told
    trusted = authority()[0].trusted() if is_trusted else ssl.create_default_context()
    async with scripted_backend(tls=server()) as backend:
        place = f"https://{NAME}:{backend.port}/v1"
        async with rig(places={"first": place}, resolver=loopback, ssl_context=trusted) as house:
            return await all_served(house, way, FEW)


@row("F20", "TLS: the handshake stalls")
async def stalled_handshake(way: Way) -> None:
    """The connect's time ends it."""
    async with scripted_backend() as backend:  # reads the hello as the beginning of a request, and waits for the rest
        place = f"https://{NAME}:{backend.port}/v1"
        trusted = authority()[0].trusted()
        timeouts = {"connect": 0.3}
        async with rig(places={"first": place}, resolver=loopback, ssl_context=trusted, timeouts=timeouts) as house:
            lost = house.failed_over(await house.ask(way), way)
            assert (lost.cost_nano_usd, lost.usage.total_tokens, backend.requests) == (0, 0, [])
        await backend.wait_until(lambda: backend.open == 0)


async def _nowhere(host: str, port: int) -> Sequence[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def _resolver_down(host: str, port: int) -> Sequence[str]:
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


async def _never(host: str, port: int) -> Sequence[str]:
    await asyncio.sleep(0.8)
    return ["127.0.0.1"]


async def _rebound(host: str, port: int) -> Sequence[str]:
    return ["93.184.215.14", "127.0.0.1"]


NO_NAME = {
    "unknown": {"resolver": _nowhere},
    "the resolver fails": {"resolver": _resolver_down},
    "the resolver hangs": {"resolver": _never},
    "an answer with 127.0.0.1": {"resolver": _rebound},
}


@row("F21", "name:", variants=NO_NAME)
async def no_name(way: Way, resolver: Callable[[str, int], Awaitable[Sequence[str]]]) -> None:
    """Nothing is dialled that should not be, and nothing waits longer than a connect may."""
    place = {"base_url": f"https://{NAME}/v1", "allow_private": False}
    async with rig(places={"first": place}, resolver=resolver, timeouts={"connect": 0.3}) as house:
        lost = house.failed_over(await house.ask(way), way)
        assert (lost.cost_nano_usd, lost.usage.total_tokens) == (0, 0)


@row("F21", "name: the resolver fails after it has worked")
async def last_good_answer(way: Way) -> None:
    """The last answer serves: a resolver's outage is not the backend's."""
    answers: list[Sequence[str] | None] = [["127.0.0.1"]]

    async def resolver(host: str, port: int) -> Sequence[str]:
        if not answers:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return answers.pop() or ()

    async with scripted_backend() as backend:
        backend.default = healthy
        place = f"http://{NAME}:{backend.port}/v1"
        async with rig(places={"first": place}, resolver=resolver) as house:
            for _ in range(2):
                answer = await house.ask(way)
                answer.assert_healthy(way)
                assert answer.headers["x-gateway-backend"] == "first"
                backend.close_connections()
                await backend.wait_until(lambda: backend.open == 0)
        assert backend.accepted == 2
