"""What is masked in foreign words, and what in log lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.privacy import clean_text, mask_for_logs, mask_numbers


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Absent subscriber +306912345678", "Absent subscriber ***"),
        ("to 0030 691 234 5678 failed", "to *** failed"),
        ("(691) 234-5678", "(***"),
        ("Cannot send to +30 690 000-0001: barred", "Cannot send to ***: barred"),
        ("691/234/5678", "***"),
        ("error 1234, code 27", "error 1234, code 27"),
        ("12345", "12345"),
        ("123456", "***"),
    ],
)
def test_whatever_may_be_a_telephone_number_is_masked_in_foreign_words(text: str, masked: str) -> None:
    assert mask_numbers(text) == masked
    assert clean_text(text, 200) == masked


def test_foreign_words_become_one_printable_line() -> None:
    assert clean_text("a\tb\x00c", 10) == "a b c"
    assert clean_text("  over\r\n  lines\ud800", 20) == "over lines"
    assert clean_text("x" * 500, 200) == "x" * 200


@given(st.integers(10**5, 10**15 - 1), st.sampled_from(["", " ", "-", "   ", "\n", "/"]), st.integers(1, 12))
def test_a_number_is_masked_however_it_is_grouped(number: int, separator: str, group: int) -> None:
    digits = str(number)
    grouped = separator.join(digits[at : at + group] for at in range(0, len(digits), group))
    assert clean_text(f"to +{grouped}", 200) == "to ***"


@pytest.mark.parametrize(
    "text",
    ["+306912345678", "+30 691 234 5678", "to +306912345678.", "(+30)6912345678 x", "=306912345678,", "n 6912345678"],
)
def test_telephone_numbers_in_log_lines_are_masked(text: str) -> None:
    masked = mask_for_logs(text)
    assert "[masked]" in masked
    assert sum(character.isdigit() for character in masked) <= 2


@pytest.mark.parametrize(
    "text",
    [
        "01890a5d-ac96-774b-bcce-b302099a8057",
        "12345678-1234-5678-1234-123456781234",
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "2026-11-22T10:11:12.123456Z",
        "127.0.0.1:50051",
        "1,234,567 of 9999999",
        "4bf92f3577b34da6a3ce929d0e0e4736",
    ],
)
def test_ids_times_addresses_and_counts_stay_in_log_lines(text: str) -> None:
    assert mask_for_logs(text) == text


def test_passwords_in_urls_are_masked() -> None:
    assert mask_for_logs("at postgresql://me:hunter2@db:5432/x") == "at postgresql://me:[masked]@db:5432/x"


@given(
    st.integers(10**7, 10**15 - 1),
    st.text(alphabet="abc (),='\"", max_size=5),
    st.text(alphabet="abc ),.;'", max_size=5),
)
def test_no_number_with_a_plus_gets_into_a_log_line(number: int, before: str, after: str) -> None:
    assert str(number) not in mask_for_logs(f"{before}+{number}{after}")
