"""Asks backends that nobody's requests reach whether they work: real requests, through everything that a client's meet.

Health, drills, the credential, the backend's limits and the ledger see no difference; the tenant is the gateway itself.
Which backends are asked, and when, is `standby`'s to say.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Final

import anyio
import msgspec
import structlog

from gateway.api.machinery import Machinery
from gateway.api.stream import Driver
from gateway.config.policies import PolicySnapshot
from gateway.control.outlook import EVERY_S, Outlook, sums_of
from gateway.control.standby import Errand, errands
from gateway.dialects.openai import CHAT, EMBEDDINGS
from gateway.domain.limits import NO_LIMITS
from gateway.domain.plan import Route
from gateway.domain.policy import ModelRoute, Policy, Retries, Strategy, TargetRef, Timeouts
from gateway.domain.tenant import PROBER, ApiKey, Tenant
from gateway.pipeline import RequestHead
from gateway.pipeline.entry import Caller

_DAY_S: Final = 86_400.0
_TIMEOUTS: Final = Timeouts(total=30.0)
_MOST_TOKENS: Final = 16
"""Of an answer: the least that some providers take."""
_KEY: Final = ApiKey(public_id=PROBER, tenant=PROBER, digest=b"")
_TENANT: Final = Tenant(id=PROBER, policy=PROBER, limits=NO_LIMITS)

log = structlog.get_logger()


class Prover:
    """Runs the errands of this gateway; in a fleet one gateway runs those of all."""

    def __init__(self, machinery: Machinery, outlook: Outlook, *, wall: Callable[[], float]) -> None:
        self._machinery = machinery
        self._outlook = outlook
        self._wall = wall
        self._tried: dict[str, float] = {}
        """Backend → when it was last asked, in seconds since the epoch."""

    async def run(self) -> None:
        """Look what is to be asked, and ask, until cancelled. No answer is waited for by another."""
        await anyio.sleep(EVERY_S)  # Until the gateways of a fleet have heard of one another.
        async with anyio.create_task_group() as tasks:
            while True:
                await anyio.sleep(EVERY_S)
                if self._outlook.leads:
                    for errand in self.due():
                        tasks.start_soon(self.ask, errand)

    def due(self) -> list[Errand]:
        """What is to be asked now; it counts as asked."""
        book, now = self._machinery.house.book(), self._wall()
        if not any(each.policy.independence and each.policy.independence.probes for each in book.policies.values()):
            return []
        spent: dict[str, int] = defaultdict(int)
        for each in sums_of(self._outlook.parts(_DAY_S)):
            if each.tenant == PROBER:
                spent[each.model] += each.cost_nano_usd
        found = [*errands(book, self._outlook.successes(), self._tried, spent, now)]
        self._tried.update((each.target.backend, now) for each in found)
        return found

    async def ask(self, errand: Errand) -> None:
        """One request. What becomes of it is in the ledger, in decisions and in the log."""
        endpoint, path = (
            (EMBEDDINGS, "/v1/embeddings")
            if "embeddings" in errand.target.facts.accepts
            else (CHAT, "/v1/chat/completions")
        )
        client = _Nobody()
        driver = Driver(self._machinery, endpoint, path, RequestHead(headers=()), client)
        driver.begin_as(caller_of(errand))
        try:
            driver.accept(body_of(errand))
            await client.is_over.wait()
        finally:
            driver.close()
        log.info("backend.proved", backend=errand.target.backend, status=client.status, policy=errand.policy)


def caller_of(errand: Errand) -> Caller:
    """Who asks: the gateway itself, under a policy that knows this one target."""
    target = errand.target
    named = TargetRef(backend=target.backend, model=target.model)
    policy = PolicySnapshot(
        name=PROBER,
        revision="",
        label=PROBER,
        policy=Policy(
            models={errand.model: ModelRoute(targets=(named,))}, timeouts=_TIMEOUTS, retries=Retries(attempts=1)
        ),
        routes={errand.model: Route(Strategy(), (target,))},
    )
    return Caller(_KEY, _TENANT, policy)


def body_of(errand: Errand) -> bytes:
    """What is asked; few tokens, and nothing of anybody's."""
    if "embeddings" in errand.target.facts.accepts:
        return msgspec.json.encode({"model": errand.model, "input": "ready"})
    messages = [{"role": "user", "content": "Answer with the word ready."}]
    return msgspec.json.encode({"model": errand.model, "messages": messages, "max_tokens": _MOST_TOKENS})


class _Nobody:
    """A client that reads everything and keeps the status."""

    def __init__(self) -> None:
        self.is_over = asyncio.Event()  # Not anyio's: it is set from callbacks, outside of any task.
        self.status: int | None = None

    def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Keep the status."""
        del headers
        self.status = status

    def write(self, data: bytes) -> None:
        """Keep nothing."""

    def finish(self) -> None:
        """Let whoever asked go on."""
        self.is_over.set()

    def flush(self) -> None:
        """Nothing waits."""

    def cut(self) -> None:
        """Let whoever asked go on."""
        self.is_over.set()

    def stuck_since(self, now: float) -> float | None:
        """Never."""
        del now
        return None
