"""The operations page cannot rot: its metrics, commands, settings and links are those of the code."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from bulksms_client.cli import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
SOURCES = [*ROOT.glob("services/*/src/**/*.py"), *ROOT.glob("libs/servicekit/src/**/*.py")]

_CODE = re.compile(r"`([^`\n]+)`")
_BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_METRIC = re.compile(r"(?:campaign|dispatcher|dlr|ledger|rpc|worker)(?:\.[a-z_]+)+")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def quoted() -> list[str]:
    """What stands between backticks outside of blocks."""
    return _CODE.findall(_BLOCK.sub("", PAGE))


def commands(program: str) -> list[list[str]]:
    """The words of every command of a program on the page; each part of `a && b` and `a | b` is one."""
    lines = [line for block in _BLOCK.findall(PAGE) for line in block.splitlines()] + quoted()
    parts = [part.strip() for line in lines for part in re.split(r"&&|\||(?:^|\s)#", line)]
    return [shlex.split(part) for part in parts if re.match(rf"{program} [-a-z]+ \w", part)]


@cache
def instruments() -> frozenset[str]:
    """Names of instruments, as patterns: what the first argument of `create_…` is, or may be."""
    found: set[str] = set()
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        calls = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr.startswith("create_")
        ]
        for call in calls:
            found.update(_patterns(call.args[0], tree) if call.args else ())
    return frozenset(found)


def _patterns(name: ast.expr, tree: ast.AST) -> Iterator[str]:
    match name:
        case ast.Constant(value=str(text)):
            yield re.escape(text)
        case ast.JoinedStr(values=values):
            yield "".join(re.escape(str(v.value)) if isinstance(v, ast.Constant) else "[a-z_]+" for v in values)
        case ast.Name():  # from a table in the same file
            for row in ast.walk(tree):
                if isinstance(row, ast.Tuple) and row.elts and isinstance(row.elts[0], ast.Constant):
                    yield re.escape(str(row.elts[0].value))


def metrics() -> list[str]:
    """Metrics the page names, without their attributes."""
    named = (re.sub(r"\{.*?\}| .*", "", text) for text in quoted())
    return sorted({text for text in named if _METRIC.fullmatch(text)})


def test_the_page_names_metrics_and_commands_at_all() -> None:
    assert len(metrics()) > 20
    assert len(commands("bulksms")) > 25
    assert len(commands("python")) >= 3


@pytest.mark.parametrize("metric", metrics())
def test_every_metric_exists(metric: str) -> None:
    assert any(re.fullmatch(pattern, metric) for pattern in instruments())


def test_a_metric_that_does_not_exist_would_be_noticed() -> None:
    assert not any(re.fullmatch(pattern, "dispatcher.queue.length") for pattern in instruments())


@pytest.mark.parametrize("words", commands("bulksms"), ids=" ".join)
def test_every_command_exists_with_its_options_and_arguments(words: list[str]) -> None:
    # Told by what they offer, not by their classes: typer brings a click of its own.
    root: Any = typer.main.get_command(app)
    command, rest = root, words[1:]
    while hasattr(command, "commands"):
        assert rest[0] in command.commands, f"{rest[0]} is no command of {command.name}"
        command, rest = command.commands[rest[0]], rest[1:]
    options = {name: option for option in [*root.params, *command.params] for name in option.opts}
    given = iter(rest)
    arguments = []
    for word in given:
        if word.startswith("-"):
            assert word in options, f"{command.name} has no option {word}"
            if not getattr(options[word], "is_flag", False):
                next(given)
        else:
            arguments.append(word)
    wanted = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    assert sum(argument.required for argument in wanted) <= len(arguments) <= len(wanted)


@pytest.mark.parametrize("words", commands("python"), ids=" ".join)
def test_every_command_of_a_service_exists_with_its_options(words: list[str]) -> None:
    options = [word for word in words if word.startswith("--")]
    path = [word for word in words[3:] if word.islower() and not word.startswith("-")]
    command = [sys.executable, "-m", words[2], *path, "--help"]
    helped = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert helped.returncode == 0, helped.stderr
    assert [option for option in options if option not in helped.stdout] == []


def test_every_setting_reason_and_state_is_a_word_of_the_code() -> None:
    source = "\n".join(path.read_text() for path in [*SOURCES, *ROOT.glob("protos/bulksms/**/*.proto")])
    settings = set(re.findall(r"^    ([a-z0-9_]+):", source, re.MULTILINE))
    client = (ROOT / "libs/client/src/bulksms_client/options.py").read_text()
    named = set(re.findall(r"\b[A-Z]{2,}(?:_[A-Z]+)+\b", PAGE)) - {"CAMPAIGN_ID", "IMPORT_ID", "BATCH_ID", "MESSAGE_ID"}
    unknown = {word for word in named if word.lower() not in settings and word not in source and word not in client}
    assert unknown == set()


def test_every_link_leads_somewhere() -> None:
    anchors = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in _HEADING.findall(PAGE)}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        else:
            assert (ROOT / "docs" / target).exists(), target
