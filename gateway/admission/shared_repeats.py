"""Requests under one `Idempotency-Key` where several processes share a store: what the kinds of store have in common.

In front of the store stands this process's own memory, so most of what comes again costs no way there, and a store that
is away takes nothing but the others' knowledge. Whoever runs a request is named by a token, so that what is told of it
may arrive twice, or too late.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

from gateway.admission.repeats import MemoryRepeats, Recollection, Repeat


class SharedRepeats(ABC):
    """The store of all processes that share it. Its own store each kind asks and tells in its own words."""

    __slots__ = ("_claims", "_memory", "_process", "_tokens")

    def __init__(self, *, process: str) -> None:
        """`process` names this run of this process."""
        self._memory = MemoryRepeats()
        self._process = process
        self._claims = 0
        self._tokens: dict[tuple[str, str], str] = {}
        """Of what runs here, by tenant and key."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._tokens)} running here, {self._memory!r})"

    def claim(self, request: Repeat, now: float, ttl_s: float, answer: Callable[[Recollection], None]) -> None:
        """Ask what is known of the request; see `Repeats.claim`."""
        known = self._memory.claim_now(request, now)
        if known != "first":
            answer(known)
            return
        self._claims += 1
        token = self._tokens[request.tenant, request.key] = f"{self._process}:{self._claims}"

        def told(elsewhere: Recollection) -> None:
            if elsewhere != "first":
                del self._tokens[request.tenant, request.key]
                self._memory.conclude(request, None, now)
            answer(elsewhere)

        self._ask(request, token, now, ttl_s, told)

    def conclude(self, request: Repeat, body: bytes | None, now: float) -> None:
        """The request has ended; see `Repeats.conclude`."""
        self._memory.conclude(request, body, now)
        token = self._tokens.pop((request.tenant, request.key), None)
        if token is not None:
            self._tell(request, token, body, now)

    @abstractmethod
    def _ask(self, request: Repeat, token: str, now: float, ttl_s: float, told: Callable[[Recollection], None]) -> None:
        """Have the store told that `token` runs the request, for `ttl_s` seconds, unless it knows better.

        `told` is called once; with `first` where the store cannot say.
        """

    @abstractmethod
    def _tell(self, request: Repeat, token: str, body: bytes | None, now: float) -> None:
        """Have the store told how the request ended that `token` ran; None frees its key."""
