"""Who asks and for how long they wait, as the gateway tells it in header fields. Reads values; does no I/O.

x-request-deadline-ms   milliseconds until nobody waits any more
x-request-priority      the class of whoever asks; the smaller number goes first
x-cache-salt            who may be answered from whose cached prompts

A field that makes no sense is no wish: the gateway writes these, and a request is better served than refused for them.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import anyio

from workers.trainium.errors import DeadlineExceeded

DEADLINE: Final = "x-request-deadline-ms"
PRIORITY: Final = "x-request-priority"
CACHE_SALT: Final = "x-cache-salt"
_REQUEST_S: Final = 600.0
_NUMBER: Final = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Caller:
    """What holds for one request, whatever its body says."""

    deadline: float
    """When the answer must be finished, on anyio's clock. Whoever waits no longer must not cost a slot."""
    priority: int | None
    """None leaves it to the body."""
    cache_salt: str
    """Empty where the gateway says nothing."""
    credential: str
    """As it was sent; empty without one."""

    def salt(self, wanted: str | None) -> str:
        """Who shares cached prompts with this request, given the body's own `cache_salt`: those with the same text.

        Within the gateway's salt a tenant may draw finer lines; it cannot reach over one. The credential is the
        gateway's own there: who comes past the gateway, and guesses a tenant's salt, still does not share with it.
        """
        if self.cache_salt:
            # A header field holds no NUL, so the parts cannot be shifted into one another.
            return f"tenant {self.credential}\0{self.cache_salt}\0{wanted or ''}"
        # The two kinds must not meet: a caller could otherwise name another's credential as its salt.
        return f"salt {wanted}" if wanted is not None else f"caller {self.credential}"


def caller_of(headers: Mapping[str, str]) -> Caller:
    """Read what the fields say, now."""
    left, priority = headers.get(DEADLINE, ""), headers.get(PRIORITY, "")
    left_s = int(left) / 1000 if _NUMBER.fullmatch(left) and int(left) >= 0 else _REQUEST_S
    return Caller(
        deadline=anyio.current_time() + min(left_s, _REQUEST_S),
        priority=int(priority) if _NUMBER.fullmatch(priority) else None,
        cache_salt=headers.get(CACHE_SALT, ""),
        credential=headers.get("authorization", ""),
    )


@contextmanager
def in_time(caller: Caller) -> Iterator[None]:
    """Give up what is inside when the caller's time is over. Raises `DeadlineExceeded`."""
    try:
        with anyio.fail_after(caller.deadline - anyio.current_time()):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded("the answer was not finished before the request's deadline") from error
