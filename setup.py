"""Builds the package; with GATEWAY_COMPILED=1 its hot modules are compiled to machine code, from the same sources.

The compiler is mypyc, which comes with mypy and needs a C compiler. Nothing else changes: a compiled module is imported
in place of the source beside it, and tests run with either (`make test`). What is compiled is named in
pyproject.toml, because what a class is told by keywords is lost on the way (mypyc reads none but `metaclass`): such
classes are either elsewhere or inherit what they need, which is checked here.
"""

import ast
import os
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
INHERITED = {"Leaf": {"frozen", "gc"}, "Value": {"frozen"}}
"""Base class → the keywords that it stands for."""
CHECKED = {"kw_only"}
"""Keywords that are for type checkers alone, as long as the fields with defaults are the last ones."""


def hot_modules() -> list[str]:
    """The files to compile. Raises SystemExit, naming the place, for one whose meaning would change."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["gateway"]["compiled"]
    files = [_file(module) for module in named]
    problems = [problem for file in files for problem in problems_in(Path(file))]
    if problems:
        raise SystemExit("\n".join(problems))
    return files


def _file(module: str) -> str:
    path = Path(module.replace(".", "/"))
    return str(path / "__init__.py" if (ROOT / path).is_dir() else f"{path}.py")


def problems_in(file: Path) -> list[str]:
    """What in that file, relative to the root, would not mean the same."""
    found = []
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ClassDef):
            continue
        bases = {ast.unparse(base) for base in node.bases}
        lost = {keyword.arg or "**" for keyword in node.keywords} - CHECKED
        for base in bases:
            lost -= INHERITED.get(base, set())
        if lost:
            found.append(f"{file}:{node.lineno}: the compiler would forget {', '.join(sorted(lost))} of {node.name}")
        if "msgspec.Struct" in bases:
            found.append(f"{file}:{node.lineno}: the compiler would forget the types of the fields of {node.name}")
    return found


def compiled() -> list[object]:
    """The extension modules; none unless they are asked for."""
    if os.environ.get("GATEWAY_COMPILED") != "1":
        return []
    from mypyc.build import mypycify

    extensions = mypycify(
        ["--config-file=pyproject.toml", *hot_modules()],
        opt_level="3",
        debug_level="0",
        multi_file=True,
        group_name="gateway",
    )
    for extension in extensions:
        # mypyc makes errors of warnings in its own generated C, which differ from one C compiler to the next.
        extension.extra_compile_args = [word for word in extension.extra_compile_args if word != "-Werror"] + ["-w"]
    return extensions


if __name__ == "__main__":
    setup(ext_modules=compiled())
