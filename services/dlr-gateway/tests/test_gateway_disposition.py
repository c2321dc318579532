from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from bulksms_dlr_gateway.domain.disposition import PeerReply, disposition_of
from bulksms_dlr_gateway.domain.entries import Entry, SpooledEntry
from bulksms_dlr_gateway.domain.reports import Report, Status
from bulksms_dlr_gateway.domain.retry_schedule import RetrySchedule

SECOND = 1_000_000
SCHEDULE = RetrySchedule()
REPORT = Report("A", Status.DELIVERED, "Delivered")


def test_the_pauses_double_up_to_a_ceiling() -> None:
    pauses = [SCHEDULE.due_after(n).total_seconds() for n in range(1, 10)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert SCHEDULE.due_after(10_000) == timedelta(seconds=30)


def test_a_report_nobody_knows_is_asked_for_until_the_horizon_and_then_quarantined() -> None:
    row, now, asked = SpooledEntry(1, Entry(REPORT, 0)), 0, 0
    while True:
        disposition = disposition_of([row], [PeerReply.UNKNOWN], SCHEDULE, now)
        if disposition.quarantined:
            break
        ((now, entry),) = disposition.waiting
        row, asked = SpooledEntry(1, entry), asked + 1
    ((reason, entry),) = disposition.quarantined
    assert reason == "UNKNOWN_MESSAGE"
    assert timedelta(minutes=10) <= timedelta(microseconds=now) < timedelta(minutes=10, seconds=31)
    assert entry.attempts == asked + 1 == 26
    assert entry.unknown_since == 0


def test_time_in_which_nobody_could_be_asked_does_not_count() -> None:
    hour_ago = Entry(REPORT, 0, attempts=1, unknown_since=0)
    disposition = disposition_of([SpooledEntry(1, hour_ago)], [PeerReply.UNKNOWN], SCHEDULE, 3_600 * SECOND)
    assert not disposition.quarantined
    assert disposition.waiting[0][0] == 3_601 * SECOND


def test_the_dispatcher_is_asked_once_campaign_had_its_chance() -> None:
    entry = Entry(REPORT, 0, unknown_since=10 * SECOND)
    assert not SCHEDULE.asks_dispatcher(Entry(REPORT, 0), 100 * SECOND)
    assert not SCHEDULE.asks_dispatcher(entry, 14 * SECOND)
    assert SCHEDULE.asks_dispatcher(entry, 15 * SECOND)


def test_a_report_is_not_given_up_while_the_dispatcher_is_away() -> None:
    entry = Entry(REPORT, 0, attempts=50, unknown_since=0)
    disposition = disposition_of([SpooledEntry(1, entry)], [PeerReply.UNASKED], SCHEDULE, 3_600 * SECOND)
    assert not disposition.quarantined
    assert disposition.waiting[0][0] == 3_630 * SECOND


def test_a_report_that_breaks_its_receiver_waits_a_day_for_the_mending() -> None:
    hour = 3_600 * SECOND
    young, old = SpooledEntry(1, Entry(REPORT, 2 * hour)), SpooledEntry(2, Entry(REPORT, 0))
    disposition = disposition_of([young, old], [PeerReply.BREAKS, PeerReply.BREAKS], SCHEDULE, 25 * hour)
    assert [reason for reason, _ in disposition.quarantined] == ["PEER_BREAKS"]
    assert disposition.waiting[0][0] == 25 * hour + 60 * SECOND
    assert disposition.waiting[0][1].unknown_since is None


@given(st.lists(st.tuples(st.sampled_from(PeerReply), st.integers(0, 10**15)), max_size=30), st.integers(0, 10**15))
def test_every_offered_report_leaves_its_table_and_none_is_lost(rows: list[tuple[PeerReply, int]], now: int) -> None:
    offered = [SpooledEntry(n, Entry(REPORT, received, unknown_since=received)) for n, (_, received) in enumerate(rows)]
    replies = [reply for reply, _ in rows]
    disposition = disposition_of(offered, replies, SCHEDULE, now)
    assert disposition.ids == list(range(len(rows)))
    kept = len(disposition.waiting) + len(disposition.quarantined)
    assert kept == sum(reply is not PeerReply.TAKEN for reply in replies)
    assert all(due > now for due, _ in disposition.waiting)
