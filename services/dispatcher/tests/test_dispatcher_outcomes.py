"""The outcome table, row by row: how far a request came, the status and the body → what that proves."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulksms_dispatcher.domain.account_holds import HoldKind
from bulksms_dispatcher.domain.known_ids import KnownIds
from bulksms_dispatcher.domain.protocol import OutcomeKind
from bulksms_dispatcher.domain.provider_outcomes import (
    TABLE,
    Exchange,
    Fault,
    FollowUp,
    Phase,
    Promises,
    ProviderRejection,
    classify,
)
from bulksms_dispatcher.domain.provider_responses import parse_response
from bulksms_dispatcher.providers.retry_after import MAX_RETRY_AFTER, parse_retry_after
from servicekit.clock import ManualClock

A, R, N, X = OutcomeKind.ACCEPTED, OutcomeKind.REJECTED, OutcomeKind.NOT_SENT, OutcomeKind.AMBIGUOUS
NO, RETRY, CUT = FollowUp.NONE, FollowUp.RETRY, FollowUp.CUT
REST, BACK, OTHERS = FollowUp.HOLD_ACCOUNT, FollowUp.HAND_BACK, FollowUp.SEND_OTHERS
AMBIGUITY, UNAVAILABLE, REFUSED = HoldKind.AMBIGUITY, HoldKind.UNAVAILABLE, HoldKind.REFUSED


def bulk(*items: object, bulk_id: str = "b") -> bytes:
    messages = [{"messageId": item} if isinstance(item, str) or item is None else item for item in items]
    return json.dumps({"bulkId": bulk_id, "messages": messages}).encode()


TWO = bulk("one", "two")
REJECTED_ITEM = {"error": {"code": "bad", "message": "Invalid destination"}}

FAULTS = [
    # What is ours rests nobody.
    (Phase.WAITING, Fault.POOL_TIMEOUT, N, BACK),
    (Phase.CONNECTED, Fault.NOT_ARMED, N, BACK),
    (Phase.ARMING, Fault.NOT_ARMED, N, BACK),
    (Phase.CONNECTING, Fault.CONNECT_TIMEOUT, N, REST),
    (Phase.CONNECTING, Fault.CONNECT_FAILED, N, REST),
    (Phase.SENDING, Fault.WRITE_TIMEOUT, X, NO),
    (Phase.SENDING, Fault.READ_TIMEOUT, X, NO),
    (Phase.SENDING, Fault.CONNECTION_LOST, X, NO),
    (Phase.SENDING, Fault.RESPONSE_MALFORMED, X, NO),
    (Phase.SENDING, Fault.INTERRUPTED, X, NO),
    # The name of the fault proves nothing: a "connect" error after the first byte is as ambiguous as any other.
    (Phase.SENDING, Fault.CONNECT_FAILED, X, NO),
    (Phase.RECEIVING, Fault.READ_TIMEOUT, X, NO),
    (Phase.RECEIVING, Fault.CONNECTION_LOST, X, NO),
    (Phase.RECEIVING, Fault.RESPONSE_TOO_LARGE, X, NO),
]


@pytest.mark.parametrize(("phase", "fault", "kind", "follow_up"), FAULTS)
@pytest.mark.parametrize("status", [0, 200, 400, 429])
def test_an_exchange_that_broke_off(
    phase: Phase, fault: Fault, kind: OutcomeKind, follow_up: FollowUp, status: int
) -> None:
    verdict = classify(Exchange(phase, fault, status), 2, KnownIds())
    assert (verdict.kind, verdict.reason, verdict.follow_up) == (kind, fault.value, follow_up)
    assert verdict.hold is {X: AMBIGUITY, N: UNAVAILABLE if follow_up is REST else None}[kind]
    assert not verdict.is_good


RESPONSES = [
    (200, TWO, A, "", NO),
    (202, TWO, A, "", NO),
    (299, TWO, A, "", NO),
    (200, bulk("one", {"id": "two"}), A, "", NO),
    (200, bulk("one", REJECTED_ITEM), A, "", NO),
    (200, bulk("one", {"messageId": None, "error": "no"}), A, "", NO),
    (200, bulk(REJECTED_ITEM, REJECTED_ITEM), R, "PROVIDER_REJECTED", NO),
    (200, bulk("one"), X, "ID_COUNT_MISMATCH", NO),
    (200, bulk("one", "two", "three"), X, "ID_COUNT_MISMATCH", NO),
    (200, bulk(), X, "ID_COUNT_MISMATCH", NO),
    (200, b"{}", X, "ID_COUNT_MISMATCH", NO),
    (200, bulk("one", None), X, "ID_MISSING", NO),
    (200, bulk("one", {}), X, "ID_MISSING", NO),
    (200, bulk("one", {"messageId": "two", "error": "no"}), X, "RESPONSE_UNREADABLE", NO),
    (200, bulk("one", "one"), X, "ID_REPEATED", NO),
    (200, bulk("one", "known"), X, "ID_KNOWN", NO),
    (200, bulk("one", ""), X, "ID_MALFORMED", NO),
    (200, bulk("one", "x" * 65), X, "ID_MALFORMED", NO),
    (200, bulk("one", "new\nline"), X, "ID_MALFORMED", NO),
    (200, bulk("one", {"messageId": 7}), X, "RESPONSE_UNREADABLE", NO),
    (200, b"", X, "RESPONSE_UNREADABLE", NO),
    (200, b"<html>OK</html>", X, "RESPONSE_UNREADABLE", NO),
    (200, b"\xff\xfe", X, "RESPONSE_UNREADABLE", NO),
    (200, TWO[:-3], X, "RESPONSE_UNREADABLE", NO),
    (200, b"[" * 100_000, X, "RESPONSE_UNREADABLE", NO),
    (204, b"", X, "RESPONSE_UNREADABLE", NO),
    (301, TWO, X, "UNEXPECTED_STATUS", NO),
    (307, b"", X, "UNEXPECTED_STATUS", NO),
    (400, b'{"message":"Invalid sender"}', R, "PROVIDER_REJECTED", NO),
    (400, b'{"errors":{"Sms.Text":["required"]}}', R, "PROVIDER_REJECTED", NO),
    (400, b"", R, "PROVIDER_REJECTED", NO),
    (400, b'{"error":"Maximum number of messages is 1000"}', R, "BATCH_TOO_LARGE", CUT),
    (400, b'{"errors":{"messages[1].destination":["invalid"]}}', R, "PROVIDER_REJECTED", NO),
    (400, TWO, X, "REFUSAL_WITH_IDS", NO),
    (400, b'<pre>"messageId"</pre>', X, "REFUSAL_WITH_IDS", NO),
    (401, b"", R, "ACCOUNT_REFUSED", REST),
    (402, b"{}", R, "PROVIDER_REJECTED", NO),
    (403, b"<html>", R, "ACCOUNT_REFUSED", REST),
    (404, b"", R, "PROVIDER_CONFIGURATION", REST),
    (405, b"", R, "PROVIDER_CONFIGURATION", REST),
    (408, b"", X, "UNEXPECTED_STATUS", NO),
    (409, b"", X, "UNEXPECTED_STATUS", NO),
    (413, b"", R, "BATCH_TOO_LARGE", CUT),
    (415, b"", R, "PROVIDER_CONFIGURATION", REST),
    (418, b"", X, "UNEXPECTED_STATUS", NO),
    (422, b"{}", R, "PROVIDER_REJECTED", NO),
    (429, b"", R, "RATE_LIMITED", RETRY),
    (429, TWO, X, "REFUSAL_WITH_IDS", NO),
    (500, b"", X, "SERVER_ERROR", NO),
    (500, TWO, X, "SERVER_ERROR", NO),
    (502, b"<html>", X, "SERVER_ERROR", NO),
    (503, b"", X, "SERVER_ERROR", NO),
    (599, b"", X, "SERVER_ERROR", NO),
]


@pytest.mark.parametrize(("status", "body", "kind", "reason", "follow_up"), RESPONSES)
def test_a_response_read_to_its_end(
    status: int, body: bytes, kind: OutcomeKind, reason: str, follow_up: FollowUp
) -> None:
    known = KnownIds()
    known.add(["known"])
    verdict = classify(Exchange(Phase.RECEIVED, Fault.NONE, status, body), 2, known)
    assert (verdict.kind, verdict.reason, verdict.follow_up) == (kind, reason, follow_up)
    assert bool(verdict.message_ids) is (kind is A)
    assert verdict.hold is (AMBIGUITY if kind is X else REFUSED if follow_up is REST else None)
    assert verdict.is_good is (kind in (A, R) and follow_up in (NO, CUT))


def test_an_id_that_says_it_was_made_for_an_earlier_request_is_ambiguous_where_ids_carry_their_time() -> None:
    clock = ManualClock(datetime(2026, 11, 30, 12, tzinfo=UTC))
    # The first ten characters of a ULID are its time: 11:30, 10:59, and 12:20 of that day.
    made_lately, made_earlier, made_later = ulid(clock.now(), -30), ulid(clock.now(), -61), ulid(clock.now(), 20)
    for ids, reason in (
        ((made_lately, made_lately[:-1] + "9"), ""),
        ((made_lately, made_earlier), "ID_OF_ANOTHER_TIME"),
        ((made_later, made_lately), "ID_OF_ANOTHER_TIME"),
        ((made_lately, "no-ulid"), "ID_OF_ANOTHER_TIME"),
    ):
        exchange = Exchange(Phase.RECEIVED, Fault.NONE, 200, bulk(*ids))
        assert classify(exchange, 2, KnownIds(clock=clock)).reason == reason
        assert classify(exchange, 2, KnownIds()).kind is A, "nobody looks at the time where it means nothing"


def ulid(now: datetime, minutes: int) -> str:
    """As of so many minutes from now."""
    milliseconds = int((now + timedelta(minutes=minutes)).timestamp() * 1000)
    digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    return "".join(digits[milliseconds // 32**place % 32] for place in reversed(range(10))) + "JZ9JQG9G884WZ000"


PROMISED = [
    (503, b"", R, "PROVIDER_UNAVAILABLE", REST, UNAVAILABLE),
    (409, b"{}", R, "PROVIDER_UNAVAILABLE", REST, UNAVAILABLE),
    (503, TWO, X, "REFUSAL_WITH_IDS", NO, AMBIGUITY),
    (502, b"", X, "SERVER_ERROR", NO, AMBIGUITY),
    # What is known of a status needs no promise.
    (401, b"", R, "ACCOUNT_REFUSED", REST, REFUSED),
    (429, b"", R, "RATE_LIMITED", RETRY, None),
]


@pytest.mark.parametrize(("status", "body", "kind", "reason", "follow_up", "hold"), PROMISED)
def test_a_status_by_which_the_provider_promises_that_nothing_was_accepted(
    status: int, body: bytes, kind: OutcomeKind, reason: str, follow_up: FollowUp, hold: HoldKind | None
) -> None:
    promises = Promises(not_accepted_statuses=frozenset({401, 409, 429, 503}))
    verdict = classify(Exchange(Phase.RECEIVED, Fault.NONE, status, body), 2, KnownIds(), promises)
    assert (verdict.kind, verdict.reason, verdict.follow_up, verdict.hold) == (kind, reason, follow_up, hold)


@pytest.mark.parametrize("status", [503, 409])
def test_without_its_promise_a_status_is_ambiguous(status: int) -> None:
    assert classify(Exchange(Phase.RECEIVED, Fault.NONE, status, b""), 2, KnownIds()).kind is X


NAMING = [
    (b'{"errors":{"messages[1].destination":["invalid"]}}', OTHERS, (1,)),
    (b'{"message":"Messages[0]: no such number"}', OTHERS, (0,)),
    (b'{"errors":{"$.messages[1].sms":["a"],"messages[1].sms.text":["b"]}}', OTHERS, (1,)),
    # Two, none, and one that was not asked for: nothing is split.
    (b'{"errors":{"messages[0].sms":["a"],"messages[1].sms":["b"]}}', NO, ()),
    (b'{"message":"Invalid sender"}', NO, ()),
    (b'{"errors":{"messages[2].destination":["invalid"]}}', NO, ()),
    (b'{"errors":{"messages[99999999].destination":["invalid"]}}', NO, ()),
    (b"messages[1]", NO, ()),
    (b'{"errors":{"messages[1].sms":["too long"]}}', CUT, ()),
]


@pytest.mark.parametrize(("body", "follow_up", "named"), NAMING)
def test_a_400_that_names_one_message_refuses_that_one_where_the_provider_promises_to_refuse_whole(
    body: bytes, follow_up: FollowUp, named: tuple[int, ...]
) -> None:
    promises = Promises(refuses_whole_on_400=True)
    verdict = classify(Exchange(Phase.RECEIVED, Fault.NONE, 400, body), 2, KnownIds(), promises)
    assert (verdict.kind, verdict.follow_up) == (R, follow_up)
    assert tuple(p for rejection in verdict.rejections for p in rejection.positions) == named


def test_a_400_about_a_request_of_one_message_needs_no_name() -> None:
    body = b'{"errors":{"messages[0].destination":["invalid"]}}'
    verdict = classify(
        Exchange(Phase.RECEIVED, Fault.NONE, 400, body), 1, KnownIds(), Promises(refuses_whole_on_400=True)
    )
    assert (verdict.kind, verdict.follow_up) == (R, NO)


def test_every_line_of_the_table_that_is_ambiguous_holds_the_account_and_no_good_one_does() -> None:
    assert all(row.hold is AMBIGUITY for row in TABLE if row.kind is X)
    assert all((row.hold is None) is (row.follow_up is not REST) for row in TABLE if row.kind is not X)


@given(
    phase=st.sampled_from(Phase),
    fault=st.sampled_from(Fault),
    status=st.integers(0, 999),
    body=st.one_of(st.binary(), st.just(TWO), st.from_regex(rb'\{"messages":\[.*\]\}')),
)
@settings(deadline=None)
def test_whatever_comes_gets_a_verdict_and_only_certainty_is_sent_again(
    phase: Phase, fault: Fault, status: int, body: bytes
) -> None:
    verdict = classify(Exchange(phase, fault, status, body), 2, KnownIds())
    if phase >= Phase.SENDING and verdict.kind is not X and verdict.follow_up is not NO:
        assert phase is Phase.RECEIVED
        assert status in (400, 401, 403, 404, 405, 413, 415, 429)
        assert b"messageId" not in body
    if verdict.kind is A:
        assert len(verdict.message_ids) + sum(len(r.positions) for r in verdict.rejections) == 2


def test_a_partial_refusal_says_who_and_why() -> None:
    body = bulk("one", {"error": "bad number +306900000001"}, {"error": "bad number +306900000002"}, "four")
    verdict = classify(Exchange(Phase.RECEIVED, Fault.NONE, 200, body), 4, KnownIds())
    assert verdict.message_ids == ["one", "four"]
    assert verdict.rejections == (ProviderRejection((1, 2), "bad number ***"),)


@pytest.mark.parametrize("body", [b'{"messageId":"m"}', b'{"id":"m"}', b'{"messages":[{"messageId":"m"}]}'])
def test_a_single_send_is_responded_to_in_three_shapes(body: bytes) -> None:
    verdict = classify(Exchange(Phase.RECEIVED, Fault.NONE, 200, body), 1, KnownIds())
    assert (verdict.kind, verdict.message_ids) == (A, ["m"])


def test_descriptions_are_short_and_hold_no_number() -> None:
    response = parse_response(json.dumps({"message": "Cannot  send to +30 690 000-0001:\n" + "x" * 500}).encode())
    assert response.description.startswith("Cannot send to ***: xxx")
    assert len(response.description) == 200


def test_remembered_ids_are_bounded() -> None:
    known = KnownIds(capacity=10)
    for start in range(0, 100, 5):
        known.add([str(n) for n in range(start, start + 5)])
    assert known.includes_any(["99"])
    assert not known.includes_any(["0"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("7", timedelta(seconds=7)),
        ("0", timedelta(0)),
        ("99999999", MAX_RETRY_AFTER),
        ("Sun, 22 Nov 2026 12:00:30 GMT", timedelta(seconds=30)),
        ("Sun, 22 Nov 2026 11:00:00 GMT", timedelta(0)),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("²", None),
    ],
)
def test_retry_after_in_both_forms_and_none(value: str, expected: timedelta | None) -> None:
    assert parse_retry_after(value, datetime(2026, 11, 22, 12, tzinfo=UTC)) == expected
