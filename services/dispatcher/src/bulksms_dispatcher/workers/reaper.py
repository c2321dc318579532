"""The reaper: leases of workers that died or froze, and ambiguity nobody resolved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from bulksms_dispatcher.domain.batch_outcomes import BatchOutcome
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.recipients import unpack_positions
from bulksms_dispatcher.peers.ledger import LedgerPeer
from bulksms_dispatcher.storage import evidence, leases, outcomes, unresolved
from bulksms_dispatcher.storage.leases import Expired
from servicekit import logs
from servicekit.clock import Clock
from servicekit.database import Database
from servicekit.errors import DomainError

__all__ = ["Reaper"]

_LIMIT = 100
WORKER_LOST = "WORKER_LOST"
_log = logs.get_logger("bulksms.dispatcher.reaper")


class Reaper:
    """Rule 2: expired LEASED goes back under a new epoch; of expired ARMED the ledger says what may have been sent.

    An attempt that was never authorized, or is void, goes back; one that was authorized is AMBIGUOUS and never READY.
    While the ledger does not answer, armed batches stay as they are.

    Any number may run at once: each move is a compare-and-set on state and epoch.

    While the database is away leases run out under workers that live, and some of these know that nothing was sent, or
    what came of it. So for a `grace` after it came back (the server was started, or was out of reach for as long) no
    armed batch becomes ambiguous: they write first. It decides who comes first, never what is safe.
    """

    def __init__(
        self,
        database: Database,
        ledger: LedgerPeer,
        horizon: timedelta,
        on_change: Callable[[], None],
        *,
        grace: timedelta,
        clock: Clock,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._horizon = horizon
        self._on_change = on_change
        self._grace = grace
        self._clock = clock
        self._reached_at = clock.monotonic()
        self._expires_armed_from = float("-inf")

    async def reap_once(self) -> bool:
        """One round; True when there may be more."""
        async with self._database.connect() as connection:
            expired = await leases.find_expired(connection, _LIMIT, self._expirable(), self._grace)
            self._reached_at = self._clock.monotonic()
            given_up = await leases.find_ambiguous_since(connection, self._horizon, _LIMIT)
        for batch in expired:
            if batch.state is BatchState.LEASED:
                await self._return(batch)
        await self._withdraw([batch for batch in expired if batch.state is BatchState.ARMED])
        for batch in given_up:
            await self._give_up(batch)
        if expired or given_up:
            self._on_change()
        return len(expired) == _LIMIT or len(given_up) == _LIMIT

    def _expirable(self) -> tuple[BatchState, ...]:
        now, grace = self._clock.monotonic(), self._grace.total_seconds()
        if now - self._reached_at > grace:
            self._expires_armed_from = now + grace
        return (BatchState.LEASED, BatchState.ARMED) if now >= self._expires_armed_from else (BatchState.LEASED,)

    async def _withdraw(self, armed: Sequence[Expired]) -> None:
        """The authorization, not the row, says what may have been sent."""
        attempts = [
            (batch.key.tenant_id, batch.reservation_id, batch.key.attempt_id)
            for batch in armed
            if batch.key.attempt_id is not None
        ]
        if not attempts:
            return
        try:
            may_have_been_sent = await self._ledger.withdraw(attempts)
        except DomainError as error:
            _log.error("armed batches wait for the ledger", batches=len(attempts), reason=error.reason)
            return
        for batch, sent in zip(armed, may_have_been_sent, strict=True):
            if sent:
                await self._mark_ambiguous(batch)
            else:
                await self._return(batch)

    async def _return(self, batch: Expired) -> None:
        async with self._database.begin() as connection:
            returned = await outcomes.return_to_queue(connection, batch.key, batch.campaign_id, (batch.state,))
        if returned:
            _log.warning("lease ran out: batch is ready again", batch_id=str(batch.key.batch_id), worker=batch.worker)

    async def _mark_ambiguous(self, batch: Expired) -> None:
        opted_out_positions = unpack_positions(batch.opted_out_positions) if batch.opted_out_positions else []
        outcome = BatchOutcome.ambiguous(WORKER_LOST, opted_out_positions)
        async with self._database.begin() as connection:
            recorded = await outcomes.record(connection, batch.key, (BatchState.ARMED,), outcome)
        if recorded:
            _log.error("batch needs attention", batch_id=str(batch.key.batch_id), state="AMBIGUOUS", reason=WORKER_LOST)

    async def _give_up(self, batch: Expired) -> None:
        """Time is over; those whom evidence has named stay accepted, and are captured now."""
        async with self._database.begin() as connection:
            found = await unresolved.lock(connection, batch.key.batch_id)
            if found is None or found.state is not BatchState.AMBIGUOUS:
                return
            outcome = found.given_up(await evidence.read_ids(connection, found.key))
            await outcomes.record(connection, found.key, (BatchState.AMBIGUOUS,), outcome)
        _log.error("batch needs attention", batch_id=str(batch.key.batch_id), state="UNRESOLVED", reason=outcome.reason)
