"""Account holds as stored: one row for the traffic account, one for each lane that is held alone; for all replicas."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.account_holds import AccountState, Hold, HoldKind, LaneKey
from bulksms_dispatcher.domain.batches import NO_CAMPAIGN

__all__ = ["Seen", "lock", "read", "save"]

WHOLE_ACCOUNT = LaneKey("", NO_CAMPAIGN)
"""Stands for the account where a row has a lane: no tenant has an empty name."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The holds at a moment of the database's clock."""

    state: AccountState
    now: datetime


_COLUMNS = """tenant_id, campaign_id, held_since, kind, reason, failures, failed_at, probe_at, probe_id, probe_until,
              ended_at, offender_tenant_id, offender_campaign_id, ambiguous_singles, clock_timestamp() AS now"""
_READ = text(f"SELECT {_COLUMNS} FROM account_holds WHERE traffic_account_id = :account")
_READ_NOW = text("SELECT clock_timestamp()")
_ENSURE = text("""
    INSERT INTO account_holds (traffic_account_id, tenant_id, campaign_id) VALUES (:account, :tenant_id, :campaign_id)
    ON CONFLICT DO NOTHING
""")
# The account's row stands for those of its lanes: whoever has it locked changes them.
_LOCK = text("""
    SELECT 1 FROM account_holds
    WHERE traffic_account_id = :account AND tenant_id = :tenant_id AND campaign_id = :campaign_id FOR UPDATE
""")
_SAVE = text("""
    INSERT INTO account_holds (traffic_account_id, tenant_id, campaign_id, held_since, kind, reason, failures,
                               failed_at, probe_at, probe_id, probe_until, ended_at, offender_tenant_id,
                               offender_campaign_id, ambiguous_singles)
    VALUES (:account, :tenant_id, :campaign_id, :held_since, :kind, :reason, :failures, :failed_at, :probe_at,
            :probe_id, :probe_until, :ended_at, :offender_tenant_id, :offender_campaign_id, :ambiguous_singles)
    ON CONFLICT (traffic_account_id, tenant_id, campaign_id) DO UPDATE
    SET held_since = excluded.held_since, kind = excluded.kind, reason = excluded.reason, failures = excluded.failures,
        failed_at = excluded.failed_at, probe_at = excluded.probe_at, probe_id = excluded.probe_id,
        probe_until = excluded.probe_until, ended_at = excluded.ended_at,
        offender_tenant_id = excluded.offender_tenant_id, offender_campaign_id = excluded.offender_campaign_id,
        ambiguous_singles = excluded.ambiguous_singles
""")
_END_LANE = text("""
    DELETE FROM account_holds
    WHERE traffic_account_id = :account AND tenant_id = :tenant_id AND campaign_id = :campaign_id
""")


async def read(connection: AsyncConnection, account: str) -> Seen:
    """What holds the account and its lanes."""
    rows = (await connection.execute(_READ, {"account": account})).all()
    if not rows:
        return Seen(AccountState(), (await connection.execute(_READ_NOW)).scalar_one())
    own = next(row for row in rows if row.tenant_id == "")
    lanes = {LaneKey(row.tenant_id, row.campaign_id): _hold(row) for row in rows if row is not own}
    held = own.held_since is not None
    state = AccountState(
        _hold(own) if held else None,
        lanes,
        tuple(own.ambiguous_singles),
        ended_at=own.ended_at,
        last_failures=0 if held else own.failures,
    )
    return Seen(state, own.now)


async def lock(connection: AsyncConnection, account: str) -> Seen:
    """The same, and nobody else changes it until the transaction ends."""
    key = _key(account, WHOLE_ACCOUNT)
    await connection.execute(_ENSURE, key)
    await connection.execute(_LOCK, key)
    return await read(connection, account)


async def save(connection: AsyncConnection, account: str, before: AccountState, after: AccountState) -> None:
    """Write what has changed; the account's row is locked."""
    remembered = {
        "ended_at": after.ended_at,
        "ambiguous_singles": list(after.ambiguous_singles),
        "failures": after.last_failures,
    }
    rows = [_key(account, WHOLE_ACCOUNT) | remembered | (_fields(after.account) if after.account else {})]
    rows += [
        _key(account, lane) | _fields(hold) for lane, hold in after.lanes.items() if before.lanes.get(lane) != hold
    ]
    await connection.execute(_SAVE, [_NOTHING | row for row in rows])
    ended = [_key(account, lane) for lane in before.lanes if lane not in after.lanes]
    if ended:
        await connection.execute(_END_LANE, ended)


def _key(account: str, lane: LaneKey) -> dict[str, object]:
    return {"account": account, "tenant_id": lane.tenant_id, "campaign_id": lane.campaign_id}


_NOTHING: dict[str, object] = {
    "held_since": None,
    "kind": 0,
    "reason": "",
    "failures": 0,
    "failed_at": None,
    "probe_at": None,
    "probe_id": None,
    "probe_until": None,
    "ended_at": None,
    "offender_tenant_id": None,
    "offender_campaign_id": None,
    "ambiguous_singles": [],
}


def _fields(hold: Hold) -> dict[str, object]:
    return {
        "held_since": hold.since,
        "kind": hold.kind,
        "reason": hold.reason,
        "failures": hold.failures,
        "failed_at": hold.failed_at,
        "probe_at": hold.probe_at,
        "probe_id": hold.probe_id,
        "probe_until": hold.probe_until,
        "offender_tenant_id": hold.offender.tenant_id if hold.offender else None,
        "offender_campaign_id": hold.offender.campaign_id if hold.offender else None,
    }


def _hold(row: Row[Any]) -> Hold:
    offender = None
    if row.offender_tenant_id is not None:
        offender = LaneKey(row.offender_tenant_id, row.offender_campaign_id)
    return Hold(
        HoldKind(row.kind),
        row.reason,
        since=row.held_since,
        failed_at=row.failed_at,
        probe_at=row.probe_at,
        failures=row.failures,
        probe_id=row.probe_id,
        probe_until=row.probe_until,
        offender=offender,
    )
