"""Account holds: when a traffic account, or one lane of it, must not be used, and how it comes back into use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import IntEnum
from uuid import UUID

from servicekit.backoff import Backoff

__all__ = ["AccountState", "BadSign", "Hold", "HoldKind", "HoldRules", "LaneKey", "Probe"]

# One stale connection must not stop an account: of single messages so many, so close together, do.
AMBIGUOUS_SINGLES = 3
AMBIGUOUS_SINGLES_WITHIN = timedelta(seconds=10)
# An account that is held again so soon after it came back goes on with the backoff it had.
_RELAPSE_WITHIN = timedelta(seconds=60)
_BACKOFF = Backoff(timedelta(seconds=1), longest=timedelta(minutes=5))


class HoldKind(IntEnum):
    """What holds an account; the numbers are stored and are those of the proto's AccountHoldKind."""

    AMBIGUITY = 1
    """The breaker: requests may have been accepted, and nobody knows."""
    UNAVAILABLE = 2
    """No connection, or the provider says that it takes nothing: nobody was sent anything."""
    REFUSED = 3
    """Key, allow-list, account or address are wrong: a person must look."""


@dataclass(frozen=True, slots=True, order=True)
class LaneKey:
    """A tenant's campaign, or (NO_CAMPAIGN) its single messages."""

    tenant_id: str
    campaign_id: UUID


@dataclass(frozen=True, slots=True)
class Probe:
    """The leave to send one batch although its account is held."""

    probe_id: UUID
    of_one: bool
    """One recipient is to be cut off: what may go wrong concerns nobody else."""


@dataclass(frozen=True, slots=True)
class BadSign:
    """An exchange that says something against the account; `of_one` tells a single message from a bulk."""

    kind: HoldKind
    reason: str
    of_one: bool
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing goes out but one probe at a time, from `probe_at` on."""

    kind: HoldKind
    reason: str
    since: datetime
    failed_at: datetime
    probe_at: datetime
    failures: int = 0
    """Probes that failed."""
    probe_id: UUID | None = None
    """The probe that is under way."""
    probe_until: datetime | None = None
    offender: LaneKey | None = None
    """Of an account's: the only lane whose requests were ambiguous so far."""

    @property
    def probes_are_of_one(self) -> bool:
        """Where requests are refused in good order none becomes ambiguous, however many messages are in it."""
        return self.kind is not HoldKind.REFUSED


@dataclass(frozen=True, slots=True)
class AccountState:
    """A traffic account's hold, those of single lanes, and what is remembered while there is none."""

    account: Hold | None = None
    lanes: Mapping[LaneKey, Hold] = field(default_factory=dict)
    ambiguous_singles: tuple[datetime, ...] = ()
    """The latest ambiguous single messages."""
    ended_at: datetime | None = None
    last_failures: int = 0
    """Of the hold that ended then."""

    def concerning(self, lane: LaneKey) -> list[Hold]:
        """The holds that keep the lane back."""
        return [hold for hold in (self.account, self.lanes.get(lane)) if hold is not None]


@dataclass(frozen=True, slots=True)
class HoldRules:
    """How long is waited before a probe: `backoff`, or after a refusal `pause`; more when the provider asks for it."""

    backoff: Backoff = _BACKOFF
    pause: timedelta = timedelta(seconds=60)

    def probe_at(self, state: AccountState, lane: LaneKey) -> datetime | None:
        """From when the lane may be probed; None when nothing holds it.

        While one lane alone was ambiguous, another need not wait for its backoff: its text may be at fault.
        """
        moments = [hold.probe_at for hold in state.concerning(lane)]
        account = state.account
        if account is not None and account.offender not in (None, lane):
            moments[0] = min(account.probe_at, account.failed_at + self.backoff.first)
        return max(moments, default=None)

    def may_probe(self, state: AccountState, lane: LaneKey, now: datetime) -> bool:
        """True when a probe of the lane is due, and no other one is under way."""
        probe_at = self.probe_at(state, lane)
        under_way = any(hold.probe_until is not None and hold.probe_until > now for hold in state.concerning(lane))
        return probe_at is not None and probe_at <= now and not under_way

    def begin_probe(self, state: AccountState, lane: LaneKey, probe_id: UUID, until: datetime) -> AccountState:
        """The lane is probed, until then at the latest."""

        def probed(hold: Hold) -> Hold:
            return replace(hold, probe_id=probe_id, probe_until=until)

        own = {lane: probed(state.lanes[lane])} if lane in state.lanes else {}
        account = state.account and probed(state.account)
        return replace(state, account=account, lanes={**state.lanes, **own})

    def after_bad(
        self, state: AccountState, lane: LaneKey, sign: BadSign, probe_id: UUID | None, now: datetime
    ) -> AccountState:
        """What the sign changes: a probe's prolongs the hold, that of a request that was under way hardly anything."""
        ambiguous = sign.kind is HoldKind.AMBIGUITY
        account, own = state.account, state.lanes.get(lane)
        if probe_id is not None:
            state = self.after_none(state, probe_id)
        if account is not None:
            is_probe = probe_id is not None and account.probe_id == probe_id
            held = self._prolonged(account, sign, now) if is_probe else self._joined(account, sign, now)
            alone = ambiguous and lane == account.offender
            return replace(state, account=held if alone else replace(held, offender=None))
        if ambiguous and own is not None:
            if probe_id is None or own.probe_id != probe_id:
                return state  # it was under way when the lane was held, and says nothing new
            return replace(state, lanes={**state.lanes, lane: self._prolonged(own, sign, now)})
        if ambiguous and sign.of_one:
            ambiguous_singles = (*state.ambiguous_singles, now)[-AMBIGUOUS_SINGLES:]
            if len(ambiguous_singles) < AMBIGUOUS_SINGLES or now - ambiguous_singles[0] > AMBIGUOUS_SINGLES_WITHIN:
                return replace(state, ambiguous_singles=ambiguous_singles)
        return replace(state, account=self._begun(state, lane, sign, now), ambiguous_singles=())

    def after_good(self, state: AccountState, lane: LaneKey, probe_id: UUID | None, now: datetime) -> AccountState:
        """A probe was answered well: what it was the probe of is over.

        The lane that alone was ambiguous stays held by itself, when the probe was another's.
        """
        if probe_id is None:
            return state
        lanes = {key: hold for key, hold in state.lanes.items() if hold.probe_id != probe_id}
        account = state.account
        if account is None or account.probe_id != probe_id:
            return replace(state, lanes=lanes)
        if account.offender not in (None, lane):
            lanes[account.offender] = replace(account, probe_id=None, probe_until=None, offender=None)
        return replace(state, account=None, lanes=lanes, ended_at=now, last_failures=account.failures)

    def after_none(self, state: AccountState, probe_id: UUID) -> AccountState:
        """The probe came to nothing, good or bad: another one may be made."""
        account = state.account
        if account is not None and account.probe_id == probe_id:
            account = replace(account, probe_id=None, probe_until=None)
        lanes = {
            key: replace(hold, probe_id=None, probe_until=None) if hold.probe_id == probe_id else hold
            for key, hold in state.lanes.items()
        }
        return replace(state, account=account, lanes=lanes)

    def _begun(self, state: AccountState, lane: LaneKey, sign: BadSign, now: datetime) -> Hold:
        relapsed = state.ended_at is not None and now - state.ended_at < _RELAPSE_WITHIN
        failures = state.last_failures + 1 if relapsed else 0
        return Hold(
            sign.kind,
            sign.reason,
            since=now,
            failed_at=now,
            probe_at=now + self._delay(sign, failures),
            failures=failures,
            offender=lane if sign.kind is HoldKind.AMBIGUITY else None,
        )

    def _prolonged(self, hold: Hold, sign: BadSign, now: datetime) -> Hold:
        failures = hold.failures + 1
        return replace(
            hold,
            kind=sign.kind,
            reason=sign.reason,
            failures=failures,
            failed_at=now,
            probe_at=now + self._delay(sign, failures),
            probe_id=None,
            probe_until=None,
        )

    @staticmethod
    def _joined(hold: Hold, sign: BadSign, now: datetime) -> Hold:
        """By a request that was under way when the hold began."""
        return replace(hold, probe_at=max(hold.probe_at, now + (sign.retry_after or timedelta(0))))

    def _delay(self, sign: BadSign, failures: int) -> timedelta:
        own = self.pause if sign.kind is HoldKind.REFUSED else self.backoff.after(failures + 1)
        return max(own, sign.retry_after or timedelta(0))
