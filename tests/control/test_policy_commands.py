"""`gateway policy …` against a running gateway, as an operator types it."""

from pathlib import Path

import pytest

from tests.control.operator import Shell
from tests.running.gateway import closed_port, command


@pytest.fixture
def file(shell: Shell, tmp_path: Path) -> Path:
    """The policy of `acme` as the gateway has it, with a limit of its own added."""
    path = tmp_path / "acme.yaml"
    path.write_text(shell("policy", "show", "acme").stdout + "    limits: {requests_per_minute: 7}\n", "utf-8")
    return path


def holds(shell: Shell, name: str) -> str:
    (row,) = [row for row in shell.table("policy", "list") if row[0] == name]
    return " ".join(row[1 : row.index("draft") + 1] if "draft" in row else row[1:-3])


def test_what_is_shown_can_be_applied_and_changes_nothing(shell: Shell, tmp_path: Path) -> None:
    """A whole file, which `check` would need backends for."""
    path = tmp_path / "other.yaml"
    path.write_text(shell("policy", "show", "other").stdout, "utf-8")
    done = shell("policy", "apply", path, "--activate", "--exit-code")
    assert (done.stdout, done.stderr) == ("", "0 of 1 policies differ from what holds\n")
    assert holds(shell, "other") == "files"


def test_a_policy_is_tried_applied_activated_and_taken_back(shell: Shell, file: Path) -> None:
    """The way of a change, with a difference at every step; nothing is written twice."""
    dry = shell("policy", "apply", file, "--dry-run")
    assert "+limits: {requests_per_minute: 7}\n" in dry.stdout
    assert [line for line in dry.stdout.splitlines() if line[0] == "-"] == ["--- acme, what holds"]
    assert shell("policy", "apply", file, "--dry-run", "--exit-code", code=3).stdout == dry.stdout
    assert shell.json("policy", "list")[0]["revisions"] == 0

    for _ in range(2):
        assert "revision 1 is written" in shell("policy", "apply", file).stderr
    assert holds(shell, "acme") == "files"
    assert shell("policy", "diff", "acme", 1).stdout
    shell("policy", "apply", file, "--activate")
    assert holds(shell, "acme") == "revision 1"
    assert shell("policy", "diff", "acme", file, "--exit-code").stdout == ""
    assert "-limits" in shell("policy", "diff", "acme", 0, "--exit-code", code=3).stdout
    assert [(each["number"], each["is_active"]) for each in shell.json("policy", "list", "acme")] == [(1, True)]
    assert [row[-1] for row in shell.table("policy", "list", "acme")] == ["holds"]

    assert "what the files say holds" in shell("policy", "rollback", "acme").stderr
    assert holds(shell, "acme") == "files"
    assert "limits" not in shell("policy", "show", "acme").stdout
    assert "limits" in shell("policy", "show", "acme", "--revision", 1).stdout
    assert "revision 1 holds" in shell("policy", "rollback", "acme").stderr
    shell("policy", "activate", "acme", 0)
    assert holds(shell, "acme") == "files"

    told = shell.json("policy", "apply", file, "--dry-run")
    assert [(each["policy"], each["revision"], each["holds"]) for each in told] == [("acme", None, False)]
    assert told[0]["difference"] == dry.stdout
    (done,) = shell.json("policy", "apply", file, "--activate")
    assert (done["revision"], done["holds"]) == (1, True)
    assert shell.json("policy", "diff", "acme", file) == {"policy": "acme", "difference": ""}
    assert shell.json("policy", "rollback", "acme")["number"] == 0


def test_every_mistake_of_every_policy_has_its_line(shell: Shell, tmp_path: Path) -> None:
    """And nothing is written, not even the policy without one."""
    targets = "single_provider_ack: true, targets: [{backend: first, model: small}]"
    alone = targets.partition(", ")[2]
    (tmp_path / "good.yaml").write_text(f"version: 1\npolicies: {{good: {{models: {{m: {{{targets}}}}}}}}}\n", "utf-8")
    (tmp_path / "worse.yaml").write_text(
        "version: 1\npolicies:\n"
        f"  bad: {{models: {{m: {{{targets}}}}}, limits: {{requests_per_minute: 0}}, odd: 1}}\n"
        f"  lonely: {{models: {{m: {{{alone}}}}}}}\n"
        f"  worse: {{models: {{m: {{{targets.replace('first', 'nowhere')}}}}}}}\n",
        "utf-8",
    )
    before = len(shell.json("audit"))
    said = shell("policy", "apply", tmp_path, "--activate", code=1).stderr
    assert shell("policy", "apply", tmp_path, "--dry-run", code=1).stderr == said
    assert [line.split(":")[0].strip() for line in said.splitlines() if line.startswith("  $")] == [
        "$.policies.bad.limits.requests_per_minute",
        "$.policies.bad.odd",
        "$.policies.lonely.models.m",
        "$.policies.worse.models.m.targets[0].backend",
    ]
    assert len(shell.json("audit")) == before


def test_a_draft_of_a_new_policy_is_listed_and_compared_with_nothing(shell: Shell, tmp_path: Path) -> None:
    """It does not hold, so that all of it is a difference until it is activated."""
    path = tmp_path / "fresh.yaml"
    path.write_text(shell("policy", "show", "other").stdout.replace("other:", "fresh:"), "utf-8")
    shell("policy", "apply", path)
    assert holds(shell, "fresh") == "draft"
    assert shell.json("policy", "show", "fresh") == shell.json("policy", "show", "other")
    text = shell("policy", "apply", path, "--activate", "--exit-code", code=3).stdout
    assert {line[0] for line in text.splitlines()[2:]} == {"@", "+"}
    assert holds(shell, "fresh") == "revision 1"
    assert "has no revision 0" in shell("policy", "rollback", "fresh", code=1).stderr


def test_what_else_stands_in_a_file_is_named_and_left(shell: Shell, tmp_path: Path) -> None:
    """So that nobody thinks that a backend was changed."""
    folder = tmp_path / "house"
    folder.mkdir()
    (folder / "all.yaml").write_bytes(shell.running.config.read_bytes())
    done = shell("policy", "apply", folder)
    assert "not what else is there: backends, tenants" in done.stderr
    (folder / "twice.yaml").write_bytes(shell.running.config.read_bytes())
    assert "stands in several files" in shell("policy", "apply", folder, code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["show", "nobody"], "there is no policy `nobody`"),
        (["show", "acme", "--revision", "99"], "no revision 99"),
        (["list", "nobody"], "no revisions"),
        (["diff", "acme", "/nowhere.yaml"], "/nowhere.yaml: cannot be read"),
        (["diff", "nobody", "policies"], "policies has no policy `nobody`"),
        (["activate", "acme", "99"], "no revision 99"),
        (["rollback", "nobody"], "Nothing held before"),
        (["apply", "/nowhere.yaml"], "/nowhere.yaml: cannot be read"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_what_is_not_there_is_named(shell: Shell, arguments: list[str], reason: str) -> None:
    """One sentence on stderr, nothing on stdout."""
    done = shell("policy", *arguments, code=1)
    assert done.stdout == ""
    assert reason in done.stderr


def test_an_api_that_is_not_there_or_knows_no_such_key_is_told_with_the_remedy(shell: Shell) -> None:
    """The variable by its name, and never what is in it."""
    with closed_port() as port:
        place = {"GATEWAY_ADMIN_URL": f"http://127.0.0.1:{port}"}
        gone = command("policy", "list", environ=place | {"GATEWAY_ADMIN_KEY": "some-key"})
        keyless = command("policy", "list", environ=place)
    public = command("policy", "list", "--admin", shell.running.url, environ={"GATEWAY_ADMIN_KEY": "some-key"})
    odd = command("policy", "list", "--admin", "me:secret@host", environ={"GATEWAY_ADMIN_KEY": "some-key"})
    nowhere = shell("policy", "list", "--admin", "http://999.1.1.1", code=1).stderr
    assert "http://999.1.1.1 is no address" in nowhere
    url = {"GATEWAY_ADMIN_URL": shell.url}
    wrong = command("policy", "list", environ=url | {"GATEWAY_ADMIN_KEY": "some-key"})
    for done, words in (
        (gone, ["cannot be reached", "--admin URL", "GATEWAY_ADMIN_URL"]),
        (keyless, ["GATEWAY_ADMIN_KEY is not set"]),
        (public, ["--admin-port"]),
        (odd, ["an address such as http://127.0.0.1:8081"]),
        (wrong, ["does not accept the key in GATEWAY_ADMIN_KEY"]),
    ):
        assert (done.returncode, done.stdout) == (1, "")
        assert [word for word in words if word not in done.stderr] == [], done.stderr
        assert "some-key" not in done.stderr
        assert "secret" not in done.stderr
    assert "Traceback" not in gone.stderr
