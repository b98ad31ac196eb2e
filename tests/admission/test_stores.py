"""Every store gives the answers that the reference gives, for any order of any commands."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.admission.limits import Answer, Denied, Dimension, Granted, Used
from gateway.admission.tally import Tally
from tests.admission.subjects import START, Subject, subject

LEASE_S = 30.0
ENDS_AT = START + 100_000.0
owners = itertools.count()

# (verb, reservation, amount, sixty-fourths of a second since the command before)
Command = tuple[str, int, int, int]
commands = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "reserve", "settle", "settle", "renew", "grow", "seed", "theirs"]),
        st.integers(0, 9),
        st.integers(0, 700),
        st.sampled_from([0, 0, 1, 16, 320, 3_904]),
    ),
    max_size=40,
)


@pytest.fixture(scope="module", params=["memory", "shared", "sqlite", "redis", "cluster"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """A store of each kind, for all examples."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    with subject(request.param, folder) as made:
        yield made


def dimensions(owner: str, cost: int) -> tuple[Dimension, ...]:
    """One of every kind; `cost` is that of everything that is not counted in requests."""
    key = f"{{t:{owner}}}:"
    return (
        Dimension(key + "requests", "requests", 6, 0.5, 1),
        Dimension(key + "concurrency", "concurrency", 3, 0.0, 1),
        Dimension(key + "tokens", "tokens", 600, 10.0, cost),
        Dimension(key + "input", "input_tokens", 500, 7.0, cost // 2),
        Dimension(key + "output", "output_tokens", 400, 1 / 3, cost - cost // 2),
        Dimension(key + "usd:1", "budget_usd", 5_000, 0.0, cost, ENDS_AT),
        Dimension(key + "usd:2", "budget_usd", 600_000, 0.0, cost, ENDS_AT),
        Dimension(key + "tok:1", "budget_tokens", 4_000, 0.0, cost, ENDS_AT),
    )


def used(amount: int) -> Used:
    return Used(amount, amount // 3, amount - amount // 3, 2 * amount)


def obey(limiter: Subject | Tally, owner: str, command: Command, now: float) -> Answer | None:
    """Carry one command out; the answer, if it has one."""
    verb, number, amount, _ = command
    name = f"{owner}-{number}"
    if verb == "reserve":
        return limiter.reserve(name, dimensions(owner, amount), now, LEASE_S)
    if verb == "settle":
        limiter.settle(name, used(amount), now)
    elif verb == "theirs":
        limiter.settle(f"their-{name}", used(amount), now, dimensions(owner, amount))
    elif verb == "grow":
        limiter.grow(name, used(amount), now)
    elif verb == "renew":
        limiter.renew(name, now, LEASE_S)
    else:
        limiter.seed(f"{{t:{owner}}}:usd:{1 + number % 2}", amount, ENDS_AT)
    return None


def assert_same(answer: Answer | None, expected: Answer | None) -> None:
    """To the millisecond, which is what clients are told."""
    assert type(answer) is type(expected), (answer, expected)
    if isinstance(answer, Granted | Denied) and isinstance(expected, Granted | Denied):
        for level, other in zip(answer.levels, expected.levels, strict=True):
            assert (level.kind, level.limit, level.remaining) == (other.kind, other.limit, other.remaining), (
                answer,
                expected,
            )
            assert level.reset_s == pytest.approx(other.reset_s, abs=1e-3)
    if isinstance(answer, Denied) and isinstance(expected, Denied):
        assert answer.dimension == expected.dimension
        assert answer.retry_after_s == pytest.approx(expected.retry_after_s, abs=2e-3)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(commands)
def test_a_store_answers_as_the_reference_does(store: Subject, script: list[Command]) -> None:
    """Reserving, growing, renewing, settling, repeating all of these, another process's settlements, waiting."""
    owner, reference, now = f"o{next(owners)}", Tally(), START
    for command in [*script, ("reserve", 10, 0, 0), ("reserve", 11, 0, 3_904)]:
        now += command[3] / 64  # whole microseconds, and exact in a float
        for _ in range(2 if command[1] % 3 == 0 else 1):  # Some calls are made twice: the effect comes once.
            assert_same(obey(store, owner, command, now), obey(reference, owner, command, now))
