"""The command line as a shell sees it: exit codes, what is on stdout, what is on stderr."""

import datetime as dt
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.accounting.journal import Journal
from gateway.domain.ledger import LedgerEntry, Outcome
from gateway.domain.usage import Usage

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "policies"
SMALLEST = """
version: 1
backends: {own: {dialect: openai, base_url: https://own.example/v1, models: {m: {}}}}
policies: {standard: {models: {assistant: {targets: [{backend: own, model: m}]}}}}
tenants: {acme: {policy: standard}}
"""
KEY = re.compile(r"sk-gw-[a-z2-7]{12}-[a-z2-7]{52}\n")


def gateway(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "COLUMNS": "100", "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-m", "gateway", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=clean | environ, capture_output=True, text=True, timeout=60, check=False
    )


def entry(request_id: str, tenant: str, at: float) -> LedgerEntry:
    return LedgerEntry(
        exchange=f"x-{request_id}",
        request_id=request_id,
        attempt=1,
        at=at,
        tenant=tenant,
        key="k",
        model="assistant",
        backend="worker",
        upstream_model="small",
        outcome=Outcome.OK,
        usage=Usage(input_tokens=1, output_tokens=2),
        charge_nano_usd=3,
        cost_nano_usd=3,
        price_version="1-1-1-1",
        policy="demo@00000000",
    )


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/gateway.sqlite"


def test_check_says_what_a_sound_configuration_holds() -> None:
    """Warnings do not fail it: a secret may be set where the gateway runs and not where it is checked."""
    done = gateway("check", DEMO)
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert [line.split(": ")[0] for line in lines] == ["warning", "warning", "ok"]
    assert re.fullmatch(r"ok: 3 backends, 1 policy, 1 tenant \(revision [0-9a-f]{8}\)", lines[-1])
    assert gateway("check", GATEWAY_CONFIG=str(DEMO)).stdout == done.stdout
    strict = gateway("check", "--strict", DEMO)
    assert strict.returncode == 1
    assert strict.stdout.splitlines()[-1] == lines[-1].replace("ok: ", "2 warnings in ")


def test_check_names_every_mistake_and_exits_with_1(tmp_path: Path) -> None:
    """One line each, on stdout, and how many."""
    file = tmp_path / "x.yaml"
    file.write_text("version: 1\ntenants: {a: {policy: b}, c: {polcy: b}}\n")
    done = gateway("check", file)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        f"{file}: $.tenants.c.polcy: unknown field `polcy`; did you mean `policy`?",
        f"{file}: $.tenants.c: `policy` is missing",
        f"{file}: $.tenants.a.policy: names policy `b`, which is not in `policies`",
        "3 mistakes",
    ]
    assert gateway("check").stdout.startswith("configuration: no path was given")


def test_check_refuses_what_hangs_on_one_provider(tmp_path: Path) -> None:
    """With its place and what to do, to people and programs; the line that it names is all that is missing."""
    file = tmp_path / "x.yaml"
    file.write_text(SMALLEST)
    done = gateway("check", file)
    place, reason = "$.policies.standard.models.assistant", "only the provider `own` serves it"
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "1 mistake")
    assert done.stdout.startswith(f"{file}: {place}: {reason}")
    assert "say `single_provider_ack: true`" in done.stdout
    (mistake,) = json.loads(gateway("check", "--json", file).stdout)["mistakes"]
    assert (mistake["path"], mistake["message"].partition(":")[0]) == (place, reason)
    file.write_text(SMALLEST.replace("assistant: {", "assistant: {single_provider_ack: true, "))
    assert gateway("check", file).returncode == 0


def test_check_tells_programs_the_same(tmp_path: Path) -> None:
    """Each mistake with its file and place; the exit code as for people."""
    file = tmp_path / "bad.yaml"
    file.write_text("version: 1\npolicies: {p: {models: {}, odd: 1}}\n")
    done = gateway("check", "--json", file)
    told = json.loads(done.stdout)
    assert (done.returncode, told["revision"]) == (1, None)
    assert (str(file), "$.policies.p.odd") in {(each["file"], each["path"]) for each in told["mistakes"]}
    sound = gateway("check", "--json", DEMO)
    told = json.loads(sound.stdout)
    assert (sound.returncode, told["mistakes"]) == (0, [])
    assert len(told["revision"]) == 8
    assert told["warnings"]


def test_schema_prints_and_checks(tmp_path: Path) -> None:
    """Stale or missing: exit 1, and the command that helps."""
    printed = gateway("schema")
    assert printed.returncode == 0
    assert json.loads(printed.stdout)["title"] == "Gateway configuration"
    fresh = tmp_path / "fresh.json"
    fresh.write_text(printed.stdout, encoding="utf-8")
    assert gateway("schema", "--check", fresh).returncode == 0
    fresh.write_text(printed.stdout + " ", encoding="utf-8")
    for file in (fresh, tmp_path / "missing.json"):
        done = gateway("schema", "--check", file)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.rstrip().endswith("make schema")


def test_a_key_is_made_listed_and_revoked(store: str) -> None:
    """The key alone is on stdout, so it can be piped; the list never shows it."""
    made = gateway(
        "keys", "create", "demo", "--name", "ci", "--models", "gpt,llama", "--config", DEMO, "--store", store
    )
    assert made.returncode == 0
    assert KEY.fullmatch(made.stdout)
    assert "only time" in made.stderr
    assert "within 5 seconds" in made.stderr
    assert made.stdout.strip() not in made.stderr
    public_id, secret = made.stdout.strip().split("-")[2:]

    (header, row) = gateway("keys", "list", "--store", store).stdout.splitlines()
    assert header.split() == ["PUBLIC", "ID", "TENANT", "NAME", "MODELS", "ENDPOINTS", "CREATED", "EXPIRES", "STATE"]
    assert row.split()[:4] == [public_id, "demo", "ci", "gpt,llama"]
    assert row.split()[-2:] == ["never", "active"]
    assert secret not in row

    assert gateway("keys", "revoke", public_id, GATEWAY_STORE=store).returncode == 0
    assert gateway("keys", "list", "--store", store).stdout.splitlines()[1].split()[-2] == "revoked"


def test_a_key_without_a_configuration_is_made_with_a_word_of_caution(store: str) -> None:
    """The name cannot be checked then."""
    done = gateway("keys", "create", "anyone", "--store", store)
    assert done.returncode == 0
    assert "not checked" in done.stderr


async def test_the_ledger_is_exported_as_json_lines(store: str, tmp_path: Path) -> None:
    """All of it, or one tenant's, one request's, or what came since a moment."""
    journal = Journal(tmp_path / "gateway.sqlite")
    journal.open()
    noon = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC).timestamp()
    facts = [("r1", "acme", noon), ("r2", "zeta", noon + 3600)]
    journal.submit([entry(request_id, tenant, at) for request_id, tenant, at in facts], lambda _: None)
    await journal.close(10)

    def exported(*options: str) -> list[str]:
        done = gateway("ledger", "export", "--store", store, *options)
        assert done.returncode == 0, done.stderr
        return [json.loads(line)["request_id"] for line in done.stdout.splitlines()]

    assert exported() == ["r1", "r2"]
    assert exported("--tenant", "acme") == ["r1"]
    assert exported("--request-id", "r2") == ["r2"]
    assert exported("--since", "2026-11-24T12:30:00") == ["r2"]
    assert exported("--since", "2026-11-24T14:00:00+01:00") == ["r2"]
    assert exported("--since", "2026-11-25") == []


def test_what_cannot_be_done_exits_with_1_and_says_why(store: str, tmp_path: Path) -> None:
    """Nothing on stdout, no traceback."""
    (tmp_path / "broken.sqlite").write_bytes(b"not a database, but long enough to be read as one" * 20)
    (tmp_path / "broken-keys.sqlite").write_bytes(b"not a database, but long enough to be read as one" * 20)
    broken = f"sqlite://{tmp_path}/broken.sqlite"
    cases = [
        (["keys", "create", "nobody", "--config", str(DEMO), "--store", store], "no tenant `nobody`"),
        (["keys", "create", "demo", "--config", "/nowhere.yaml", "--store", store], "/nowhere.yaml: cannot be read"),
        (["keys", "create", "demo", "--expires", "2020-01-01", "--store", store], "expired already"),
        (["keys", "create", "demo", "--store", "redis://a,b"], "several hosts"),
        (["keys", "create", "demo", "--store", broken], "the key store cannot be used"),
        (["keys", "list", "--store", broken], "broken-keys.sqlite"),
        (["keys", "revoke", "abc", "--store", store], "no such key"),
        (["ledger", "export", "--store", store], "journal"),
        (["ledger", "export", "--store", broken], "journal"),
    ]
    for arguments, reason in cases:
        done = gateway(*arguments)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert done.stderr.startswith("gateway: "), arguments
        assert reason in done.stderr, arguments


@pytest.mark.parametrize(
    "arguments", [[], ["keys"], ["keys", "create"], ["keys", "create", "x", "--expires", "soon"], ["fly"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    """As everywhere in a shell."""
    assert gateway(*arguments).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["check", "schema", "keys", "ledger"]),
        (["check"], ["every mistake", "GATEWAY_CONFIG", "exits with 1"]),
        (["keys", "create"], ["cannot be shown again", "first day (UTC)"]),
        (["keys", "revoke"], ["PUBLIC_ID"]),
        (["ledger", "export"], ["JSON", "--since"]),
    ],
)
def test_help_says_what_a_command_does(arguments: list[str], words: list[str]) -> None:
    """Without configuration and without a store."""
    done = gateway(*arguments, "--help")
    text = " ".join(done.stdout.split()).lower()
    assert done.returncode == 0
    assert [word for word in words if word.lower() not in text] == []


def test_a_bad_store_does_not_keep_a_configuration_from_being_checked() -> None:
    """`check` needs none."""
    assert gateway("check", DEMO, GATEWAY_STORE="redis://localhost").returncode == 0
