from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulksms_dlr_gateway.domain.payload import TooManyReportsError, UnreadableBodyError, parse
from bulksms_dlr_gateway.domain.reports import Report, Status, microseconds, moment

MITTO_BODY = {
    "messageId": "01JD9ZK3M5T8V7W2X4Y6Z8A0BC",
    "text": "Καλημέρα! Ο κωδικός σας είναι 123456",
    "sender": {"value": "Astronote"},
    "createdAt": "2026-11-22T10:00:00.1234567Z",
    "updatedAt": "2026-11-22T10:00:05.7654321Z",
    "trafficAccountId": "5a7e0a3e-8f0e-4e0c-9d9a-000000000000",
    "deliveryStatus": "Delivered",
    "description": "Delivered to handset",
    "messageParts": 1,
    "requestInfo": {"sms": {"sender": "Astronote", "text": "…"}},
    "reference": None,
}


def report_of(body: Any) -> Report:
    payload = parse(json.dumps(body).encode() if not isinstance(body, bytes) else body)
    assert not payload.rejected
    (report,) = payload.reports
    return report


def reasons_of(body: Any) -> list[str]:
    return [item.reason for item in parse(json.dumps(body).encode() if not isinstance(body, bytes) else body).rejected]


def test_a_report_as_mitto_sends_it_is_read() -> None:
    report = report_of(MITTO_BODY)
    assert report.provider_message_id == "01JD9ZK3M5T8V7W2X4Y6Z8A0BC"
    assert (report.status, report.raw_status) == (Status.DELIVERED, "Delivered")
    assert report.description == "Delivered to handset"
    assert report.updated_at is not None
    assert moment(report.updated_at) == datetime(2026, 11, 22, 10, 0, 5, 765432, tzinfo=UTC)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("Sent", Status.SENT),
        ("pending", Status.SENT),
        ("QUEUED", Status.SENT),
        ("Buffered", Status.SENT),
        ("Delivered", Status.DELIVERED),
        ("Failure", Status.FAILED),
        ("Failed", Status.FAILED),
        ("Undelivered", Status.FAILED),
        ("Rejected", Status.FAILED),
        ("Expired", Status.EXPIRED),
        ("Read", Status.OTHER),
        ("Παραδόθηκε", Status.OTHER),
    ],
)
def test_each_word_of_the_provider_has_one_of_ours_and_is_kept(word: str, status: Status) -> None:
    report = report_of({"messageId": "A", "deliveryStatus": word})
    assert (report.status, report.raw_status) == (status, word)


def test_the_older_names_are_read_and_the_newer_win() -> None:
    assert report_of({"messageId": "A", "status": "Sent", "errorCode": 27}).error_code == "27"
    assert report_of({"messageId": "A", "status": "Sent", "deliveryStatus": "Failure"}).status is Status.FAILED
    assert report_of({"messageId": "A", "status": "Sent", "deliveryStatus": None}).status is Status.SENT


def test_another_spelling_of_the_keys_is_read() -> None:
    assert report_of({"MessageId": "A", "DeliveryStatus": "Delivered"}).status is Status.DELIVERED


def test_an_array_is_read_in_order_and_a_byte_order_mark_is_ignored() -> None:
    body = b"\xef\xbb\xbf " + json.dumps([{"messageId": str(n), "status": "Sent"} for n in range(5)]).encode()
    assert [report.provider_message_id for report in parse(body).reports] == ["0", "1", "2", "3", "4"]
    assert parse(b"[]").reports == []


def test_bad_elements_are_rejected_one_by_one() -> None:
    payload = parse(
        json.dumps(
            [
                {"messageId": "good", "status": "Sent"},
                3,
                None,
                {"status": "Sent"},
                {"messageId": "", "status": "Sent"},
                {"messageId": "x" * 65, "status": "Sent"},
                {"messageId": "a\nb", "status": "Sent"},
                {"messageId": 7, "status": "Sent"},
                {"messageId": "B"},
                {"messageId": "B", "status": {"name": "Sent"}},
                [{"messageId": "B", "status": "Sent"}],
                {"messageId": "last", "status": "Delivered"},
            ]
        ).encode()
    )
    assert [report.provider_message_id for report in payload.reports] == ["good", "last"]
    assert [(item.index, item.reason) for item in payload.rejected] == [
        (1, "NOT_AN_OBJECT"),
        (2, "NOT_AN_OBJECT"),
        (3, "MESSAGE_ID_MISSING"),
        (4, "MESSAGE_ID_INVALID"),
        (5, "MESSAGE_ID_INVALID"),
        (6, "MESSAGE_ID_INVALID"),
        (7, "MESSAGE_ID_INVALID"),
        (8, "STATUS_MISSING"),
        (9, "STATUS_MISSING"),
        (10, "NOT_AN_OBJECT"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b'{"messageId":"A","status":"Sent","messageId":"B"}',
        b'{"messageId":"A","status":"Sent","message\\u0049d":"B"}',
        b'{"messageId":"A","status":"Sent","MessageId":"B","x":"\\n"}',
        b'{"messageId":"A","deliveryStatus":"Sent","deliveryStatus":"Delivered"}',
    ],
)
def test_a_report_that_two_readers_could_read_differently_is_rejected(body: bytes) -> None:
    assert reasons_of(body) == ["DUPLICATE_KEY"]


def test_a_known_key_inside_a_field_we_do_not_read_is_no_duplicate() -> None:
    body = {"messageId": "A", "status": "Sent", "requestInfo": {"status": "x", "messageId": "y"}, "text": 'a "q"'}
    assert report_of(body).provider_message_id == "A"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "EMPTY_BODY"),
        (b"  \r\n", "EMPTY_BODY"),
        (b"hello", "NOT_A_REPORT"),
        (b'"text"', "NOT_A_REPORT"),
        (b"null", "NOT_A_REPORT"),
        (b"12", "NOT_A_REPORT"),
        (b'{"messageId":"A"', "NOT_JSON"),
        (b'{"messageId":"A","status":"Sent"} {}', "NOT_JSON"),
        (b'{"messageId":NaN}', "NOT_JSON"),
        (b'[{"messageId":"A","x":Infinity}]', "NOT_JSON"),
        (b"{'messageId':'A'}", "NOT_JSON"),
        (b'{"messageId":"\xff"}', "NOT_UTF8"),
        (b'{"text":"\xc3("}', "NOT_UTF8"),
        (b"[" * 500_000, "TOO_DEEP"),
        (b'{"a":' * 100_000, "TOO_DEEP"),
        (b"[" * 100_000 + b"]" * 100_000, "TOO_DEEP"),
        ("{}".encode("utf-16"), "NOT_UTF8"),
        (b"messageId=A&status=Sent", "NOT_A_REPORT"),
    ],
)
def test_a_body_that_is_no_json_object_or_array_is_refused_with_a_reason(body: bytes, reason: str) -> None:
    with pytest.raises(UnreadableBodyError) as raised:
        parse(body)
    assert raised.value.reason == reason


def test_half_an_emoji_in_a_cut_text_costs_no_report() -> None:
    body = b'[{"messageId":"A","status":"Sent","text":"\\ud83d"},{"messageId":"B","status":"Sent","text":"\\\\ud83d"}]'
    assert [report.provider_message_id for report in parse(body).reports] == ["A", "B"]
    assert (
        report_of(b'{"messageId":"\\ud83d\\ude00","status":"Sent","text":"\\ude00"}').provider_message_id
        == "\U0001f600"
    )


def test_numbers_of_absurd_size_harm_nobody() -> None:
    digits = b"9" * 5_000
    assert reasons_of(b'{"messageId":' + digits + b',"status":"Sent"}') == ["UNREADABLE"]
    assert reasons_of(b'{"messageId":1e999,"status":"Sent"}') == ["UNREADABLE"]
    # In a field that is not read they do not even make the report unreadable.
    assert report_of(b'{"messageId":"A","status":"Sent","x":' + digits + b"}").provider_message_id == "A"


def test_more_than_five_thousand_reports_are_refused() -> None:
    element = b'{"messageId":"A","status":"Sent"}'
    assert len(parse(b"[" + b",".join([element] * 5_000) + b"]").reports) == 5_000
    with pytest.raises(TooManyReportsError):
        parse(b"[" + b",".join([element] * 5_001) + b"]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-22T10:00:00.1234567Z", datetime(2026, 11, 22, 10, 0, 0, 123456, tzinfo=UTC)),
        ("2026-11-22T12:00:00+02:00", datetime(2026, 11, 22, 10, 0, tzinfo=UTC)),
        ("2026-11-22T10:00:00", datetime(2026, 11, 22, 10, 0, tzinfo=UTC)),
        ("yesterday", None),
        ("", None),
        ("9999-12-31T23:59:59-23:00", datetime.max.replace(tzinfo=UTC)),
        (1795341600, None),
        (["2026"], None),
    ],
)
def test_times_are_read_leniently(text: Any, expected: datetime | None) -> None:
    updated_at = report_of({"messageId": "A", "status": "Sent", "updatedAt": text}).updated_at
    if expected is not None and expected.year == 9999:
        assert updated_at is None or moment(min(updated_at, microseconds(expected)))  # beyond datetime's end
    else:
        assert updated_at == (None if expected is None else microseconds(expected))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Absent subscriber +306912345678", "Absent subscriber ***"),
        ("to 0030 691 234 5678 failed", "to *** failed"),
        ("(691) 234-5678", "(***"),
        ("error 1234, code 27", "error 1234, code 27"),
    ],
)
def test_numbers_in_descriptions_are_masked(text: str, masked: str) -> None:
    assert report_of({"messageId": "A", "status": "Sent", "description": text}).description == masked


def test_texts_are_cut_and_cleaned_for_every_transport() -> None:
    report = report_of(b'{"messageId":"A","status":"Sent\\u0000\\ud800","description":"' + b"\xce\xb1" * 500 + b'"}')
    assert report.raw_status == "Sent \ufffd"
    assert len(report.description) == 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
elements = (
    st.fixed_dictionaries(
        {},
        optional={
            "messageId": st.text(max_size=70) | json_values,
            "deliveryStatus": st.text(max_size=80) | json_values,
            "status": st.sampled_from(["Sent", "Failure"]) | json_values,
            "description": st.text(max_size=300) | json_values,
            "errorCode": json_values,
            "updatedAt": st.datetimes().map(lambda value: value.isoformat() + "1Z") | json_values,
            "text": json_values,
        },
    )
    | json_values
)


@given(st.lists(elements, max_size=8))
@example([{"messageId": "\ud800", "status": "Sent"}])
@example([{"messageId": "A", "status": "Sent", "text": "\ud800"}])
def test_whatever_the_elements_each_is_either_a_sound_report_or_rejected(body: list[Any]) -> None:
    try:
        payload = parse(json.dumps(body, allow_nan=False).encode())
    except ValueError:  # NaN is no JSON; the generator may make it
        return
    assert len(payload.reports) + len(payload.rejected) == len(body)
    for report in payload.reports:
        assert 0 < len(report.provider_message_id) <= 64
        assert report.provider_message_id.isprintable()
        assert len(report.raw_status) <= 64
        assert len(report.description) <= 200
        assert len(report.error_code) <= 32
        assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


@given(st.binary(max_size=300))
def test_whatever_the_bytes_they_are_taken_or_refused_in_an_orderly_way(body: bytes) -> None:
    try:
        payload = parse(body)
    except UnreadableBodyError as error:
        assert error.reason.isupper()  # noqa: PT017 - either is right
    else:
        assert len(payload.reports) + len(payload.rejected) <= len(body)
