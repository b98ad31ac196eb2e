"""Renders the chart with Helm, and keeps what came out beside the values it was made of.

`make chart` writes them anew. A test compares the digest of chart and values in each with what is there now, so that
one that was forgotten is noticed where no Helm is; where there is one, the renderings themselves are compared.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from tests.deploy.reading import DEPLOY

CHART: Final = DEPLOY / "helm/llm-gateway"
RENDERED: Final = Path(__file__).parent / "charts"
SCENARIOS: Final = {
    "example": DEPLOY / "helm/example.values.yaml",
    "full": RENDERED / "full.values.yaml",
    "alone": RENDERED / "alone.values.yaml",
}
HELM: Final = os.environ.get("HELM") or shutil.which("helm")
KUBERNETES: Final = "1.31.0"


def digest(scenario: str) -> str:
    """Of everything that decides what is rendered. What is in `files/` is shown only when monitoring asks for it."""
    found = hashlib.sha256(SCENARIOS[scenario].read_bytes())
    for path in sorted(path for path in CHART.rglob("*") if path.is_file() and path.parent.name != "files"):
        found.update(f"{path.relative_to(CHART)}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def run_helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Helm, with nothing of the developer's."""
    assert HELM is not None
    words = [HELM, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def render(values: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The chart with these values."""
    release = ("gateway", CHART, "--namespace", "llm", "--kube-version", KUBERNETES)
    return run_helm("template", *release, "--values", values, *more)


def kept(scenario: str) -> str:
    """What was rendered when `make chart` last ran."""
    return (RENDERED / f"{scenario}.yaml").read_text("utf-8")


def manifests(text: str) -> list[dict[str, Any]]:
    """The documents of a rendering."""
    return [document for document in yaml.safe_load_all(text) if document]


def heading(scenario: str) -> str:
    """The first line of a kept rendering."""
    return f"# Rendered by `make chart`; sha256 of chart and values: {digest(scenario)}\n"


def main() -> None:
    """Write all renderings anew."""
    if HELM is None:
        raise SystemExit("needs helm, from HELM or the path: go install helm.sh/helm/v3/cmd/helm@v3.19.5")
    for scenario, values in SCENARIOS.items():
        done = render(values)
        if done.returncode:
            raise SystemExit(done.stderr)
        (RENDERED / f"{scenario}.yaml").write_text(heading(scenario) + done.stdout, "utf-8")


if __name__ == "__main__":
    main()
