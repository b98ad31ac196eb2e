"""What is compiled means the same compiled, as far as its text can tell; the suite itself says so in `make test`."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """The script that builds the package."""
    spec = importlib.util.spec_from_file_location("build_script", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_the_hot_modules_are_there_and_fit_to_be_compiled(build: ModuleType) -> None:
    files = build.hot_modules()
    assert "gateway/pipeline/exchange.py" in files
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_nothing_is_compiled_unless_it_is_asked_for(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATEWAY_COMPILED", raising=False)
    assert build.compiled() == []


PLANTED = [
    ("class A(msgspec.Struct): x: int", "the compiler would forget the types of the fields of A"),
    ("class A(Value, frozen=True, tag='a'): x: int", "the compiler would forget tag of A"),
    ("class A(Value, frozen=True, gc=False): x: int", "the compiler would forget gc of A"),
    ("class A(Base, **options): pass", "the compiler would forget ** of A"),
    ("class A(Value, frozen=True, kw_only=True): x: int", None),
    ("class A(Leaf, frozen=True, gc=False): x: int", None),
]


@pytest.mark.parametrize(("text", "problem"), PLANTED)
def test_what_would_be_lost_is_named_with_its_place(
    build: ModuleType, tmp_path: Path, text: str, problem: str | None
) -> None:
    file = tmp_path / "hot.py"
    file.write_text(f"\n{text}\n")
    assert build.problems_in(file) == ([] if problem is None else [f"{file}:2: {problem}"])
