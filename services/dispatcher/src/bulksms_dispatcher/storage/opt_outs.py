"""Opt-outs: numbers that opted out, each with the version of its tenant's list that it came with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["OptedOut", "add", "find", "remove"]


@dataclass(frozen=True, slots=True)
class OptedOut:
    """Those of the numbers asked for that have opted out, as of a version of the tenant's list."""

    version: int
    """Whoever came into the list later has a higher one: arming asks for them."""
    phones: frozenset[int]


# The version first: who opts out in between has a higher one than is remembered, and arming finds him.
_VERSION = text("SELECT coalesce((SELECT version FROM opt_out_versions WHERE tenant_id = :tenant_id), 0)")
_FIND = text("""
    SELECT phone FROM opt_outs
    WHERE tenant_id = :tenant_id AND phone BETWEEN :first AND :last AND phone = ANY(CAST(:phones AS bigint[]))
""")
# Its row is locked until the commit: a tenant's list changes once at a time, and versions become visible in order.
_RAISE_VERSION = text("""
    INSERT INTO opt_out_versions (tenant_id, version) VALUES (:tenant_id, 1)
    ON CONFLICT (tenant_id) DO UPDATE SET version = opt_out_versions.version + 1
    RETURNING version
""")
_ADD = text("""
    INSERT INTO opt_outs (tenant_id, phone, version)
    SELECT :tenant_id, phone, :version FROM unnest(CAST(:phones AS bigint[])) AS phone ORDER BY phone
    ON CONFLICT DO NOTHING
""")
_REMOVE = text("DELETE FROM opt_outs WHERE tenant_id = :tenant_id AND phone = ANY(CAST(:phones AS bigint[]))")


async def find(connection: AsyncConnection, tenant_id: str, phones: Sequence[int]) -> OptedOut:
    """Ask for ascending numbers."""
    version = (await connection.execute(_VERSION, {"tenant_id": tenant_id})).scalar_one()
    if version == 0:
        return OptedOut(0, frozenset())  # nobody has ever opted out: the usual case for a new tenant
    parameters = {"tenant_id": tenant_id, "first": phones[0], "last": phones[-1], "phones": list(phones)}
    rows = (await connection.execute(_FIND, parameters)).scalars()
    return OptedOut(int(version), frozenset(rows))


async def add(connection: AsyncConnection, tenant_id: str, phones: Sequence[int]) -> int:
    """Record numbers that opted out; returns how many are new."""
    version = (await connection.execute(_RAISE_VERSION, {"tenant_id": tenant_id})).scalar_one()
    parameters = {"tenant_id": tenant_id, "version": version, "phones": list(phones)}
    return (await connection.execute(_ADD, parameters)).rowcount


async def remove(connection: AsyncConnection, tenant_id: str, phones: Sequence[int]) -> int:
    """Take opt-outs back; returns how many there were."""
    await connection.execute(_RAISE_VERSION, {"tenant_id": tenant_id})
    return (await connection.execute(_REMOVE, {"tenant_id": tenant_id, "phones": list(phones)})).rowcount
