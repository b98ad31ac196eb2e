"""`gateway drill`, as it is typed."""

import datetime as dt
import json
import time

import pytest

from gateway.control.arguments import duration, spelled
from tests.control.operator import Shell


def test_a_drill_is_started_shown_and_aborted(shell: Shell) -> None:
    """A line in the list, its scope and who did what; for programs, as the API tells it."""
    started = shell(
        "drill", "start", "--without", "provider=first", "--fault", "hang", "--for", "1m", "--reason", "to see"
    )
    drill_id, phase = started.stdout.split()[:2]
    assert phase == "running:"
    assert "hang of provider=first for every tenant, every model, 100 % of tries" in started.stdout
    assert "reason: to see" in started.stdout
    assert [row[:2] for row in shell.table("drill", "list")] == [[drill_id, "running"]]
    assert shell.json("drill", "show", drill_id)["drill"]["without"] == {"provider": "first"}
    assert "runs at that time" in shell("drill", "start", "--without", "provider=second", code=1).stderr
    assert f"{drill_id} aborted" in shell("drill", "abort", drill_id).stdout
    assert "is over: aborted" in shell("drill", "abort", drill_id, code=1).stderr
    assert json.loads(shell("drill", "list", "--json").stdout)[0]["over_by"] == "environment"


def test_waiting_for_a_drill_ends_with_its_report(shell: Shell) -> None:
    """The exit code says whether it ran to its end."""
    done = shell("drill", "start", "--without", "provider=first", "--for", "1s", "--tenant", "acme", "--wait")
    assert " ended: refuse of provider=first for acme, every model" in done.stdout
    assert "0 served, 0 of them struck" in done.stdout


def test_a_drill_that_leaves_nobody_has_to_be_meant(shell: Shell) -> None:
    """The models are named."""
    asked = ["drill", "start", "--without", "accelerator=unlabelled", "--at", "2099-01-01"]
    assert "within the next year" in shell(*asked, code=1).stderr
    assert "acme/assistant" in shell(*asked[:4], code=1).stderr
    assert "there is unlabelled" in shell("drill", "start", "--without", "cloud=aws", code=1).stderr
    shell("drill", "start", "--without", "galaxy=1", code=2)


def test_drills_are_planned_for_the_same_hour_of_several_days(shell: Shell) -> None:
    """Each by itself: one is called off, the others stay."""
    begin = dt.datetime.fromtimestamp(time.time() + 3_600, dt.UTC)
    asked = ["drill", "start", "--without", "provider=first", "--for", "10m", "--at", begin.isoformat()]
    planned = shell(*asked, "--every", "1d", "--times", "3").stdout
    ids = [line.split()[0] for line in planned.splitlines() if " planned: " in line]
    starts = [shell.json("drill", "show", each)["drill"]["starts_at"] for each in ids]
    assert [round(at - starts[0]) for at in starts] == [0, 86_400, 172_800]
    shell("drill", "abort", ids[1])
    phases = {row[0]: row[1] for row in shell.table("drill", "list")}
    assert [phases[each] for each in ids] == ["planned", "aborted", "planned"]
    for each in (ids[0], ids[2]):
        shell("drill", "abort", each)
    assert "as --every says" in shell(*asked, "--times", "3", code=1).stderr


def test_a_drill_may_be_repeated_until_it_is_called_off(shell: Shell) -> None:
    """In the list with how often; called off before it began, nothing follows it."""
    begin = dt.datetime.fromtimestamp(time.time() + 3_600, dt.UTC).isoformat()
    asked = ["drill", "start", "--without", "provider=first", "--every", "1w"]
    planned = shell(*asked, "--at", begin).stdout
    assert "again every 1w, until one of them is called off before it begins" in planned
    row = shell.table("drill", "list")[0]
    assert (row[0], row[1]) == (planned.split()[0], "planned")
    assert row[-1] == "1w"
    shell("drill", "abort", row[0])
    assert "not waited for" in shell(*asked, "--wait", code=1).stderr
    assert "have to be 60 seconds" in shell(*asked[:4], "--every", "30s", "--for", "1s", code=1).stderr
    assert "have to be 301 seconds" in shell(*asked[:4], "--every", "5m", code=1).stderr


@pytest.mark.parametrize(
    ("text", "seconds", "back"),
    [
        ("90", 90, "90s"),
        ("90s", 90, "90s"),
        ("5m", 300, "5m"),
        ("1.5h", 5400, "90m"),
        ("7d", 604_800, "1w"),
        ("2w", 1_209_600, "2w"),
        ("1.5s", 1.5, "1.5s"),
    ],
)
def test_times_are_read(text: str, seconds: float, back: str) -> None:
    """And written."""
    assert duration(text) == seconds
    assert spelled(seconds) == back
