"""What backends are told of a request's caller: machines of our own enough to be fair and discreet, others nothing."""

import msgspec

from gateway.auth.keys import digest
from gateway.domain.fault import FaultKind
from gateway.domain.tenant import ApiKey
from tests.pipeline.driver import HEAD, KEY, Play, World, configured

OWN = {"a": {"domains": {"provider": "in-house"}}, "b": {"domains": {"provider": "in-house"}}}


def told(tenant: str, *, priority: str = "standard", deadline_s: float | None = None, after_s: float = 0.0) -> Play:
    """A request of this tenant, for a's, then b's, then c's answer; only the last is not ours."""
    book = configured(places=OWN, tenants={tenant: {"policy": "standard"}}, policy={"priority": priority})
    key = ApiKey(public_id="abcdefghijkl", tenant=tenant, digest=digest(KEY))
    play = Play(World(book, keys=[key]), head=msgspec.structs.replace(HEAD, deadline_s=deadline_s))
    for _ in range(2):
        play.wait(after_s).failed(FaultKind.CONNECT)
    return play


def fields(play: Play, attempt: int) -> dict[bytes, bytes]:
    return dict(play.dispatched[attempt].further)


def test_our_own_machines_hear_whose_request_it_is_how_urgent_and_for_how_long() -> None:
    """The salt is the tenant's at that backend: the same each time, nobody else's, and without its name."""
    play, again, other = told("acme"), told("acme"), told("umbrella")
    assert play.tried == "abc"
    first, second = fields(play, 0), fields(play, 1)
    assert set(first) == {b"x-cache-salt", b"x-request-priority", b"x-request-deadline-ms"}
    assert fields(again, 0) == first
    salts = {first[b"x-cache-salt"], second[b"x-cache-salt"], fields(other, 0)[b"x-cache-salt"]}
    assert len(salts) == 3
    assert all(len(salt) == 32 and b"acme" not in salt for salt in salts)


def test_the_urgent_go_first() -> None:
    """By the class of the tenant's policy; smaller goes first, as in vLLM."""
    classes = ("critical", "standard", "sheddable", "batch")
    said = [fields(told("acme", priority=priority), 0)[b"x-request-priority"] for priority in classes]
    assert said == [b"0", b"1", b"2", b"3"]


def test_a_later_try_hears_what_is_left_of_the_time() -> None:
    """Of the policy's total, or of what the client waits."""
    play = told("acme", after_s=1.5)
    assert [fields(play, number)[b"x-request-deadline-ms"] for number in (0, 1)] == [b"600000", b"598500"]
    assert fields(told("acme", deadline_s=2.5), 0)[b"x-request-deadline-ms"] == b"2500"


def test_third_parties_hear_nothing_of_the_caller() -> None:
    assert fields(told("acme"), 2) == {}
