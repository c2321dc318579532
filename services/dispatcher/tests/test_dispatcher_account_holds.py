"""Account holds: what holds an account or a lane, when a probe is due, and what a good answer ends."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from bulksms.dispatcher.v1 import queue_pb2
from bulksms.types.v1 import types_pb2
from bulksms_dispatcher.domain.account_holds import AccountState, BadSign, Hold, HoldKind, HoldRules, LaneKey
from bulksms_dispatcher.storage import account_holds
from servicekit.backoff import Backoff
from servicekit.database import Database

from .dispatcher_support import ACCOUNT, TENANT, Dispatcher

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
RULES = HoldRules(Backoff(SECOND, longest=timedelta(minutes=5)), pause=timedelta(seconds=60))
ONE, OTHER, THIRD = (LaneKey(TENANT, uuid.UUID(int=number)) for number in (1, 2, 3))
PROBE = uuid.UUID(int=99)
AMBIGUOUS_BULK = BadSign(HoldKind.AMBIGUITY, "SERVER_ERROR", of_one=False)
AMBIGUOUS_SINGLE = BadSign(HoldKind.AMBIGUITY, "CONNECTION_LOST", of_one=True)
NO_CONNECTION = BadSign(HoldKind.UNAVAILABLE, "CONNECT_FAILED", of_one=False)
REFUSED = BadSign(HoldKind.REFUSED, "ACCOUNT_REFUSED", of_one=False)


def held_by(sign: BadSign = AMBIGUOUS_BULK, lane: LaneKey = ONE) -> AccountState:
    return RULES.after_bad(AccountState(), lane, sign, None, NOW)


def probed(state: AccountState, lane: LaneKey, now: datetime) -> AccountState:
    assert RULES.may_probe(state, lane, now)
    return RULES.begin_probe(state, lane, PROBE, now + timedelta(seconds=60))


def account_of(state: AccountState) -> Hold:
    assert state.account is not None
    return state.account


def test_the_first_ambiguous_bulk_holds_the_account() -> None:
    hold = account_of(held_by())
    assert (hold.kind, hold.reason, hold.since) == (HoldKind.AMBIGUITY, "SERVER_ERROR", NOW)
    assert hold.probe_at == NOW + SECOND


def test_of_single_messages_the_third_within_ten_seconds_does() -> None:
    state = AccountState()
    for seconds in (0, 6, 12, 18):
        state = RULES.after_bad(state, ONE, AMBIGUOUS_SINGLE, None, NOW + seconds * SECOND)
        assert state.account is None, "no three of them are within ten seconds"
    state = RULES.after_bad(state, ONE, AMBIGUOUS_SINGLE, None, NOW + 21 * SECOND)
    assert account_of(state).kind is HoldKind.AMBIGUITY


def test_probes_come_one_at_a_time_after_1_2_4_and_at_most_300_seconds() -> None:
    state, now, waits = held_by(), NOW, []
    for _ in range(12):
        due = RULES.probe_at(state, ONE)
        assert due is not None
        waits.append((due - now).total_seconds())
        assert not RULES.may_probe(state, ONE, due - timedelta(milliseconds=1))
        state, now = probed(state, ONE, due), due
        assert not RULES.may_probe(state, ONE, now), "another one is under way"
        assert not RULES.may_probe(state, OTHER, now)
        state = RULES.after_bad(state, ONE, AMBIGUOUS_BULK, PROBE, now)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert account_of(state).since == NOW


def test_a_probe_whose_process_died_is_followed_by_another_once_its_time_is_over() -> None:
    state = probed(held_by(), ONE, NOW + SECOND)
    assert not RULES.may_probe(state, ONE, NOW + timedelta(seconds=60))
    assert RULES.may_probe(state, ONE, NOW + timedelta(seconds=61))


def test_a_good_answer_to_the_probe_ends_the_hold_and_one_to_anything_else_does_not() -> None:
    state = probed(held_by(), ONE, NOW + SECOND)
    assert RULES.after_good(state, ONE, None, NOW) == state
    assert RULES.after_good(state, ONE, uuid.UUID(int=98), NOW).account is not None
    assert RULES.after_good(state, ONE, PROBE, NOW) == AccountState(ended_at=NOW)


def test_a_request_that_was_under_way_when_the_hold_began_does_not_prolong_it() -> None:
    state = held_by()
    assert RULES.after_bad(state, ONE, AMBIGUOUS_BULK, None, NOW + SECOND) == state


def test_what_the_provider_asks_for_is_waited_for_whoever_heard_it() -> None:
    asked = BadSign(HoldKind.AMBIGUITY, "SERVER_ERROR", of_one=False, retry_after=timedelta(seconds=40))
    assert account_of(held_by(asked)).probe_at == NOW + timedelta(seconds=40)
    assert account_of(RULES.after_bad(held_by(), ONE, asked, None, NOW)).probe_at == NOW + timedelta(seconds=40)
    hasty = BadSign(HoldKind.REFUSED, "ACCOUNT_REFUSED", of_one=False, retry_after=SECOND)
    assert account_of(held_by(hasty)).probe_at == NOW + RULES.pause


def test_a_poisoned_text_rests_alone_once_another_lane_is_answered_well() -> None:
    state = held_by(lane=ONE)
    state = RULES.after_bad(probed(state, ONE, NOW + SECOND), ONE, AMBIGUOUS_BULK, PROBE, NOW + SECOND)
    assert RULES.probe_at(state, ONE) == NOW + 3 * SECOND
    assert RULES.probe_at(state, OTHER) == NOW + 2 * SECOND, "another lane need not wait as long as the offender"

    state = RULES.after_good(probed(state, OTHER, NOW + 2 * SECOND), OTHER, PROBE, NOW + 2 * SECOND)
    assert state.account is None
    assert RULES.probe_at(state, OTHER) is None
    assert RULES.probe_at(state, ONE) == NOW + 3 * SECOND

    state = RULES.after_bad(probed(state, ONE, NOW + 3 * SECOND), ONE, AMBIGUOUS_BULK, PROBE, NOW + 3 * SECOND)
    assert state.account is None, "what it does now concerns itself alone"
    assert RULES.probe_at(state, ONE) == NOW + 7 * SECOND
    state = RULES.after_good(probed(state, ONE, NOW + 7 * SECOND), ONE, PROBE, NOW + 7 * SECOND)
    assert RULES.probe_at(state, ONE) is None


def test_when_two_lanes_were_ambiguous_no_text_is_at_fault() -> None:
    state = RULES.after_bad(held_by(lane=ONE), OTHER, AMBIGUOUS_BULK, None, NOW)
    state = RULES.after_bad(probed(state, ONE, NOW + SECOND), ONE, AMBIGUOUS_BULK, PROBE, NOW + SECOND)
    assert RULES.probe_at(state, THIRD) == RULES.probe_at(state, ONE) == NOW + 3 * SECOND
    state = RULES.after_good(probed(state, THIRD, NOW + 3 * SECOND), THIRD, PROBE, NOW + 3 * SECOND)
    assert (state.account, dict(state.lanes)) == (None, {})


def test_without_a_connection_no_lane_is_at_fault_and_the_account_is_held_although_only_a_lane_was_probed() -> None:
    assert account_of(held_by(NO_CONNECTION)).offender is None
    lane_alone = RULES.after_good(probed(held_by(), OTHER, NOW + SECOND), OTHER, PROBE, NOW + SECOND)
    later = NOW + 2 * SECOND
    state = RULES.after_bad(probed(lane_alone, ONE, later), ONE, NO_CONNECTION, PROBE, later)
    assert (account_of(state).kind, account_of(state).offender) == (HoldKind.UNAVAILABLE, None)
    assert state.lanes[ONE].probe_id is None
    assert state.lanes[ONE].failures == 0


def test_a_refused_account_is_tried_again_after_its_pause_with_whole_batches() -> None:
    hold = account_of(held_by(REFUSED))
    assert hold.probe_at == NOW + RULES.pause
    assert not hold.probes_are_of_one
    assert account_of(held_by(NO_CONNECTION)).probes_are_of_one


def test_an_account_that_relapses_goes_on_with_its_backoff() -> None:
    state = RULES.after_good(probed(held_by(), ONE, NOW + SECOND), ONE, PROBE, NOW + SECOND)
    soon, late = NOW + timedelta(seconds=50), NOW + timedelta(seconds=90)
    assert account_of(RULES.after_bad(state, ONE, AMBIGUOUS_BULK, None, soon)).probe_at == soon + 2 * SECOND
    assert account_of(RULES.after_bad(state, ONE, AMBIGUOUS_BULK, None, late)).probe_at == late + SECOND


def test_a_probe_that_came_to_nothing_makes_room_for_another_at_once() -> None:
    due = NOW + SECOND
    state = RULES.after_none(probed(held_by(), ONE, due), PROBE)
    assert state == held_by()
    assert RULES.may_probe(state, OTHER, due)


SIGNS = st.builds(
    BadSign,
    kind=st.sampled_from(HoldKind),
    reason=st.just("SERVER_ERROR"),
    of_one=st.booleans(),
    retry_after=st.sampled_from([None, timedelta(seconds=90)]),
)
STEPS = st.tuples(
    st.sampled_from([ONE, OTHER, THIRD]), SIGNS | st.sampled_from(["probe", "good", "none"]), st.integers(0, 90)
)


@given(steps=st.lists(STEPS, max_size=60))
@settings(deadline=None)
def test_whatever_happened_a_provider_that_answers_well_frees_every_lane_and_no_two_probes_are_under_way(
    steps: Sequence[tuple[LaneKey, BadSign | str, int]],
) -> None:
    state, now, probes = AccountState(), NOW, dict[LaneKey, uuid.UUID]()
    for number, (lane, what, seconds) in enumerate(steps):
        now += seconds * SECOND
        own = probes.get(lane)
        if what == "probe":
            if RULES.may_probe(state, lane, now):
                if state.account is not None:
                    assert not _is_probed(state.account, now), "one at a time"
                probes[lane] = uuid.UUID(int=number)
                state = RULES.begin_probe(state, lane, probes[lane], now + 60 * SECOND)
        elif isinstance(what, BadSign):
            state = RULES.after_bad(state, lane, what, own, now)
            probes.pop(lane, None)
        elif own is not None:
            ends = RULES.after_good(state, lane, own, now) if what == "good" else RULES.after_none(state, own)
            state = ends
            del probes[lane]

    for _ in range(6):  # the account, and each lane that it leaves held
        for lane in (ONE, OTHER, THIRD):
            due = RULES.probe_at(state, lane)
            if due is not None:
                now = max(now + 60 * SECOND, due)
                assert now - NOW < timedelta(days=1)
                state = RULES.begin_probe(state, lane, PROBE, now + 60 * SECOND)
                state = RULES.after_good(state, lane, PROBE, now)
    assert (state.account, dict(state.lanes)) == (None, {})


def _is_probed(hold: Hold, now: datetime) -> bool:
    return hold.probe_until is not None and hold.probe_until > now


async def test_holds_survive_being_stored_and_end_there(database: Database) -> None:
    offending = RULES.after_bad(AccountState(), ONE, AMBIGUOUS_BULK, None, NOW)
    alone = RULES.after_good(probed(offending, OTHER, NOW + SECOND), OTHER, PROBE, NOW + SECOND)
    again = RULES.after_bad(alone, OTHER, NO_CONNECTION, None, NOW + 2 * SECOND)
    one_single = RULES.after_bad(AccountState(), ONE, AMBIGUOUS_SINGLE, None, NOW)
    for state in (offending, alone, again, one_single, AccountState()):
        async with database.begin() as connection:
            seen = await account_holds.lock(connection, ACCOUNT)
            await account_holds.save(connection, ACCOUNT, seen.state, state)
        async with database.connect() as connection:
            assert (await account_holds.read(connection, ACCOUNT)).state == state
            assert (await account_holds.read(connection, "another")).state == AccountState()


async def test_operators_are_shown_what_holds_the_account_and_lanes(dispatcher: Dispatcher, database: Database) -> None:
    alone = RULES.after_good(probed(held_by(), OTHER, NOW + SECOND), OTHER, PROBE, NOW + SECOND)
    state = RULES.after_bad(alone, OTHER, REFUSED, None, NOW + 2 * SECOND)
    async with database.begin() as connection:
        seen = await account_holds.lock(connection, ACCOUNT)
        await account_holds.save(connection, ACCOUNT, seen.state, state)

    stats = await dispatcher.queue.GetQueueStats(queue_pb2.GetQueueStatsRequest())
    whole, lane = stats.holds
    assert (whole.kind, whole.reason) == (
        queue_pb2.ACCOUNT_HOLD_KIND_REFUSED,
        types_pb2.OUTCOME_REASON_ACCOUNT_REFUSED,
    )
    assert (whole.traffic_account_id, whole.tenant_id, whole.campaign_id) == (ACCOUNT, "", "")
    assert whole.since.ToDatetime(UTC) == NOW + 2 * SECOND
    assert (lane.kind, lane.tenant_id, lane.campaign_id) == (
        queue_pb2.ACCOUNT_HOLD_KIND_AMBIGUITY,
        TENANT,
        str(ONE.campaign_id),
    )
    assert lane.next_probe_at.ToDatetime(UTC) == NOW + SECOND
    others = await dispatcher.queue.GetQueueStats(queue_pb2.GetQueueStatsRequest(tenant_id="nobody"))
    assert list(others.holds) == [whole], "of lanes a tenant is shown its own"
