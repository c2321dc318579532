"""Command lines on the pages, held against what the programs really offer."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from functools import cache
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Any

import typer

from bulksms_client.cli import app as bulksms
from devstack.cli import app as devstack
from tests.docs.tree import ROOT, exists

__all__ = ["complaint"]

_ASSIGNMENT = re.compile(r"([A-Z][A-Z0-9_]*)=.*", re.DOTALL)
_FORM = re.compile(r"[-a-z]+|-.*")
# Modules that answer --help at once; the others are only looked for.
_WITH_HELP = ("bulksms_", "benchmarks.")


def complaint(words: list[str], page: PurePosixPath, *, mentioned: bool = False) -> str | None:
    """What is wrong with a command, or None; a `mentioned` one may leave its arguments out."""
    if any("<" in word for word in words):  # `python -m <module>`: a form, not a command
        return None
    variables = list(takewhile(_ASSIGNMENT.fullmatch, words))
    words = words[len(variables) :]
    match words:
        case ["bulksms" | "bulksms-devstack" as program, first, *_] if _FORM.fullmatch(first):
            return _typer_complaint(bulksms if program == "bulksms" else devstack, words, mentioned=mentioned)
        case ["make", *targets]:
            return _make_complaint([*targets, *variables])
        case ["python", "-m", module, *rest]:
            return _module_complaint(module, rest)
        case ["python" | "pytest", *rest]:
            return _missing([word for word in rest if "/" in word or word.endswith(".py")], page)
    return None


def _missing(names: list[str], page: PurePosixPath) -> str | None:
    for name in names:
        if not exists(name) and not (ROOT / page.parent / name).exists():
            return f"there is no {name}"
    return None


@cache
def _root(app: typer.Typer) -> Any:
    return typer.main.get_command(app)


def _typer_complaint(app: typer.Typer, words: list[str], *, mentioned: bool) -> str | None:
    # Known by what they offer, not by their classes: typer brings a click of its own.
    root = _root(app)
    command, rest = root, words[1:]
    flags = {name: option for option in root.params for name in option.opts}
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return f"{rest[0]} is no command of {command.name}"
        command, rest = command.commands[rest[0]], rest[1:]
    flags |= {name: option for option in command.params for name in (*option.opts, *option.secondary_opts)}
    arguments = []
    given = iter(rest)
    for word in given:
        if word == "--help":
            continue
        if word.startswith("-") and word != "-":
            if word not in flags:
                return f"{command.name} has no option {word}"
            if not getattr(flags[word], "is_flag", False):
                next(given, None)
        else:
            arguments.append(word)
    wanted = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    # An id that is not required has `--external-id` to stand in its place.
    always = "--external-id" in {name for option in command.params for name in option.opts} - set(rest)
    required = 0 if mentioned else sum(argument.required or always for argument in wanted)
    if not required <= len(arguments) <= len(wanted):
        return f"{command.name} takes {required} to {len(wanted)} arguments, not {len(arguments)}"
    return None


@cache
def _makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


def _make_complaint(words: list[str]) -> str | None:
    for word in words:
        if match := _ASSIGNMENT.fullmatch(word):
            # Some variables are the suites' own: make passes the environment on.
            if not re.search(rf"\b{match[1]}\b", _makefile() + _suites()):
                return f"make knows no variable {match[1]}"
        elif not word.startswith("-") and not re.search(rf"^{re.escape(word)}:", _makefile(), re.MULTILINE):
            return f"make has no target {word}"
    return None


@cache
def _suites() -> str:
    folders = ("tests/faults", "benchmarks")
    return "\n".join(path.read_text(encoding="utf-8") for name in folders for path in (ROOT / name).rglob("*.py"))


def _module_complaint(module: str, rest: list[str]) -> str | None:
    if importlib.util.find_spec(module) is None:
        return f"there is no module {module}"
    if not module.startswith(_WITH_HELP) or not rest:
        return None
    path = [word for word in rest[:2] if re.fullmatch(r"[a-z-]*[a-z]", word) and not word.startswith("-")]
    helped = _help(module, tuple(path) if module.startswith("bulksms_") else ())
    unknown = [word for word in rest if word.startswith("--") and not re.search(rf"{word}\b", helped)]
    return f"{module} has no option {unknown[0]}" if unknown else None


@cache
def _help(module: str, path: tuple[str, ...]) -> str:
    command = [sys.executable, "-m", module, *path, "--help"]
    helped = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert helped.returncode == 0, helped.stderr
    return helped.stdout
