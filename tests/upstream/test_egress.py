"""Names that change their mind: every answer is checked, for each connection anew."""

import asyncio
import socket
from collections.abc import Sequence

import pytest

from gateway.upstream.egress import EgressRefused, Resolver


class Names:
    """A resolver that says what it is told, and counts."""

    def __init__(self, *answers: Sequence[str] | OSError) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Give the next answer; the last one again and again."""
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        await asyncio.sleep(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


async def test_every_answer_of_a_name_is_checked() -> None:
    """One private address among public ones refuses the name."""
    resolver = Resolver(Names(["1.1.1.1", "10.0.0.1"]))
    with pytest.raises(EgressRefused, match=r"10\.0\.0\.1, which is private"):
        await resolver.addresses("api.example", 443, allow_private=False)


async def test_a_name_is_asked_anew_for_each_connection() -> None:
    """A name that was public a moment ago and is loopback now is refused (rebinding)."""
    resolver = Resolver(Names(["1.1.1.1"], ["127.0.0.1"]))
    assert await resolver.addresses("api.example", 443, allow_private=False) == ("1.1.1.1",)
    with pytest.raises(EgressRefused):
        await resolver.addresses("api.example", 443, allow_private=False)


async def test_the_last_answer_serves_while_the_resolver_fails_and_is_still_checked() -> None:
    resolver = Resolver(Names(["10.0.0.1"], socket.gaierror(-3, "try again")))
    assert await resolver.addresses("worker", 80, allow_private=True) == ("10.0.0.1",)
    assert await resolver.addresses("worker", 80, allow_private=True) == ("10.0.0.1",)
    with pytest.raises(EgressRefused):
        await resolver.addresses("worker", 80, allow_private=False)


async def test_a_name_that_never_resolved_raises() -> None:
    resolver = Resolver(Names(socket.gaierror(-2, "unknown")))
    with pytest.raises(socket.gaierror):
        await resolver.addresses("worker", 80, allow_private=True)


async def test_waiters_for_one_name_share_a_lookup_and_one_may_leave() -> None:
    names = Names(["10.0.0.1"])
    resolver = Resolver(names)
    waiters = [asyncio.create_task(resolver.addresses("worker", 80, allow_private=True)) for _ in range(5)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [("10.0.0.1",)] * 4
    assert names.asked == 1


async def test_a_literal_address_is_not_looked_up() -> None:
    names = Names(["1.1.1.1"])
    assert await Resolver(names).addresses("127.0.0.1", 80, allow_private=True) == ("127.0.0.1",)
    assert names.asked == 0
