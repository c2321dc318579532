"""Loggers, meters, tracers and workers are named by one scheme: `bulksms.<service>.<noun>`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.instruments import SOURCES
from tests.docs.tree import ROOT

_NAMED = {"get_logger", "get_meter", "get_tracer", "PeriodicWorker"}
_SCHEME = re.compile(r"bulksms\.(?:campaign|dispatcher|dlr_gateway|ledger|servicekit)(?:\.[a-z_0-9]+)+")


def names_given(source: str) -> Iterator[str]:
    """First arguments of the calls that name something; what is filled in later stands as `x`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[name, *_]) if called in _NAMED:
                match name:
                    case ast.Constant(value=str(text)):
                        yield text
                    case ast.JoinedStr(values=values):
                        yield "".join(str(v.value) if isinstance(v, ast.Constant) else "x" for v in values)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_logged_measured_and_traced_is_named_for_its_service_and_a_noun(path: Path) -> None:
    assert [name for name in names_given(path.read_text(encoding="utf-8")) if not _SCHEME.fullmatch(name)] == []


def test_names_are_found_however_they_are_given() -> None:
    source = 'a = logs.get_logger("one")\nb = PeriodicWorker(f"two.{kind}.{1}", second, body)\nget_tracer(name)'
    assert list(names_given(source)) == ["one", "two.x.x"]
