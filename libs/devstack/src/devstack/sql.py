"""Administrative SQL from synchronous code: a few statements on a connection of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import asyncpg

_TIMEOUT_SECONDS = 30.0

_Result = TypeVar("_Result")


def execute(url: str, statements: Sequence[str]) -> None:
    """Run statements one by one, each in its own transaction (CREATE DATABASE allows no other)."""

    async def work(connection: Any) -> None:
        for statement in statements:
            await connection.execute(statement)

    _with_connection(url, work)


def fetch(url: str, query: str, *arguments: object) -> list[tuple[Any, ...]]:
    """Return the rows of one query."""

    async def work(connection: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await connection.fetch(query, *arguments)]

    return _with_connection(url, work)


def identifier(name: str) -> str:
    """Return `name` quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return `text` quoted for SQL, where a parameter cannot stand."""
    return "'" + text.replace("'", "''") + "'"


def _with_connection(url: str, work: Callable[[Any], Awaitable[_Result]]) -> _Result:
    """Run `work` on an event loop in a thread of its own: the caller may be inside a running loop."""

    async def session() -> _Result:
        connection = await asyncpg.connect(url, timeout=_TIMEOUT_SECONDS, command_timeout=_TIMEOUT_SECONDS)
        try:
            return await work(connection)
        finally:
            await connection.close(timeout=5)

    with ThreadPoolExecutor(1, thread_name_prefix="sql") as thread:
        return thread.submit(asyncio.run, session()).result()
