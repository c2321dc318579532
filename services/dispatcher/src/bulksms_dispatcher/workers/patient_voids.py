"""Patient voids: an authorization is taken back however often the ledger goes away."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from itertools import count

from bulksms_dispatcher.domain.authorizations import Void
from bulksms_dispatcher.peers.ledger import LedgerPeer
from servicekit import logs
from servicekit.backoff import Backoff
from servicekit.errors import DomainError

__all__ = ["PatientVoids"]

_BACKOFF = Backoff(timedelta(seconds=0.1), longest=timedelta(seconds=2))
_log = logs.get_logger("bulksms.dispatcher.patient_voids")


class PatientVoids:
    """Repeats a void until the ledger acknowledges it; while it is away, whoever has armed something rests here."""

    def __init__(self, ledger: LedgerPeer) -> None:
        self._ledger = ledger

    async def void(self, void: Void, patience: timedelta) -> bool:
        """True once it is acknowledged; False when patience ends first, or the ledger refuses."""
        give_up_at = time.monotonic() + patience.total_seconds()
        for number in count(1):
            facts = {"attempt_id": str(void.attempt_id), "attempt": number}
            try:
                refusal = await self._ledger.void(void)
            except DomainError as error:
                if time.monotonic() >= give_up_at:
                    _log.error("attempt not void yet", reason=error.reason, **facts)
                    return False
                _log.warning("void waits for the ledger", reason=error.reason, **facts)
            else:
                if refusal:
                    return self._refused(refusal, facts)
                return True
            await asyncio.sleep(_BACKOFF.after(number).total_seconds())
        raise AssertionError("unreachable: the loop returns or raises")

    @staticmethod
    def _refused(refusal: str, facts: dict[str, object]) -> bool:
        """Where there is no such reservation nothing was authorized; other refusals leave the batch as it is."""
        if refusal in ("RESERVATION_NOT_FOUND", "ACCOUNT_NOT_FOUND"):
            return True
        _log.error("the ledger does not take an authorization back", reason=refusal, **facts)
        return False
