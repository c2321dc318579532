"""The traffic account: what holds it and its lanes, seen by this process and changed for all replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.account_holds import AccountState, BadSign, Hold, HoldKind, HoldRules, LaneKey, Probe
from bulksms_dispatcher.domain.batches import Lane, LeasedBatch
from bulksms_dispatcher.domain.protocol import OutcomeKind
from bulksms_dispatcher.domain.provider_outcomes import Fault, Verdict
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.pacing.limiter import Limiter, PacingUnavailable
from bulksms_dispatcher.storage import account_holds
from bulksms_dispatcher.workers.patient_writes import PatientWrites
from servicekit import logs
from servicekit.clock import Clock
from servicekit.database import Database

__all__ = ["TrafficAccount"]

# Its sender waits with it, and takes nothing new meanwhile: what is known against an account is not forgotten.
_PATIENCE = timedelta(hours=1)
_RELEASE_PATIENCE = timedelta(seconds=5)
_NO_RESPONSE = Verdict(OutcomeKind.AMBIGUOUS, Fault.READ_TIMEOUT.value, hold=HoldKind.AMBIGUITY)
_log = logs.get_logger("bulksms.dispatcher.traffic_account")

_Change = Callable[[AccountState], AccountState]


class TrafficAccount:
    """What this process knows may be as old as its last look at the lanes; the arm asks the database itself.

    `probe_ttl`: so long nobody begins another probe when nothing is heard of one; longer than any request takes.
    """

    def __init__(
        self,
        database: Database,
        traffic_account_id: str,
        rules: HoldRules,
        limiter: Limiter,
        metrics: Metrics,
        clock: Clock,
        *,
        probe_ttl: timedelta,
        on_change: Callable[[], None],
    ) -> None:
        self._database = database
        self._writes = PatientWrites(database)
        self._account = traffic_account_id
        self._rules = rules
        self._limiter = limiter
        self._metrics = metrics
        self._clock = clock
        self._probe_ttl = probe_ttl
        self._on_change = on_change
        self._state = AccountState()
        self._database_is_ahead = timedelta(0)

    @property
    def traffic_account_id(self) -> str:
        """The provider's name for it."""
        return self._account

    async def read(self, connection: AsyncConnection) -> None:
        """Look at what holds it now."""
        self._see(await account_holds.read(connection, self._account))

    @property
    def is_free(self) -> bool:
        """True when nothing holds it, nor any lane: nearly always."""
        return self._state.account is None and not self._state.lanes

    def is_held(self, lane: Lane) -> bool:
        """True when only a probe of the lane may go out."""
        return bool(self._state.concerning(_key(lane)))

    def keeps_back(self, lane: Lane) -> bool:
        """True when nothing of the lane may go out now, not even a probe."""
        return self.is_held(lane) and not self._rules.may_probe(self._state, _key(lane), self._now())

    def is_offender(self, lane: Lane) -> bool:
        """True when it is the only lane that was ambiguous: others are probed first."""
        return self._state.account is not None and self._state.account.offender == _key(lane)

    def due_in_seconds(self, lanes: Iterable[Lane]) -> float:
        """Until one of these lanes may be probed; infinite when none of them waits for that."""
        moments = (self._rules.probe_at(self._state, _key(lane)) for lane in lanes)
        now = self._now()
        return min(((moment - now).total_seconds() for moment in moments if moment is not None), default=float("inf"))

    async def begin_probe(self, lane: Lane) -> Probe | None:
        """The leave to send one batch of a lane that is held; None when another is being probed, or it is too soon."""
        probe_id, key = uuid4(), _key(lane)
        async with self._database.begin() as connection:
            seen = await account_holds.lock(connection, self._account)
            self._see(seen)
            if not self._rules.may_probe(seen.state, key, seen.now):
                return None
            probed = self._rules.begin_probe(seen.state, key, probe_id, seen.now + self._probe_ttl)
            await account_holds.save(connection, self._account, seen.state, probed)
        self._state = probed
        return Probe(probe_id, of_one=any(hold.probes_are_of_one for hold in probed.concerning(key)))

    async def end_probe(self, batch: LeasedBatch, probe: Probe) -> None:
        """It came to nothing, or what it came to is known already."""
        await self._change(batch, lambda state: self._rules.after_none(state, probe.probe_id), _RELEASE_PATIENCE)

    async def observe(self, batch: LeasedBatch, verdict: Verdict) -> None:
        """What an exchange says for or against the account, before anything else is sent by its sender."""
        key, probe = LaneKey(batch.tenant_id, batch.campaign_id), batch.probe
        probe_id = probe.probe_id if probe else None
        if verdict.hold is not None:
            sign = BadSign(verdict.hold, verdict.reason, batch.recipients == 1, verdict.retry_after)
            await self._change(batch, lambda state: self._rules.after_bad(state, key, sign, probe_id, self._now()))
        elif verdict.is_good and probe_id is not None:
            await self._change(batch, lambda state: self._rules.after_good(state, key, probe_id, self._now()))

    async def observe_silence(self, batch: LeasedBatch) -> None:
        """There is no response in time; one that comes late says nothing more."""
        await self.observe(batch, _NO_RESPONSE)

    async def _change(self, batch: LeasedBatch, change: _Change, patience: timedelta = _PATIENCE) -> None:
        async def body(connection: AsyncConnection) -> tuple[AccountState, AccountState]:
            seen = await account_holds.lock(connection, self._account)
            self._see(seen)
            after = change(seen.state)
            if after != seen.state:
                await account_holds.save(connection, self._account, seen.state, after)
            return seen.state, after

        changed = await self._writes.write(body, batch.batch_id, patience)
        if changed is None or changed[0] == changed[1]:
            return
        before, self._state = changed
        self._report(batch, before, self._state)
        if before.account is not None and self._state.account is None and before.account.kind is not HoldKind.REFUSED:
            await self._go_on_slowly()
        self._on_change()

    async def _go_on_slowly(self) -> None:
        """After an outage the rate grows back as after a 429."""
        try:
            share = await self._limiter.back_off(timedelta(0))
        except PacingUnavailable:
            return  # then nothing is sent anyway
        _log.warning("traffic account slowed down", share_of_limits=share)

    def _report(self, batch: LeasedBatch, before: AccountState, after: AccountState) -> None:
        if (before.account is None) != (after.account is None):
            if after.account is None:
                _log.warning("sending goes on: the provider answers well again")
            else:
                _log.error("sending rests: the traffic account is held", **_facts(after.account))
        for lane, hold in after.lanes.items():
            if lane not in before.lanes:
                facts = {"tenant_id": lane.tenant_id, "campaign_id": str(lane.campaign_id), **_facts(hold)}
                _log.error("one lane rests: others are answered well", batch_id=str(batch.batch_id), **facts)

    def _see(self, seen: account_holds.Seen) -> None:
        self._state = seen.state
        self._database_is_ahead = seen.now - self._clock.now()
        self._metrics.account_held.set(int(seen.state.account is not None))

    def _now(self) -> datetime:
        return self._clock.now() + self._database_is_ahead


def _key(lane: Lane) -> LaneKey:
    return LaneKey(lane.tenant_id, lane.campaign_id)


def _facts(hold: Hold) -> dict[str, object]:
    return {"kind": hold.kind.name, "reason": hold.reason, "next_probe_at": hold.probe_at.isoformat()}
