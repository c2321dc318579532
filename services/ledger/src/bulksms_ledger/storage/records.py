"""Records: entries and operations as COPY takes them, a value per column."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from bulksms_ledger.domain.entries import MOVES, Entry
from bulksms_ledger.domain.operations import Capture, OperationResult, RecordedOperation, encode_content, encode_outcome
from bulksms_ledger.storage.rows import encode_json

ENTRY_COLUMNS: Final = (
    "tenant_id", "version", "kind", "units", "granted_posting", "available_posting", "reserved_posting",
    "captured_posting", "available_after", "reserved_after", "captured_after", "reservation_id", "campaign_id",
    "request_id", "reason", "source_ref", "expires_at", "evidence", "created_at", "hash",
)  # fmt: skip
OPERATION_COLUMNS: Final = (
    "request_id", "tenant_id", "created_at", "entry_version", "captured", "released", "refunded", "content", "outcome",
    "authorized", "reservation_state", "attempt_id", "positions",
)  # fmt: skip

_NONE_OF_CAPTURE: Final = (None,) * 4


def entry_record(entry: Entry) -> tuple[Any, ...]:
    """A row of ENTRY_COLUMNS."""
    kind, units, evidence = entry.kind, entry.units, entry.evidence
    granted, available, reserved, captured = MOVES[kind]
    return (
        entry.tenant_id,
        entry.version,
        kind,
        units,
        granted * units,
        available * units,
        reserved * units,
        captured * units,
        entry.available_after,
        entry.reserved_after,
        entry.captured_after,
        entry.reservation_id,
        entry.campaign_id,
        entry.request_id,
        entry.reason,
        entry.source_ref,
        entry.expires_at,
        None if evidence is None else encode_json(evidence),
        entry.created_at,
        entry.hash,
    )


def operation_record(recorded: RecordedOperation, now: datetime) -> tuple[Any, ...]:
    """A row of OPERATION_COLUMNS; of a capture carried out its entry says what was asked for."""
    operation, outcome = recorded.operation, recorded.outcome
    if (
        recorded.entry_version
        and isinstance(operation, Capture)
        and isinstance(outcome, OperationResult)
        and (reservation := outcome.reservation) is not None
    ):
        return (
            operation.request_id,
            operation.tenant_id,
            now,
            recorded.entry_version,
            reservation.captured,
            reservation.released,
            reservation.refunded,
            None,
            None,
            reservation.authorized,
            reservation.state,
            operation.attempt_id,
            encode_json(operation.positions) if operation.positions else None,
        )
    content, kept = encode_content(operation), encode_outcome(outcome)
    return (operation.request_id, operation.tenant_id, now, *_NONE_OF_CAPTURE, content, kept, *_NONE_OF_CAPTURE)
