"""Reading requests: every wrong field is named with its cure, and page tokens continue only their own list."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from enum import IntEnum
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from servicekit.arguments import MAX_PAGE_SIZE, ArgumentCheck, invalid_field
from servicekit.errors import Category, DomainError
from servicekit.paging import Listing, position, word

AN_ID = "0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b"


class Color(IntEnum):
    RED = 1
    GREEN = 2


def violations(check: ArgumentCheck) -> dict[str, str]:
    with pytest.raises(DomainError) as raised:
        check.finish()
    assert (raised.value.category, raised.value.reason) == (Category.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    return {violation.field: violation.description for violation in raised.value.field_violations}


def test_right_arguments_are_returned_as_what_they_mean() -> None:
    check = ArgumentCheck()
    read = (
        check.uuid("id", AN_ID.upper()),
        check.request_id(AN_ID.replace("-", "")),
        check.optional_uuid("other_id", ""),
        check.tenant_id("shop-1"),
        check.optional_tenant_id(""),
        check.text("name", "Φθινόπωρο", minimum=1, maximum=9),
        check.long_text("text", "two\nlines", maximum=20),
        check.number("units", 5, minimum=1, maximum=5),
        check.enum("color", Color, 0),
        check.required_enum("shade", Color, 2),
        check.instant("at", Timestamp(seconds=1, nanos=2_000)),
        check.page_size(0),
        check.page_size(10**6),
    )
    an_id = UUID(AN_ID)
    at = datetime(1970, 1, 1, 0, 0, 1, 2, tzinfo=UTC)
    expected = (
        an_id,
        an_id,
        None,
        "shop-1",
        "",
        "Φθινόπωρο",
        "two\nlines",
        5,
        None,
        Color.GREEN,
        at,
        50,
        MAX_PAGE_SIZE,
    )
    assert check.passed(read) == expected


@pytest.mark.parametrize(
    "wrong", ["", "x", "{" + AN_ID + "}", "urn:uuid:" + AN_ID, AN_ID[:-1], AN_ID + "\n", "0190-" * 7]
)
def test_only_the_two_usual_forms_of_a_uuid_are_taken(wrong: str) -> None:
    check = ArgumentCheck()
    check.uuid("id", wrong)
    assert list(violations(check)) == ["id"]


def test_all_that_is_wrong_is_said_at_once_with_the_cure() -> None:
    check = ArgumentCheck()
    check.request_id("7")
    check.tenant_id("UPPER")
    check.text("name", "  ", minimum=1, maximum=200)
    check.text("reason", "line\nbreak", maximum=200)
    check.text("source", "x" * 65, maximum=64)
    check.long_text("text", "a\0b", maximum=20)
    check.number("units", 0, minimum=1, maximum=100)
    check.enum("color", Color, 7)
    check.required_enum("shade", Color, 0)
    check.instant("at", Timestamp(nanos=-1))
    check.page_size(-1)
    assert violations(check) == {
        "request_id": "must be a UUID: make a new one per operation and repeat it on retries",
        "tenant_id": "must be 1 to 64 characters of a-z, 0-9, '-' and '_'",
        "name": "is required: give 1 to 200 characters",
        "reason": "must not contain control characters such as line breaks",
        "source": "must have at most 64 characters; it has 65",
        "text": "must not contain NUL characters",
        "units": "must be at least 1 and at most 100",
        "color": "must be one of RED, GREEN, or unspecified",
        "shade": "must be one of RED, GREEN",
        "at": "must be an instant between the years 1970 and 9999",
        "page_size": "must not be negative; 0 means 50",
    }


def test_the_message_names_the_first_fields_and_counts_the_others() -> None:
    check = ArgumentCheck()
    for number in range(10):
        check.wrong(f"field_{number}", "must be less")
    with pytest.raises(DomainError) as raised:
        check.passed("nothing")
    assert raised.value.message.startswith("field_0 must be less; field_1 must be less; ")
    assert raised.value.message.endswith("; field_7 must be less; and 2 more.")
    assert invalid_field("data", "must not be empty").message == "data must not be empty."


def test_a_token_continues_the_list_it_came_from() -> None:
    check, listing = ArgumentCheck(), Listing("entries", "acme", 3)
    assert listing.after(check, "", position) is None
    assert listing.after(check, listing.token(41), position) == 41
    assert Listing("accounts").after(check, Listing("accounts").token("acme"), word) == "acme"
    assert listing.next_token([1, 2, 3], 2, lambda row: row) == listing.token(2)
    assert listing.next_token([1, 2], 2, lambda row: row) == ""
    check.finish()


def forged(*content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


LISTING = Listing("entries", "acme", "a")
FINGERPRINT = json.loads(base64.urlsafe_b64decode(LISTING.token() + "=="))[0]


@pytest.mark.parametrize(
    "token",
    [
        Listing("entries", "acme", "b").token(41),
        Listing("entries", "acmea").token(41),
        LISTING.token("41"),
        LISTING.token(),
        LISTING.token(1, 2),
        LISTING.token(1 << 63),
        forged(FINGERPRINT, -1),
        forged(FINGERPRINT, 1.5),
        forged({}),
        forged(),
        "?",
        "ä",
        "WyJ4IiwxXQ",
        "[" * 10_000,
        base64.urlsafe_b64encode(b"[" * 100_000).decode(),
    ],
)
def test_any_other_token_is_refused_with_the_cure(token: str) -> None:
    check = ArgumentCheck()
    LISTING.after(check, token, position)
    cure = "must be next_page_token of the page before, with the same filters; or empty"
    assert violations(check) == {"page_token": cure}


def test_a_forged_text_never_reaches_the_database_with_what_it_cannot_store() -> None:
    check = ArgumentCheck()
    LISTING.after(check, forged(FINGERPRINT, "a\0b"), word)
    assert list(violations(check)) == ["page_token"]


@given(st.text(max_size=80))
def test_no_text_whatever_makes_the_check_fail_by_itself(text: str) -> None:
    check = ArgumentCheck()
    check.uuid("id", text)
    check.tenant_id(text)
    check.text("text", text, minimum=1, maximum=40)
    LISTING.after(check, text, position)
    assert "id" in violations(check) or UUID(text)
