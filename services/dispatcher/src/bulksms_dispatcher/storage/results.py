"""Results for others: outbox entries, written in the transaction that records what they say (rule 6)."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batch_outcomes import BatchOutcome
from bulksms_dispatcher.domain.batches import BatchKey
from bulksms_dispatcher.domain.outbox import OutboxKind
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.recipients import pack_ids, pack_positions
from bulksms_dispatcher.domain.results import Group, RecipientOutcome, encode_groups

__all__ = ["queue", "queue_part"]

_ADD = text("""
    INSERT INTO outbox (kind, batch_id, tenant_id, epoch, attempt_id, state, part, groups, message_ids, accepted,
                        accepted_indexes, released, parts)
    VALUES (:kind, :batch_id, :tenant_id, :epoch, :attempt_id, :state, :part, :groups, :message_ids, :accepted,
            :accepted_indexes, :released, :parts)
    ON CONFLICT (batch_id, tenant_id, epoch, state, kind, part) DO NOTHING
""")


async def queue(
    connection: AsyncConnection, batch: BatchKey, outcome: BatchOutcome, *, is_single_message: bool
) -> None:
    """Queue what the campaign service and the ledger must receive of an outcome."""
    confirmed = outcome.confirmed
    ids = confirmed.message_ids if confirmed else ()
    indexes = confirmed.accepted_indexes if confirmed else ()
    entry = batch.parameters() | {
        "state": outcome.target,
        "part": 0,
        "groups": None,
        "message_ids": pack_ids(ids) if ids else None,
        "accepted": outcome.accepted,
        "accepted_indexes": pack_positions(indexes) if indexes else None,
        "released": outcome.released,
        "parts": outcome.parts,
    }
    if is_single_message:
        # While it is ambiguous its credit stays reserved; then captured or given back with the reservation.
        if outcome.target is not BatchState.AMBIGUOUS:
            await connection.execute(_ADD, entry | {"kind": OutboxKind.MESSAGE_CREDIT})
        return
    entries = [entry | {"kind": OutboxKind.CAMPAIGN, "groups": encode_groups(outcome.groups)}]
    if outcome.accepted or outcome.released:
        entries.append(entry | {"kind": OutboxKind.CAPTURE})
    await connection.execute(_ADD, entries)


async def queue_part(
    connection: AsyncConnection,
    batch: BatchKey,
    state: BatchState,
    part: int,
    positions: Sequence[int],
    indexes: Sequence[int],
    message_ids: Sequence[str],
    *,
    kinds: Sequence[OutboxKind],
) -> None:
    """Queue that some recipients of a batch were accepted; `part` numbers such results of one batch.

    `positions` are theirs within the batch, `indexes` those within the submission.
    """
    group = Group(RecipientOutcome.ACCEPTED, positions=tuple(positions))
    entry = batch.parameters() | {
        "state": state,
        "part": part,
        "message_ids": pack_ids(message_ids),
        "accepted": len(positions),
        "accepted_indexes": pack_positions(indexes),
        "released": 0,
        "parts": 0,
    }
    for kind in kinds:
        groups = encode_groups([group]) if kind is OutboxKind.CAMPAIGN else None
        await connection.execute(_ADD, entry | {"kind": kind, "groups": groups})
