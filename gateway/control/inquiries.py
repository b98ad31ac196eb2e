"""Decisions of requests that another gateway of the fleet served: asked for where gateways leave word for one another.

    asker:   question ──▶ store,   looks for an answer now and then
    others:  look for questions,   answer those whose requests they served

So an operator may ask any gateway about any request. Nothing of it is on a request's path.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import anyio
import msgspec
import structlog

from gateway.control.decisions import Decisions, DecisionShown
from gateway.control.store import LogUnreachable

_LOOK_S: Final = 0.5
_WAIT_S: Final = 3.0
"""How long an answer is waited for; some looks of the others, and no longer than a person likes to."""
_LONGEST_ID: Final = 256
"""Longer ones are nobody's."""

log = structlog.get_logger()


class Questions(Protocol):
    """Where questions and answers lie, for some seconds. Raises LogUnreachable."""

    async def ask(self, request_id: str) -> None:
        """Leave a question."""

    async def asked(self) -> Sequence[str]:
        """The ids that are asked for and not answered yet."""

    async def answer(self, request_id: str, body: bytes) -> None:
        """Leave an answer, and take its question away."""

    async def answered(self, request_id: str) -> bytes | None:
        """The answer, as soon as there is one."""

    async def unask(self, request_id: str) -> None:
        """Take a question away that nobody answered."""


class Inquiries:
    """Of one gateway."""

    def __init__(
        self,
        decisions: Decisions,
        shared: Questions | None,
        near: Callable[[str], Awaitable[bytes | None]] | None = None,
    ) -> None:
        """`near` asks this gateway's other workers, if there are any."""
        self._decisions = decisions
        self._shared = shared
        self._near = near
        self._ours: set[str] = set()
        """What this gateway asks itself, and so does not know."""

    async def of(self, request_id: str) -> DecisionShown | None:
        """What this gateway knows of the request, else another one; None when nobody says anything in time."""
        found = self._decisions.of(request_id)
        if found is not None or len(request_id) > _LONGEST_ID:
            return found
        try:
            if self._near is not None and (body := await self._near(request_id)) is not None:
                return msgspec.json.decode(body, type=DecisionShown)
            return None if self._shared is None else await self._elsewhere(self._shared, request_id)
        except (LogUnreachable, msgspec.DecodeError) as error:  # Of another version, perhaps.
            log.warning("decision.not_asked", reason=str(error))
            return None

    async def run(self) -> None:
        """Answer the others, until cancelled."""
        if self._shared is None:
            return
        while True:
            await anyio.sleep(_LOOK_S)
            try:
                for request_id in await self._shared.asked():
                    found = None if request_id in self._ours else self._decisions.of(request_id)
                    if found is not None:
                        await self._shared.answer(request_id, msgspec.json.encode(found))
            except LogUnreachable:
                continue  # The desk of changes follows the same store and says so.

    async def _elsewhere(self, shared: Questions, request_id: str) -> DecisionShown | None:
        self._ours.add(request_id)
        try:
            await shared.ask(request_id)
            with anyio.move_on_after(_WAIT_S):
                while (body := await shared.answered(request_id)) is None:  # noqa: ASYNC110  # it comes from elsewhere
                    await anyio.sleep(_LOOK_S / 5)
                return msgspec.json.decode(body, type=DecisionShown)
            await shared.unask(request_id)
        finally:
            self._ours.discard(request_id)
        return None
