"""Stops in force, and the condition by which claims and arms obey them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import NO_CAMPAIGN
from bulksms_dispatcher.domain.messages import MessageClass
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.stops import Stop, StopKey, StopScope

__all__ = [
    "count_armed",
    "insert",
    "is_arm_stopped",
    "is_batch_stopped",
    "is_lane_stopped",
    "lock",
    "read_all",
    "read_of_tenant",
    "remove",
]

EVERY_CLASS = 0
_COLUMNS = "scope, key, message_class, reason, operator, stopped_at"
_CONCERNS = f"""(stops.scope = {StopScope.ALL}
     OR (stops.scope = {StopScope.TENANT} AND stops.key = {{tenant}})
     OR (stops.scope = {StopScope.TRAFFIC_ACCOUNT} AND stops.key = :account))"""
# Who arms looks FOR KEY SHARE, and so has the table's lock of that kind from before he looks until his commit. After
# this one nobody is under way who has not seen what is written under it. Plain readers, such as a backup that reads for
# an hour, are in nobody's way.
_LOCK = text("LOCK TABLE stops IN EXCLUSIVE MODE")
_INSERT = text(f"""
    INSERT INTO stops ({_COLUMNS})
    VALUES (:scope, :key, :message_class, :reason, :operator, clock_timestamp())
    ON CONFLICT DO NOTHING
""")
_REMOVE = text("DELETE FROM stops WHERE scope = :scope AND key = :key AND message_class = :message_class")
_READ_ALL = text(f"SELECT {_COLUMNS} FROM stops ORDER BY stopped_at, scope, key, message_class")
_READ_OF_TENANT = text(f"""
    SELECT {_COLUMNS} FROM stops WHERE {_CONCERNS.format(tenant=":tenant_id")}
    ORDER BY stopped_at, scope, key, message_class
""")
_COUNT_ARMED = text(f"""
    SELECT count(*) FROM batches b JOIN submissions s ON s.submission_id = b.submission_id AND s.tenant_id = b.tenant_id
    WHERE b.state IN ({BatchState.LEASED}, {BatchState.ARMED}) AND b.state = {BatchState.ARMED}
      AND (:scope <> {StopScope.TENANT} OR b.tenant_id = :key)
      AND (:message_class = {EVERY_CLASS} OR s.message_class = :message_class)
""")


def is_batch_stopped(batch: str) -> str:
    """SQL: a stop concerns this row of `batches`, as sent by the traffic account :account.

    While nothing is stopped this is one look into an empty table per statement, whatever it is asked of.
    """
    return f"(EXISTS (SELECT 1 FROM stops) AND EXISTS ({_those_of(batch)}))"


def is_arm_stopped(batch: str) -> str:
    """SQL: the same for the statement that arms: a stop that is being written is waited for, and waits for it."""
    return f"(EXISTS (SELECT 1 FROM stops) AND EXISTS ({_those_of(batch)} FOR KEY SHARE OF stops))"


def is_lane_stopped(lane: str, batch: str) -> str:
    """SQL: a stop concerns a whole lane, of which `batch` is one: a campaign's messages are of one class.

    A tenant's single messages may be of both: a stop of one class leaves the lane open, and the claim chooses.
    """
    return f"""(EXISTS (SELECT 1 FROM stops) AND EXISTS (
        SELECT 1 FROM stops WHERE {_CONCERNS.format(tenant=f"{lane}.tenant_id")}
        AND (stops.message_class = {EVERY_CLASS}
             OR ({lane}.campaign_id <> '{NO_CAMPAIGN}' AND stops.message_class = (
                 SELECT s.message_class FROM submissions s
                 WHERE s.submission_id = {batch}.submission_id AND s.tenant_id = {lane}.tenant_id)))))"""


async def lock(connection: AsyncConnection) -> None:
    """Wait until everything that was armed without what is written now is committed; nothing is armed until the end."""
    await connection.execute(_LOCK)


async def insert(connection: AsyncConnection, key: StopKey, *, reason: str, operator: str) -> bool:
    """Stop; False, and nothing changes, when it is stopped already."""
    parameters = _parameters(key) | {"reason": reason, "operator": operator}
    return (await connection.execute(_INSERT, parameters)).rowcount == 1


async def remove(connection: AsyncConnection, key: StopKey) -> bool:
    """End a stop; False when there is none."""
    return (await connection.execute(_REMOVE, _parameters(key))).rowcount == 1


async def read_all(connection: AsyncConnection) -> list[Stop]:
    """All stops, oldest first."""
    return [_stop(row) for row in await connection.execute(_READ_ALL)]


async def read_of_tenant(connection: AsyncConnection, tenant_id: str, account: str) -> list[Stop]:
    """Those that concern a tenant's messages by this traffic account, oldest first."""
    parameters = {"tenant_id": tenant_id, "account": account}
    return [_stop(row) for row in await connection.execute(_READ_OF_TENANT, parameters)]


async def count_armed(connection: AsyncConnection, key: StopKey) -> int:
    """Batches on the wire that a stop of this would concern; all of a database's are of one traffic account."""
    return int((await connection.execute(_COUNT_ARMED, _parameters(key))).scalar_one())


def _those_of(batch: str) -> str:
    of_class = f"""(SELECT s.message_class FROM submissions s
        WHERE s.submission_id = {batch}.submission_id AND s.tenant_id = {batch}.tenant_id)"""
    return f"""SELECT 1 FROM stops WHERE {_CONCERNS.format(tenant=f"{batch}.tenant_id")}
        AND stops.message_class IN ({EVERY_CLASS}, {of_class})"""


def _parameters(key: StopKey) -> dict[str, object]:
    return {"scope": key.scope, "key": key.key, "message_class": key.message_class or EVERY_CLASS}


def _stop(row: Row[Any]) -> Stop:
    message_class = None if row.message_class == EVERY_CLASS else MessageClass(row.message_class)
    return Stop(StopKey(StopScope(row.scope), row.key, message_class), row.reason, row.operator, row.stopped_at)
