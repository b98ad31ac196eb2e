"""Which addresses are dialled: the table of security row E, and names that change their mind."""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.egress import EgressRefused, Resolver, refusal

NEVER = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.1.1",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd20:ce::254",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
    "240.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "fe80::1",
    "fe80::1%eth0",
    "::ffff:169.254.169.254",
    "::169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "2002:a9fe:a9fe::",
    "2001:0:a9fe:a9fe::",
    "2001:0:808:808:0:0:5601:5601",
    "::ffff:0.0.0.0",
    "2001:db8::1",
    "not-an-address",
    "127.1",
    "0177.0.0.1",
    "2130706433",
]
PRIVATE = [
    "127.0.0.1",
    "127.9.9.9",
    "::1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "fd12:3456::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808", "2002:808:808::", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("address", NEVER)
@pytest.mark.parametrize("allow_private", [True, False])
def test_no_operators_word_opens(address: str, allow_private: bool) -> None:
    """Metadata, link-local, multicast, unspecified and reserved addresses stay shut in whatever form they come."""
    assert refusal(address, allow_private=allow_private) is not None


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_open_only_when_the_operator_says_so(address: str) -> None:
    assert refusal(address) is not None
    assert refusal(address, allow_private=True) is None


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_open(address: str) -> None:
    assert refusal(address) is None


@given(st.ip_addresses(v=4), st.booleans())
def test_an_embedded_address_is_judged_as_the_address_itself(v4: ipaddress.IPv4Address, allow_private: bool) -> None:
    """Mapped, NAT64 and 6to4 forms open nothing that their IPv4 address does not, and close nothing more."""
    plain = refusal(str(v4), allow_private=allow_private)
    number = int(v4)
    forms = [(0xFFFF << 32) | number, (0x64FF9B << 96) | number, (0x2002 << 112) | (number << 80)]
    for form in forms:
        assert refusal(str(ipaddress.IPv6Address(form)), allow_private=allow_private) == plain


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
