"""Several processes at one store: together they get what one limit holds, and what a killed one held comes back."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admission.worker import HELD, REQUESTS, SLOTS, tokens
from tests.running.gateway import ROOT
from tests.running.redis import redis_server

PROCESSES = 3
DEADLINE_S = 30.0


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store that processes share."""
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path}/limits.sqlite"
    else:
        with redis_server(tmp_path) as server:
            yield server.url


def start(url: str, name: str, *words: str) -> "subprocess.Popen[str]":
    """A process that does what `tests.admission.worker` is told."""
    command = [sys.executable, "-m", "tests.admission.worker", url, name, *words]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: "subprocess.Popen[str]") -> dict[str, int]:
    """The next line it says."""
    assert process.stdout is not None
    told: dict[str, int] = json.loads(process.stdout.readline())
    return told


def end(process: "subprocess.Popen[str]") -> None:
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0


def test_together_they_get_what_the_limits_hold(url: str) -> None:
    """Reservations of random sizes, settled for less, some asked or settled twice, from three processes at once."""
    running = [start(url, f"p{n}", "spend") for n in range(PROCESSES)]
    told = [said(process) for process in running]
    for process in running:
        end(process)
    assert sum(each["requests"] for each in told) == REQUESTS.limit
    limit = tokens(0).limit
    assert limit - 200 < sum(each["tokens"] for each in told) <= limit  # 200 is the most that one takes
    assert max(each["most_slots"] for each in told) <= SLOTS


def test_what_a_killed_process_held_comes_back(url: str) -> None:
    """Its slots and its part of a budget, when its lease ends; a living one keeps its own for longer than that."""
    holder, killed = start(url, "holder", "hold"), start(url, "killed", "hold")
    assert said(holder) == said(killed) == {"granted": HELD}
    killed.kill()
    killed.communicate()
    deadline = time.monotonic() + DEADLINE_S
    left: dict[str, int] = {}
    while left != {"slots": SLOTS - HELD - 1, "budget": 600}:
        assert time.monotonic() < deadline, left
        heir = start(url, f"heir {time.monotonic()}", "look")
        left = said(heir)
        end(heir)
    end(holder)
