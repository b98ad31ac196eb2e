"""The import contracts: kept by the code, and each of them bites when it is broken."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
CONTRACTS = ["layers", "sans-io", "workers"]


def verdicts(folder: Path) -> dict[str, str]:
    """Each contract of the project in `folder`: KEPT or BROKEN."""
    done = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache", "--config", str(folder / "pyproject.toml")],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "", "TERM": "dumb", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    names = dict(zip(names_in(folder), CONTRACTS, strict=True))
    found = {
        names[name]: verdict
        for name, verdict in re.findall(r"^(.+?) (KEPT|BROKEN)\b", done.stdout, re.MULTILINE)
        if name in names
    }
    assert len(found) == len(CONTRACTS), done.stdout + done.stderr
    assert done.returncode == (1 if "BROKEN" in found.values() else 0)
    return found


def names_in(folder: Path) -> Sequence[str]:
    return re.findall(
        r'^name = "(.+)"$', (folder / "pyproject.toml").read_text().split("[tool.importlinter]")[1], re.MULTILINE
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources and their contracts, to be broken."""
    for package in ("gateway", "workers"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "*.gz"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_code_keeps_every_contract(copy: Path) -> None:
    assert verdicts(copy) == dict.fromkeys(CONTRACTS, "KEPT")


PLANTED = [
    ("an import that points up", "gateway/domain/usage.py", "from gateway.pipeline import actions", "layers"),
    ("the pipeline asks the door", "gateway/pipeline/bill.py", "from gateway.api import errors", "layers"),
    ("a stage imports its sibling", "gateway/routing/choose.py", "from gateway.admission import limits", "layers"),
    (
        "another sibling, inside a function",
        "gateway/upstream/pool.py",
        "def f(): import gateway.config.schema",
        "layers",
    ),
    ("dialects know no telemetry", "gateway/dialects/sse.py", "import gateway.telemetry.text", "layers"),
    ("a clock in the domain", "gateway/domain/fault.py", "import time", "sans-io"),
    ("a socket in a dialect", "gateway/dialects/openai/stream.py", "import socket", "sans-io"),
    ("async in a dialect", "gateway/dialects/openai/wire.py", "import anyio", "sans-io"),
    ("a worker that knows the pipeline", "workers/trainium/logs.py", "from gateway.pipeline import actions", "workers"),
    ("a worker that logs by the gateway", "workers/trainium/wire.py", "from gateway.telemetry import logs", "workers"),
]


@pytest.mark.parametrize(("file", "line", "contract"), [pytest.param(*rest, id=name) for name, *rest in PLANTED])
def test_a_broken_contract_is_reported(copy: Path, file: str, line: str, contract: str) -> None:
    """`make check` fails for it: a rule that nothing enforces is only a wish."""
    path = copy / file
    path.write_text(f"{path.read_text()}\n{line}\n")
    assert verdicts(copy)[contract] == "BROKEN"


def test_no_contract_has_exceptions() -> None:
    """With `ignore_imports` a rule would say less than it seems to."""
    contracts = (ROOT / "pyproject.toml").read_text().split("[tool.importlinter]")[1]
    assert "ignore_imports" not in contracts
    assert "unmatched_ignore" not in contracts
    assert contracts.count("[[tool.importlinter.contracts]]") == len(CONTRACTS)


def test_every_room_has_its_place_among_the_layers() -> None:
    """A package that no layer names would be bound by nothing."""
    contracts = (ROOT / "pyproject.toml").read_text().split("[tool.importlinter]")[1]
    rooms = {
        path.stem for path in (ROOT / "gateway").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    for room in rooms - {"__init__"}:
        assert re.search(rf"gateway\.{room}\b", contracts), room
