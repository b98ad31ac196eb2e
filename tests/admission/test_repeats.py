"""The store of requests under their keys: first, running, answered; bounded in size and time."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.admission import repeats
from gateway.admission.repeats import Kept, MemoryRepeats, Recollection, Repeat, fingerprint

ONE = Repeat("acme", "k1", "f1")


class Asked:
    """A store with a clock that moves by hand."""

    def __init__(self) -> None:
        self.store = MemoryRepeats()
        self.now = 1000.0

    def claim(self, request: Repeat = ONE) -> Recollection:
        """What is known of it."""
        told: list[Recollection] = []
        self.store.claim(request, self.now, 60.0, told.append)
        (known,) = told
        return known

    def conclude(self, body: bytes | None, request: Repeat = ONE) -> None:
        """It has ended."""
        self.store.conclude(request, body, self.now)


def test_a_request_is_first_then_running_then_answered() -> None:
    asked = Asked()
    assert [asked.claim(), asked.claim()] == ["first", "running"]
    asked.conclude(b"hello")
    assert [asked.claim(), asked.claim()] == [Kept(b"hello")] * 2


def test_without_an_answer_the_key_is_free() -> None:
    """What failed may be tried again."""
    asked = Asked()
    asked.claim()
    asked.conclude(None)
    assert asked.claim() == "first"


def test_another_request_under_the_key_is_told_so() -> None:
    """While the first one runs, and when it has ended."""
    asked = Asked()
    asked.claim()
    other = Repeat("acme", "k1", "f2")
    assert asked.claim(other) == "other"
    asked.conclude(b"hello")
    assert asked.claim(other) == "other"
    assert asked.claim() == Kept(b"hello")


def test_keys_of_two_tenants_never_meet() -> None:
    asked = Asked()
    asked.claim()
    assert asked.claim(Repeat("zeta", "k1", "f1")) == "first"
    asked.conclude(b"hello")
    assert asked.claim(Repeat("zeta", "k1", "f1")) == "running"


def test_an_answer_is_kept_for_a_day() -> None:
    asked = Asked()
    asked.claim()
    asked.now += 3600
    asked.conclude(b"hello")
    asked.now += repeats.KEPT_S - 1
    assert asked.claim() == Kept(b"hello")
    asked.now += 1
    assert asked.claim() == "first"


def test_of_an_answer_that_is_too_large_only_the_fact_is_kept() -> None:
    asked = Asked()
    asked.claim()
    asked.conclude(bytes(repeats.MOST_ANSWER_BYTES + 1))
    assert asked.claim() == "lost"


def test_the_oldest_answers_go_when_the_room_is_needed() -> None:
    asked = Asked()
    body = bytes(repeats.MOST_ANSWER_BYTES)
    count = repeats.MOST_BYTES // repeats.MOST_ANSWER_BYTES + 10
    for number in range(count):
        request = Repeat("acme", f"k{number}", "f")
        asked.claim(request)
        asked.conclude(body, request)
    known = [asked.claim(Repeat("acme", f"k{number}", "f")) for number in range(count)]
    gone = known.index(Kept(body))
    assert 0 < gone < 15
    assert known == ["first"] * gone + [Kept(body)] * (count - gone)


def test_what_was_never_begun_cannot_be_concluded() -> None:
    asked = Asked()
    asked.conclude(b"hello")
    assert asked.claim() == "first"


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_a_fingerprint_tells_requests_apart(one: bytes, other: bytes) -> None:
    """By what they are, and of which kind."""
    assert (fingerprint("chat", one) == fingerprint("chat", other)) == (one == other)
    assert fingerprint("chat", one) != fingerprint("completions", one)
