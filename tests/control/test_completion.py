"""Completion in bash, by a bash: what is offered behind what."""

import shlex
import subprocess
from pathlib import Path

import pytest

from gateway.__main__ import build_parser
from gateway.control.completion import levels, script

LEVELS = {level.path: level for level in levels(build_parser(), "gateway")}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script."""
    path = tmp_path_factory.mktemp("completion") / "gateway.bash"
    path.write_text(script(build_parser()), "utf-8")
    return path


def offered(file: Path, *lines: str) -> list[list[str]]:
    """What a bash that read the script offers for the last word of each line."""
    asked = [f"source {shlex.quote(str(file))}"]
    for line in lines:
        words = line.split(" ")
        asked += [
            f"COMP_WORDS=({' '.join(map(shlex.quote, words))}) COMP_CWORD={len(words) - 1} COMPREPLY=()",
            '_gateway; echo "${COMPREPLY[*]}"',
        ]
    done = subprocess.run(
        ["bash", "--norc", "-u", "-c", "\n".join(asked)],  # whichever bash there is
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split() for line in done.stdout.splitlines()]


OF_PEOPLE = {"demo", "serve", "schema", "ledger export", "ledger verify", "import litellm", "import portkey"}
"""Commands that run something, or print a document of their own."""


def test_every_command_has_an_answer_for_programs() -> None:
    """`--json`: also those that only do something."""
    leaves = {
        level.path.removeprefix("gateway ")
        for level in LEVELS.values()
        if not level.commands and level.path != "gateway completion"
    }
    without = {path for path in leaves if "--json" not in LEVELS[f"gateway {path}"].options}
    assert without == OF_PEOPLE


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gateway po", ["policy"]),
        ("gateway policy roll", ["rollback"]),
        ("gateway policy apply some.yaml --dry", ["--dry-run"]),
        ("gateway policy apply --dry-run --act", ["--activate"]),
        ("gateway serve --http ", ["edge", "asgi"]),
        ("gateway serve --config ", []),
        ("gateway completion ba", ["bash"]),
        ("gateway backends drain --ad", ["--admin"]),
        ("gateway explain wh", []),
    ],
)
def test_what_may_follow_is_offered(file: Path, line: str, words: list[str]) -> None:
    """Where nothing is, bash completes a file's name."""
    assert offered(file, line) == [words]


def test_every_level_offers_what_it_has(file: Path) -> None:
    """Each command's own commands and options, and no other's."""
    found = offered(file, *(f"{path} " for path in LEVELS))
    assert found == [[*level.commands, *level.options] for level in LEVELS.values()]
    assert "gateway policy rollback" in LEVELS
