"""A credential with a life: fetched before it is needed, renewed ahead of its end, and who waits for the first one.

Nothing is fetched on behalf of a request. A request that comes before the first fetch has ended waits for it, within
its own connect deadline; later ones use what is there. When renewing fails, what is there serves until its end. Knows
no provider: a `Source` asks one, on a thread. No secret is ever logged, nor any sentence that a provider wrote.
"""

import asyncio
import random
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

import anyio
import structlog

from gateway.domain.wire import Headers
from gateway.upstream.credentials.static import CredentialUnusable, SecretHeaders

AHEAD_S: Final = 600.0
"""How long before its end a credential is renewed. botocore thinks the same; Azure renews five minutes before."""
AGAIN_S: Final = 30.0
"""Between two looks at one that is near its end and that its provider does not renew yet."""
RELOOK_S: Final = 300.0
"""Between two looks at one without an end: somebody may have changed the file that it stands in."""
RETRY_MOST_S: Final = 60.0
FETCH_S: Final = 15.0
"""How long one fetch may take. Providers' own deadlines are mostly shorter."""
_LEAST_S: Final = 1.0

_CODE: Final = re.compile(
    r"(?<=An error occurred \()[A-Za-z]{3,60}(?=\) when calling)"
    r"|\b(AADSTS[0-9]{3,9}|invalid_(?:client|grant|request|resource|scope|target|token)|unauthorized_client"
    r"|unsupported_grant_type|access_denied|temporarily_unavailable|server_error)\b"
)
"""Error codes of AWS, by where they stand, of OAuth and of Entra: the only words of a provider that are safe to repeat.
Else a closed list, since a secret may look like any word."""

log = structlog.get_logger()


class CredentialLost(Exception):
    """Raised when there is no credential to send; the message is for operators and holds no secret."""


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A request as it will go out, but for what proves who sends it."""

    method: str
    scheme: str
    authority: str
    """The `host` field: `api.example.com`, or with the port when it is not the scheme's own."""
    target: str
    """Path and query as they stand on the request line."""
    headers: Headers
    """Content headers, and the content-length where one is sent. The host is `authority`."""
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a source gave."""

    prove: Callable[[Unsigned], Headers] = field(repr=False)
    """The header fields that prove who sends this request. Quick: it runs on the event loop for each request."""
    expires_at: float | None
    """Seconds since the epoch; None never expires."""


def always(fields: Headers) -> Callable[[Unsigned], Headers]:
    """The same fields for every request: what a token is sent as."""
    return lambda _: fields


class Source(Protocol):
    """Asks one provider."""

    def fetch(self) -> Grant:
        """What to send from now on. Blocks, on a thread; called again while an earlier call hangs. Raises anything."""


class Watcher(Protocol):
    """Who sends nothing to a backend whose credential is lost. Told on the event loop."""

    def lost(self, backend: str, now: float) -> None:
        """There is none, or it has ended; told again after each fetch that fails. `now` is the loop's time."""

    def restored(self, backend: str) -> None:
        """A fetch succeeded where the last one had failed."""


class Identity:
    """One backend's credential. `run` keeps it fresh for as long as it runs."""

    __slots__ = ("_failures", "_grant", "_is_fetching", "_source", "_waiting", "_wall", "_why", "name")

    def __init__(self, name: str, source: Source, *, wall: Callable[[], float] = time.time) -> None:
        self.name = name
        self._source = source
        self._wall = wall
        self._grant: Grant | None = None
        self._failures = 0
        self._why = "it was not fetched yet"
        self._is_fetching = True
        self._waiting: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        state = "waiting" if self._is_fetching else "failing" if self._failures else "fresh"
        return f"Identity({self.name}, {state})"

    @property
    def is_known(self) -> bool:
        """Whether a first fetch has ended, well or badly."""
        return not self._is_fetching

    def when_known(self, then: Callable[[], None]) -> None:
        """Call `then` once, on the event loop, as soon as the first fetch has ended."""
        if self._is_fetching:
            self._waiting.append(then)
        else:
            then()

    def prove(self, unsigned: Unsigned) -> SecretHeaders:
        """The header fields that prove who sends this request. Raises CredentialLost when there is no credential."""
        grant = self._grant
        if grant is None or not self._is_valid(self._wall()):
            raise CredentialLost(f"credential of backend `{self.name}`: {self._why}")
        return SecretHeaders(grant.prove(unsigned))

    def _is_valid(self, now: float) -> bool:
        grant = self._grant
        return grant is not None and (grant.expires_at is None or now < grant.expires_at)

    async def run(self, watcher: "Watcher", draw: Callable[[], float] = random.random) -> None:
        """Renew until cancelled, and tell the watcher what it means for the backend."""
        while True:
            rest = await self.renew(watcher, draw)
            await anyio.sleep(rest)

    async def renew(self, watcher: "Watcher", draw: Callable[[], float] = random.random) -> float:
        """Fetch once. Returns the seconds to wait before the next time."""
        problem: str | None = None
        try:
            with anyio.fail_after(FETCH_S):
                self._grant = await _fetched(self._source)
        except Exception as error:  # noqa: BLE001  # the edge to libraries that raise whatever they met; logged below
            problem = reason(error)
        now = self._wall()
        if problem is None:
            if self._failures:
                self._failures = 0
                log.info("credential.recovered", backend=self.name)
                watcher.restored(self.name)
            self._why = "it has expired and was not renewed"
        else:
            if not self._failures:  # Once, not every minute.
                log.warning("credential.not_renewed", backend=self.name, reason=problem)
            self._failures += 1
            self._why = problem
            if not self._is_valid(now):
                watcher.lost(self.name, anyio.current_time())
        self._is_fetching = False
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then()
        return rest_s(self._grant, now, self._failures, draw)


async def _fetched(source: Source) -> Grant:
    """What the source gives, fetched on a thread of its own.

    A pool's thread would keep the process from ending while it hangs in a provider's library.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Grant] = loop.create_future()

    def settle(grant: Grant | None, error: Exception | None) -> None:
        if outcome.done():  # It was given up.
            return
        if grant is None:
            outcome.set_exception(error or CredentialLost("there is none"))
        else:
            outcome.set_result(grant)

    def fetch() -> None:
        grant, problem = None, None
        try:
            grant = source.fetch()
        except Exception as error:  # noqa: BLE001  # as in `renew`, which it is handed to
            problem = error
        with suppress(RuntimeError):  # The loop is closed, and nobody waits any more.
            loop.call_soon_threadsafe(settle, grant, problem)

    threading.Thread(target=fetch, name="credential", daemon=True).start()
    return await outcome


def rest_s(grant: Grant | None, now: float, failures: int, draw: Callable[[], float]) -> float:
    """Seconds until the next fetch, after so many failures in a row; the draw keeps many gateways apart."""
    if failures:
        return min(RETRY_MOST_S, 2.0 ** min(failures, 6)) * (0.5 + draw() / 2)
    if grant is None or grant.expires_at is None:
        return RELOOK_S * (0.9 + 0.2 * draw())
    left = grant.expires_at - now
    return max(_LEAST_S, left - AHEAD_S, min(AGAIN_S, left / 2)) * (0.9 + 0.1 * draw())


def reason(error: Exception) -> str:
    """What went wrong, for operators: our own words, else the error's class and its code. Never a provider's text."""
    if isinstance(error, CredentialUnusable):
        return str(error)
    if isinstance(error, TimeoutError):
        return "the provider did not answer in time"
    code = _CODE.search(str(error))
    return f"{type(error).__name__} {code[0]}" if code else type(error).__name__
