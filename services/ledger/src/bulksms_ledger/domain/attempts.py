"""Attempts: what is asked of the ledger about one attempt to send; idempotent by the attempt's own id."""

from __future__ import annotations

from enum import Enum, auto
from uuid import UUID

import msgspec

from bulksms_ledger.domain.positions import Positions


class AttemptRequest(msgspec.Struct, frozen=True, gc=False):
    """What every one of them names. No request id: nothing is kept but what became of the attempt."""

    tenant_id: str
    reservation_id: UUID
    attempt_id: UUID


class Authorize(AttemptRequest, frozen=True, gc=False):
    """May it send?"""

    campaign_id: str
    enqueue_number: int
    snapshot_digest: bytes
    positions: Positions
    units: int


class Withdraw(AttemptRequest, frozen=True, gc=False):
    """May it have sent? If not, it never may."""


class Void(AttemptRequest, frozen=True, gc=False):
    """It has not sent, or was refused: whole, or for some positions that are worth so many units."""

    positions: Positions = ()
    units: int = 0


class AttemptOutcome(Enum):
    """What an attempt's request comes to that is not refused."""

    AUTHORIZED = auto()
    WITHDRAWN = auto()
    VOIDED = auto()
