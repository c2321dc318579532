"""Keys that last: every key and every statement names the tenant, and what changes rows never asks a clock."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import text

import bulksms_campaign.storage
from bulksms_campaign.storage.tables import METADATA
from servicekit.database import Database

STORAGE = sorted(Path(bulksms_campaign.storage.__path__[0]).glob("*.py"))
TABLES = "|".join(METADATA.tables)

KEYS_WITHOUT_TENANT = {"schema_version_pkc": "the migrations' own table: which revision the whole database has"}

TENANT_NOT_FIRST = {"recipients_pkey": "compared at every step down the index, it made results a quarter dearer"}

ACROSS_TENANTS = {
    (
        "tasks",
        "_CLAIM",
    ): "a worker takes the task that is due longest, whichever tenant's it is; by the clock at that moment",
    ("reports", "_FIND"): "a delivery report names the provider's message and no tenant",
    ("message_ids", "_HELD_BY_OTHERS"): "the provider's ids are one space, so an id may be another tenant's",
}
"""Statements that look at several tenants' rows: (module, name) and the reason."""

ASKING_A_CLOCK = {("tasks", "_CLAIM")}
"""Statements that change rows by the clock as it is then; a lease is one of database time."""

_VERB = re.compile(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM)\b")
_TABLE = re.compile(rf"\b(?:FROM|JOIN|INTO|UPDATE|USING)\s+(?:{TABLES})\b")
_CHANGES = re.compile(r"\b(?:INSERT INTO|DELETE FROM|UPDATE (?!SKIP|OF\b))")
_CLOCK = re.compile(
    r"clock_timestamp|\bnow\(\)|statement_timestamp|transaction_timestamp|CURRENT_|LOCALTIME", re.IGNORECASE
)
_BUILDERS = {"select", "insert", "update", "delete"}


class Statement(NamedTuple):
    """SQL as it is written in a module of storage."""

    module: str
    name: str
    sql: str


def texts(node: ast.AST, constants: Mapping[str, str]) -> Iterator[str]:
    """Every string in the code below a node but docstrings, with the module's own constants filled in."""
    match node:
        case ast.Expr(value=ast.Constant()):
            return
        case ast.Constant(value=str(value)):
            yield value
        case ast.JoinedStr(values=values):
            yield "".join(str(v.value) if isinstance(v, ast.Constant) else constants.get(_code(v), "…") for v in values)
        case _:
            for child in ast.iter_child_nodes(node):
                yield from texts(child, constants)


def _code(value: ast.expr) -> str:
    return ast.unparse(value.value) if isinstance(value, ast.FormattedValue) else ""


def statements(path: Path) -> Iterator[Statement]:
    """SQL that names a table: a constant of the module, or all that one function or class writes."""
    constants: dict[str, str] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        sql = "\n".join(texts(node, constants))
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]):
                constants[name] = sql
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                pass
            case _:
                continue
        if _TABLE.search(sql) and (_VERB.search(sql) or "FROM" in sql):
            yield Statement(path.stem, name, sql)


def built(path: Path) -> Iterator[tuple[str, str, int]]:
    """(function, its code, how many statements it builds) of functions that build statements with SQLAlchemy."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            calls = [
                call
                for call in ast.walk(node)
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in _BUILDERS
            ]
            if any(not ast.unparse(call).startswith("select(func.") for call in calls):
                yield node.name, ast.unparse(node), len(calls)


SQL = [statement for path in STORAGE for statement in statements(path)]


async def test_every_key_holds_the_tenant_or_says_why_not(campaign_database: Database) -> None:
    async with campaign_database.connect() as connection:
        rows = await connection.execute(
            text("""
            SELECT c.conname, c.contype, array_agg(a.attname ORDER BY k.place) AS columns
            FROM pg_constraint c
            JOIN pg_namespace n ON n.oid = c.connamespace AND n.nspname = 'public'
            CROSS JOIN LATERAL unnest(c.conkey) WITH ORDINALITY AS k (number, place)
            JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number
            WHERE c.contype IN ('p', 'u', 'f') GROUP BY c.oid, c.conname, c.contype
            """)
        )
        keys = {row.conname: row.columns for row in rows}
        indexes = await connection.execute(
            text("""
            SELECT c.relname, array_agg(pg_get_indexdef(i.indexrelid, n::int, true) ORDER BY n) AS columns
            FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            JOIN pg_namespace s ON s.oid = c.relnamespace AND s.nspname = 'public'
            CROSS JOIN LATERAL generate_series(1, i.indnkeyatts) AS n
            WHERE i.indisunique GROUP BY c.relname
            """)
        )
        keys |= {row.relname: row.columns for row in indexes}
    assert len(keys) > len(METADATA.tables)
    assert {name for name, columns in keys.items() if "tenant_id" not in columns} == set(KEYS_WITHOUT_TENANT)
    not_first = {name for name, columns in keys.items() if columns[0] != "tenant_id"}
    assert not_first == {*KEYS_WITHOUT_TENANT, *TENANT_NOT_FIRST}


async def test_every_table_has_a_tenant_and_none_a_clock_of_its_own(campaign_database: Database) -> None:
    async with campaign_database.connect() as connection:
        rows = await connection.execute(
            text("""
            SELECT table_name, array_agg(column_name::text) AS columns, string_agg(column_default, ' ') AS defaults
            FROM information_schema.columns WHERE table_schema = 'public' GROUP BY table_name
            """)
        )
        tables = {row.table_name: row for row in rows if row.table_name != "schema_version"}
        triggers = (await connection.execute(text("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"))).all()
    assert set(tables) == set(METADATA.tables)
    assert [name for name, row in tables.items() if "tenant_id" not in row.columns] == []
    assert [name for name, row in tables.items() if _CLOCK.search(row.defaults or "")] == []
    assert triggers == []


@pytest.mark.parametrize("statement", SQL, ids=lambda statement: f"{statement.module}.{statement.name}")
def test_every_statement_names_the_tenant_of_every_table_it_uses(statement: Statement) -> None:
    if (statement.module, statement.name) in ACROSS_TENANTS:
        return
    named = statement.sql.count("tenant_id")
    assert named >= len(_TABLE.findall(statement.sql)), statement.sql


@pytest.mark.parametrize("path", STORAGE, ids=lambda path: path.stem)
def test_every_statement_that_is_built_names_the_tenant(path: Path) -> None:
    for function, code, number in built(path):
        named = code.count("tenant_id") - len(re.findall(r"tenant_id: str", code))
        assert named >= number, f"{function} builds {number} statements and names the tenant {named} times"


@pytest.mark.parametrize("statement", SQL, ids=lambda statement: f"{statement.module}.{statement.name}")
def test_no_statement_that_changes_rows_asks_a_clock(statement: Statement) -> None:
    if _CHANGES.search(statement.sql) and (statement.module, statement.name) not in ASKING_A_CLOCK:
        assert not _CLOCK.search(statement.sql), statement.sql


@pytest.mark.parametrize("path", STORAGE, ids=lambda path: path.stem)
def test_no_statement_that_is_built_to_change_rows_asks_a_clock(path: Path) -> None:
    for function, code, _ in built(path):
        changes = re.search(r"\b(?:insert|update|delete)\(", code)
        assert not (changes and "func." in code), f"{function} changes rows and calls a function of the database"


def test_the_exceptions_are_there_and_every_change_of_a_list_advances_its_version() -> None:
    assert set(ACROSS_TENANTS) | ASKING_A_CLOCK <= {(statement.module, statement.name) for statement in SQL}
    moves = [statement.sql for statement in SQL if re.search(r"(?:INTO|UPDATE) contact_counts\b", statement.sql)]
    assert len(moves) == 3
    assert all("version + 1" in sql for sql in moves)


def test_a_statement_without_its_tenant_or_with_a_clock_would_be_seen(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text('_A = f"""UPDATE recipients SET updated_at = now() WHERE campaign_id = {x}"""\n')
    (statement,) = statements(planted)
    assert (statement.name, statement.sql.count("tenant_id")) == ("_A", 0)
    assert _CHANGES.search(statement.sql)
    assert _CLOCK.search(statement.sql)
