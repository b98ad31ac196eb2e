"""The container files: what they are made of is there, pinned and runs without privileges."""

import fnmatch
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from gateway.config import settings
from tests.deploy.reading import DEPLOY, ROOT

FILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
DIGEST = "@sha256:" + "0" * 64


def instructions(path: Path) -> list[tuple[str, str]]:
    """The file's instructions in order, each with its arguments on one line."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text("utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def image(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    """One container file."""
    return instructions(request.param)


def test_there_is_an_image_of_everything() -> None:
    assert {path.name for path in FILES} == {"gateway.Dockerfile", "worker.Dockerfile", "worker-neuron.Dockerfile"}


def test_a_build_without_a_base_says_what_to_give(image: list[tuple[str, str]]) -> None:
    """The first stage fails in its first line, with a sentence and not with an empty name."""
    argument = next(rest for word, rest in image if word == "FROM")
    assert image[0] == ("ARG", "BASE")
    assert re.match(r"\$\{BASE:\?give .+ by its digest: --build-arg BASE=.*@sha256:", argument)
    assert {rest.split()[0] for word, rest in image if word == "FROM"} <= {
        argument.split(" AS ")[0].split()[0],
        "${BASE}",
    }


@pytest.mark.parametrize(("base", "accepted"), [(f"python:3.11{DIGEST}", True), ("python:3.11", False), ("", False)])
def test_a_base_without_a_digest_is_refused(image: list[tuple[str, str]], base: str, accepted: bool) -> None:
    check = next(rest for word, rest in image if word == "RUN")
    done = subprocess.run(["sh", "-c", check], env={"BASE": base}, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is accepted
    assert accepted or "digest" in done.stderr


def test_only_locked_wheels_are_installed(image: list[tuple[str, str]]) -> None:
    """Every pip line takes hashes and no source, or installs this repository alone."""
    commands = [each for word, rest in image if word == "RUN" for each in rest.split("&&")]
    installs = [each for each in commands if "pip install" in each]
    assert installs
    for line in installs:
        assert {"--require-hashes", "--only-binary"} <= set(shlex.split(line)) or "--no-deps" in line
    for name in re.findall(r"requirements/([a-z]+)\.txt", " ".join(installs)):
        assert (ROOT / "requirements" / f"{name}.txt").is_file()


def test_it_runs_as_a_user_with_a_number(image: list[tuple[str, str]]) -> None:
    """A number, so that an orchestrator can tell that it is not root."""
    assert [rest for word, rest in image if word == "USER"][-1] == "10001:10001"


@pytest.mark.parametrize("more", [{}, {"GATEWAY_STORE": "redis://redis:6379"}], ids=["alone", "with a Redis"])
def test_the_ledger_is_on_the_volume(more: dict[str, str]) -> None:
    """In the same place whether a Redis keeps the limits or not, so that one may be added later."""
    image = instructions(DEPLOY / "docker/gateway.Dockerfile")
    given = dict(pair.split("=", 1) for word, rest in image if word == "ENV" for pair in shlex.split(rest))
    volume = next(rest for word, rest in image if word == "VOLUME")
    assert settings.read(given | more).store == Path(volume) / "gateway.sqlite"


def test_it_says_when_it_is_well(image: list[tuple[str, str]]) -> None:
    check = next(rest for word, rest in image if word == "HEALTHCHECK")
    program = re.search(r'"-c", "(.+)"\]$', check)
    assert program is not None
    compile(program[1], "HEALTHCHECK", "exec")
    assert "/healthz" in check or "/health'" in check
    assert "timeout=2" in program[1]


def test_what_it_copies_is_in_the_build_context(image: list[tuple[str, str]]) -> None:
    """Each source exists, and `.dockerignore` lets it through."""
    kept = {line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = [shlex.split(rest)[:-1] for word, rest in image if word == "COPY" and "--from" not in rest]
    for source in (each.rstrip("/") for line in sources for each in line):
        assert (ROOT / source).exists()
        assert any(fnmatch.fnmatch(source, pattern) for pattern in kept), source


def test_nothing_else_is_in_the_build_context() -> None:
    """The list is of what goes in: a forgotten secret or ledger stays out by itself."""
    first = next(line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#"))
    assert first == "*"


@pytest.mark.parametrize("name", ["base", "build", "clouds", "worker"])
def test_every_locked_requirement_has_hashes(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8").replace("\\\n", " ")
    pinned = [line for line in text.splitlines() if re.match(r"[A-Za-z0-9]", line)]
    assert pinned
    assert all("==" in line and "--hash=sha256:" in line for line in pinned)


def test_the_clouds_extra_moves_nothing() -> None:
    """An image with clouds' credentials runs the versions that the tests ran."""

    def pins(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([\w.\[\]-]+)==(\S+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE))

    tested = pins("dev.txt")
    assert {name: version for name, version in pins("clouds.txt").items() if tested.get(name) != version} == {}
