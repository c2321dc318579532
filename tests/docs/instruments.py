"""Names of the metrics the code makes, read from its `create_…` calls."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

from tests.docs.tree import ROOT

__all__ = ["is_metric"]

SOURCES = (*ROOT.glob("services/*/src/**/*.py"), *ROOT.glob("libs/servicekit/src/**/*.py"))


def is_metric(name: str) -> bool:
    """True when some process makes an instrument of this name."""
    return any(re.fullmatch(pattern, name) for pattern in _patterns_of_instruments())


@cache
def _patterns_of_instruments() -> frozenset[str]:
    """What the first argument of `create_…` is, or may be."""
    found: set[str] = set()
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Attribute(attr=method), args=[name, *_]) if method.startswith("create_"):
                    found.update(_patterns(name, tree))
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
