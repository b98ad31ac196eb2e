"""`python -m tests.matrix`: run the matrix and print it as a table, a row for each feature."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from tests.matrix.dialects import DIALECTS
from tests.matrix.surfaces import SURFACES
from tests.matrix.wishes import WISHES

LEGEND: Final = "Each cell: chat, responses, messages. ✓ served · refused: with 400, by contract · – not there."

Cells = dict[tuple[str, str, str], str]
"""What becomes of each surface, dialect and feature."""


def expected() -> Cells:
    """As the contract has it."""
    return {
        (surface.name, dialect.name, feature): "–"
        if feature in surface.wordless
        else "refused"
        if feature in dialect.wordless
        else "✓"
        for surface in SURFACES
        for dialect in DIALECTS
        for feature in WISHES
    }


def outcomes(report: Path) -> Cells:
    """As it was found, of pytest's report. What no test stands for is not there; what has failed is neither."""
    found = {cell: mark if mark == "–" else "✗" for cell, mark in expected().items()}
    for case in ET.parse(report).iter("testcase"):
        surface, _, rest = case.attrib["name"].partition("[")[2].rstrip("]").partition("-")
        dialect, _, feature = rest.partition("-")
        if case.find("failure") is None and case.find("error") is None and (surface, dialect, feature) in found:
            found[surface, dialect, feature] = expected()[surface, dialect, feature]
    return found


def table(cells: Cells) -> str:
    """Markdown: features down, dialects across."""
    rows = []
    for feature in WISHES:
        of = [[cells[kind.name, dialect.name, feature] for kind in SURFACES] for dialect in DIALECTS]
        rows.append(f"| {feature} | " + " | ".join(" ".join(marks) for marks in of) + " |")
    head = "| | " + " | ".join(dialect.name for dialect in DIALECTS) + " |"
    return "\n".join([head, "|--|" + "--|" * len(DIALECTS), *rows, "", LEGEND, ""])


def main() -> int:
    """Print the table; the exit code is pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = [sys.executable, "-m", "pytest", "-q", "-n", "0", f"--junitxml={report}", "tests/matrix"]
        done = subprocess.run(words, check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.stderr.write(done.stdout)
        sys.stdout.write(table(outcomes(report)))
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
