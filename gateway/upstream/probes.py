"""Looks at backends that no request is sent to, so that they come back soon. Says what it saw; decides nothing.

Which backends are in doubt, and what follows when one answers, is the fleet's to say: both are handed in. A look is
`GET {base_url}/models` with the backend's credential, over the same connections and the same egress check as requests.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import anyio
import httpx
import structlog

from gateway.upstream.adapter import HttpxTransport
from gateway.upstream.destination import Destination
from gateway.upstream.seam import Sender

EVERY_S: Final = 5.0
"""Between two looks at a backend, and before the first: a breaker that opens for the first time needs none."""
DEADLINE_S: Final = 2.0
_VERSION: Final = {"anthropic-version": "2023-06-01"}
"""Without it Anthropic's API answers nothing; to all others it means nothing."""
LOOK_AROUND_S: Final = 1.0
"""How often it is asked who is in doubt."""

log = structlog.get_logger()


class Probes:
    """The looks at all backends. `suspects` names those in doubt, `reached` is told of each that answered."""

    def __init__(
        self,
        transport: Sender,
        destinations: Mapping[str, Destination],
        *,
        suspects: Callable[[float], Iterable[str]],
        reached: Callable[[str, float], None],
    ) -> None:
        self._transport = transport
        self._destinations = destinations
        self._suspects = suspects
        self._reached = reached
        self._next_at: dict[str, float] = {}
        """Backend in doubt → when it may be looked at."""
        self._seen: dict[str, bool] = {}
        """Backend in doubt → whether it answered the last look."""

    async def run(self) -> None:
        """Look around until cancelled. No look waits for another one."""
        async with anyio.create_task_group() as looks:
            while True:
                await anyio.sleep(LOOK_AROUND_S)
                for backend in self.due(anyio.current_time()):
                    looks.start_soon(self.look_at, backend)

    def due(self, now: float) -> list[str]:
        """The backends to look at now. Each is named once in `EVERY_S`; one that is out of doubt is forgotten."""
        suspects = set(self._suspects(now)) & self._destinations.keys()
        for backend in (self._next_at.keys() | self._seen.keys()) - suspects:
            self._next_at.pop(backend, None)
            self._seen.pop(backend, None)
        found = []
        for backend in sorted(suspects):
            if now >= self._next_at.setdefault(backend, now + EVERY_S):
                self._next_at[backend] = now + EVERY_S
                found.append(backend)
        return found

    async def look_at(self, backend: str) -> None:
        """One look, of at most `DEADLINE_S`. Logs it when it differs from the one before."""
        problem = await self._problem(self._destinations[backend])
        is_there = problem is None
        if is_there:
            self._reached(backend, anyio.current_time())
        if self._seen.get(backend) is not is_there:
            self._seen[backend] = is_there
            log.info("backend.probed", backend=backend, reachable=is_there, problem=problem)

    async def _problem(self, destination: Destination) -> str | None:
        """Why the backend is not known to be there; None when it answered."""
        transport = HttpxTransport(self._transport, destination=destination)
        url = f"{destination.origin}{destination.base_path}/models"
        try:
            with anyio.fail_after(DEADLINE_S):
                async with (
                    httpx.AsyncClient(transport=transport, timeout=None, trust_env=False) as client,  # noqa: S113  # above
                    client.stream("GET", url, headers=_VERSION) as answer,
                ):
                    return None if answer.is_success else str(answer.status_code)
        except TimeoutError:
            return "timeout"
        except httpx.TransportError as error:
            return type(error).__name__
