"""Completion for bash, made of the command line itself: what may follow what. Pure but for printing.

A word that no command, option or choice begins with is completed as a file's name.
"""

# ruff: noqa: T201  # printing is the job

import argparse
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.control.commands import Commands

HEAD = """\
# Completion of `gateway` for bash. In ~/.bashrc: source <(gateway completion bash)
_gateway() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} path=gateway at found=
    for ((at = 1; at < COMP_CWORD; at++)); do
        case "$path ${COMP_WORDS[at]}" in
"""


@dataclass(frozen=True, slots=True)
class Level:
    """What may be typed behind some commands."""

    path: str
    """The commands so far: `gateway policy list`."""
    commands: tuple[str, ...]
    options: tuple[str, ...]
    values: tuple[tuple[str, tuple[str, ...]], ...]
    """Options that take a value, and the values that they take; none for those that take any."""


def add_completion(commands: Commands, whole: argparse.ArgumentParser) -> None:
    """Add `gateway completion bash`, for the whole command line."""
    adding = commands.add_parser(
        "completion",
        help="print the completion for a shell",
        description="Prints a script that completes commands, options and their values. In ~/.bashrc: "
        "source <(gateway completion bash)",
    )
    adding.add_argument("shell", choices=["bash"], help="the shell that reads it")
    adding.set_defaults(run=lambda _arguments: _print(whole))


def _print(parser: argparse.ArgumentParser) -> int:
    print(script(parser), end="")
    return 0


def script(parser: argparse.ArgumentParser) -> str:
    """The bash script for this command line."""
    found = [*levels(parser, parser.prog)]
    lines = [HEAD]
    if paths := [level.path for level in found[1:]]:
        lines.append(f'            {_any(paths)}) path="$path ${{COMP_WORDS[at]}}" ;;\n')
    lines.append('        esac\n    done\n    case "$path $previous" in\n')
    for level in found:
        for values in dict.fromkeys(values for _, values in level.values):
            places = _any([f"{level.path} {option}" for option, taken in level.values if taken == values])
            lines.append(f"        {places}) found={shlex.quote(' '.join(values))} ;;\n")
    lines.append('        *) case "$path" in\n')
    for level in found:
        words = " ".join((*level.commands, *level.options))
        lines.append(f"            {shlex.quote(level.path)}) found={shlex.quote(words)} ;;\n")
    lines.append("        esac ;;\n    esac\n")
    lines.append('    COMPREPLY=($(compgen -W "$found" -- "$current"))\n}\n')
    lines.append("complete -o default -F _gateway gateway\n")
    return "".join(lines)


def levels(parser: argparse.ArgumentParser, path: str) -> Iterator[Level]:
    """The parser's level, then those of its commands."""
    commands: dict[str, argparse.ArgumentParser] = {}
    options: list[str] = []
    values: list[tuple[str, tuple[str, ...]]] = []
    choices: list[str] = []
    for action in parser._actions:  # noqa: SLF001  # argparse has no other way to its own content
        named = tuple(map(str, action.choices or ()))
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  # nor a public name for this
            commands |= action.choices
        elif not action.option_strings:
            choices += named
        elif action.nargs == 0:
            options += action.option_strings
        else:
            options += action.option_strings
            values += [(option, named) for option in action.option_strings]
    yield Level(path, (*commands, *choices), tuple(options), tuple(values))
    for name, inner in commands.items():
        yield from levels(inner, f"{path} {name}")


def _any(words: list[str]) -> str:
    return " | ".join(map(shlex.quote, words))
