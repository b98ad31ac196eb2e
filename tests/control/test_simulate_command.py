"""`gateway policy simulate`, as an operator and a pipeline type it, on a gateway's own traffic and on its file."""

import datetime as dt
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config.settings import decisions_beside
from gateway.control.recorder import Recorder
from tests.control.operator import OWNER, Shell
from tests.running.configuration import configuration
from tests.running.gateway import closed_port, gateway
from tests.telemetry.records import succeeded


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """On a gateway that has served four requests of `acme` at its first backend, of two providers."""
    folder = tmp_path_factory.mktemp("simulated")
    recorder = Recorder(decisions_beside(folder / "gateway.sqlite"), most=100, age_s=3600, wall=time.time)
    recorder.start()
    for _ in range(4):
        record = succeeded(None)
        record.wall_started, record.policy = time.time(), "acme@12345678"
        recorder.note(record)
    recorder.close()
    with closed_port() as port:
        place = f"http://127.0.0.1:{port}/v1"
        first, second = ({"base_url": place, "domains": {"provider": provider}} for provider in ("one", "two"))
        first["models"] = second["models"] = {"small": {"prices": {"input": 1, "output": 2}}}
        house = configuration(backends={"first": first, "second": second}, models={"assistant": ["first", "second"]})
        with gateway(folder, house, admin_key=OWNER) as running:
            yield Shell(running)


def test_an_outage_is_a_check(shell: Shell) -> None:
    """Exits with 1 under the bound, or where nothing was recorded that would prove anything."""
    done = shell("policy", "simulate", "acme", "--without", "provider=one", "--min-served", "0.99")
    assert "within the bound" in done.stderr
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("second/small"))
    assert row[1:3] == ["0", "4"]
    assert "outage 4" in done.stdout
    assert re.match(r"without provider=one from \d{4}-\S+ \d\d:\d\d:\d\d to ", done.stdout)
    asked = ["policy", "simulate", "acme", "--without", "provider=one"]
    hour = shell.json(*asked)
    assert hour["outage_until"] - hour["outage_from"] == pytest.approx(3600)
    assert shell.json(*asked, "--for", "all")["outage_from"] is None
    begin = dt.datetime.fromtimestamp(hour["outage_from"] - 60, dt.UTC).isoformat()
    at = shell.json(*asked, "--at", begin, "--for", "10m")
    assert (at["requests"], round(at["outage_until"] - hour["outage_from"])) == (4, 540)
    offline = ["--offline", "--config", shell.running.config, "--store", shell.running.store_url]
    assert shell.json(*asked, "--at", begin, "--for", "10m", *offline) == at
    before = dt.datetime.fromtimestamp(hour["outage_from"] - 7200, dt.UTC).isoformat()
    assert "nothing is proven" in shell(*asked, "--at", before, "--min-served", "0.5", code=1).stderr
    both = ["--without", "provider=one", "--without", "cloud=unlabelled"]
    told = shell("policy", "simulate", "acme", *both, "--min-served", "0.99", code=1)
    assert "0.0000%, below the bound of 99.00%" in told.stderr
    assert "no_backend_available" in told.stdout
    never = shell("policy", "simulate", "acme", "--hours", "0.000001", "--min-served", "0.5", code=1)
    assert "nothing is proven" in never.stderr


def test_a_draft_from_a_file(shell: Shell, tmp_path: Path) -> None:
    """The same as the gateway would say, also without one."""
    draft = tmp_path / "draft.yaml"
    text = shell("policy", "show", "acme").stdout
    draft.write_text(text.replace(": first", ": ?").replace(": second", ": first").replace(": ?", ": second"), "utf-8")
    asked = shell.json("policy", "simulate", "acme", "--file", draft)
    assert (asked["requests"], asked["moved"]) == (4, 4)
    assert asked["changes"][0]["after"] == "second/small"
    offline = ["--offline", "--config", shell.running.config, "--store", shell.running.store_url]
    assert shell.json("policy", "simulate", "acme", "--file", draft, *offline) == asked


def test_portability_is_told_as_a_report_and_when_a_draft_is_applied(shell: Shell, tmp_path: Path) -> None:
    """In what blocks each target, and in a warning with its place."""
    (model,) = shell.json("policy", "portability", "acme")
    assert (model["requests"], model["with_alternative"]) == (4, 4)
    assert "second/small  100.0%" in shell("policy", "portability").stdout
    assert "no requests" in shell("policy", "portability", "nobody").stderr
    draft = tmp_path / "draft.yaml"
    draft.write_text(shell("policy", "show", "acme").stdout.replace("assistant:", "helper:"), "utf-8")
    assert "warning: $.policies.acme.models: has no model" in shell("policy", "apply", draft, "--dry-run").stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["nobody"], 1, "no policy `nobody`"),
        (["acme", "--without", "planet=earth"], 2, "is not any of provider"),
        (["acme", "--without", "provider=won"], 1, "there is one, two"),
        (["acme", "--min-served", "99"], 2, "is not a part"),
        (["acme", "--offline", "--revision", "1"], 1, "--offline knows files only"),
        (["acme", "--for", "2h"], 1, "give --without"),
        (["acme", "--without", "provider=one", "--for", "0s"], 2, "a year at most, or `all`"),
        (["acme", "--without", "provider=one", "--for", "all", "--at", "2026-01-01"], 1, "always was"),
    ],
    ids=[
        *("unknown policy", "unknown domain", "unknown value", "percent", "revision without a gateway"),
        *("nothing away", "for no time", "when all is"),
    ],
)
def test_what_cannot_be_simulated(shell: Shell, words: list[str], code: int, told: str) -> None:
    """Says why."""
    assert told in shell("policy", "simulate", *words, code=code).stderr
