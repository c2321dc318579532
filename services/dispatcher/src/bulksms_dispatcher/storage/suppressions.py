"""Suppressions: numbers that opted out, with a version per tenant that arming compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Suppressed", "add", "find", "remove"]


@dataclass(frozen=True, slots=True)
class Suppressed:
    """Those of the numbers asked for that are suppressed, as of a version of the tenant's list."""

    version: int
    phones: frozenset[int]


# The version first: a list that changes in between has a higher version than the one remembered, and arming fails.
_VERSION = text("SELECT coalesce((SELECT version FROM opt_out_versions WHERE tenant_id = :tenant_id), 0)")
_FIND = text("""
    SELECT phone FROM opt_outs
    WHERE tenant_id = :tenant_id AND phone BETWEEN :first AND :last AND phone = ANY(CAST(:phones AS bigint[]))
""")
_RAISE_VERSION = text("""
    INSERT INTO opt_out_versions (tenant_id, version) VALUES (:tenant_id, 1)
    ON CONFLICT (tenant_id) DO UPDATE SET version = opt_out_versions.version + 1
""")
_ADD = text("""
    INSERT INTO opt_outs (tenant_id, phone)
    SELECT :tenant_id, phone FROM unnest(CAST(:phones AS bigint[])) AS phone ORDER BY phone
    ON CONFLICT DO NOTHING
""")
_REMOVE = text("DELETE FROM opt_outs WHERE tenant_id = :tenant_id AND phone = ANY(CAST(:phones AS bigint[]))")


async def find(connection: AsyncConnection, tenant_id: str, phones: Sequence[int]) -> Suppressed:
    """Ask for ascending numbers."""
    version = (await connection.execute(_VERSION, {"tenant_id": tenant_id})).scalar_one()
    if version == 0:
        return Suppressed(0, frozenset())  # nobody has ever opted out: the usual case for a new tenant
    parameters = {"tenant_id": tenant_id, "first": phones[0], "last": phones[-1], "phones": list(phones)}
    rows = (await connection.execute(_FIND, parameters)).scalars()
    return Suppressed(int(version), frozenset(rows))


async def add(connection: AsyncConnection, tenant_id: str, phones: Sequence[int]) -> int:
    """Suppress numbers; returns how many were not suppressed before."""
    await connection.execute(_RAISE_VERSION, {"tenant_id": tenant_id})
    return (await connection.execute(_ADD, {"tenant_id": tenant_id, "phones": list(phones)})).rowcount


async def remove(connection: AsyncConnection, tenant_id: str, phones: Sequence[int]) -> int:
    """Take suppressions back; returns how many there were."""
    await connection.execute(_RAISE_VERSION, {"tenant_id": tenant_id})
    return (await connection.execute(_REMOVE, {"tenant_id": tenant_id, "phones": list(phones)})).rowcount
