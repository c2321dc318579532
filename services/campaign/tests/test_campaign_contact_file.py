"""Contact files as people and spreadsheets write them."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulksms_campaign.domain.contact_file.header import parse_header
from bulksms_campaign.domain.contact_file.records import RecordReader
from bulksms_campaign.domain.contact_file.rows import ContactFile, Rows
from servicekit.errors import DomainError


def read(data: str | bytes, *, region: str = "GR", piece: int = 1 << 20) -> Rows:
    file, rows = ContactFile(region), Rows()
    content = data.encode() if isinstance(data, str) else data
    for start in range(0, len(content), piece):
        part = file.feed(content[start : start + piece])
        rows.contacts += part.contacts
        rows.rejected += part.rejected
    last = file.finish()
    rows.contacts += last.contacts
    rows.rejected += last.rejected
    return rows


def refusal(data: str | bytes) -> DomainError:
    with pytest.raises(DomainError) as caught:
        read(data, piece=4096)
    return caught.value


@pytest.mark.parametrize(
    "header",
    [
        "phone,first_name,last_name",
        "Phone;First Name;Last Name",
        "Κινητό\tΌνομα\tΕπώνυμο",
        '"MSISDN";"firstname";"surname"',
        "\ufeffΤΗΛΕΦΩΝΟ,ΟΝΟΜΑ,ΕΠΩΝΥΜΟ",
        " mobile , name , last-name ",
    ],
)
def test_headers_are_understood_whatever_their_delimiter_case_accents_and_language(header: str) -> None:
    mark = next(mark for mark in ";\t," if mark in header)
    rows = read(f"{header}\r\n6941234567{mark}Άννα{mark}Παππά\r\n")
    assert rows.contacts == [(2, 306941234567, "Άννα", "Παππά")]


@pytest.mark.parametrize(
    "header", ["name,surname", "", "email;city", "phone,mobile", "phone,Phone", "first,last,first"]
)
def test_a_header_without_exactly_one_phone_column_is_refused_with_what_was_found_and_what_is_expected(
    header: str,
) -> None:
    error = refusal(f"{header}\n+306941234567\n")
    assert error.reason == "CSV_HEADER"
    assert "Expected: a phone column" in error.message
    assert all(name in error.message for name in header.replace(";", ",").split(","))


def test_other_columns_are_ignored() -> None:
    rows = read("id,phone,city,first_name\n1,+306941234567,Athens,Anna\n")
    assert rows.contacts == [(2, 306941234567, "Anna", "")]


@pytest.mark.parametrize(
    "phone",
    [
        "+306941234567", "00306941234567", "(+30) 694-123-4567", "694 123 4567", "6941234567", " +30 694 1234567 ",
        "+30\u00a0694\u00a01234567", "'6941234567", "+30 694\u2013123\u20134567", "６９４１２３４５６７",
        "306941234567",
    ],
)  # fmt: skip
def test_a_number_is_understood_however_it_is_written(phone: str) -> None:
    assert [row[1] for row in read(f"phone;x\n{phone};\n").contacts] == [306941234567]


@pytest.mark.parametrize(
    ("line", "reason", "field"),
    [
        ("3.06E+11,a,b", "PHONE_INVALID", "phone"),
        ("3,06E+11", "FIELD_COUNT", ""),
        ("12,a,b", "PHONE_INVALID", "phone"),
        (",a,b", "PHONE_MISSING", "phone"),
        ("2101234567,a,b", "PHONE_NOT_MOBILE", "phone"),
        ("", "BLANK_LINE", ""),
        (" , ,", "BLANK_LINE", ""),
        ("+306941234567,a", "FIELD_COUNT", ""),
        ("+306941234567,a,b,c", "FIELD_COUNT", ""),
        ('+306941234567,"a,b', "BAD_QUOTES", ""),
        ('+306941234567,a"b,c', "BAD_QUOTES", ""),
        ('+306941234567,"a"b,c', "BAD_QUOTES", ""),
        ("+306941234567,a\x00,b", "CONTROL_CHARACTER", "first_name"),
        ("+306941234567,a," + "b" * 101, "FIELD_TOO_LONG", "last_name"),
    ],
)
def test_a_line_that_cannot_be_used_is_reported_and_stops_no_other(line: str, reason: str, field: str) -> None:
    rows = read(f"phone,first_name,last_name\n+306941234560,,\n{line}\n+306941234569,,\n")
    assert [row[0] for row in rows.contacts] == [2, 4]
    (rejected,) = rows.rejected
    assert (rejected.line_number, rejected.reason, rejected.field) == (3, reason, field)
    assert "694" not in rejected.message
    assert len(rejected.message) > 10


def test_a_number_ruined_by_a_spreadsheet_is_told_how_to_be_saved() -> None:
    (rejected,) = read("phone\n3.06941E+11\n").rejected
    assert "format the column as text" in rejected.message


def test_a_national_number_without_a_region_is_told_the_cure() -> None:
    (rejected,) = read("phone\n6941234567\n", region="").rejected
    assert rejected.reason == "PHONE_NO_REGION"


def test_quoted_fields_may_hold_delimiters_quotes_and_line_ends_and_lines_are_counted_as_they_stand() -> None:
    rows = read('phone,first_name\r\n"+306941234567","An""na\r\nMaria, x"\r\n+306941234568,B\r\n')
    assert rows.contacts == [(2, 306941234567, 'An"na Maria, x', ""), (4, 306941234568, "B", "")]


def test_empty_columns_at_the_end_of_a_line_are_no_mistake() -> None:
    assert len(read("phone,first_name\n+306941234567,A,,,\n").contacts) == 1


def test_a_quote_never_closed_spoils_its_own_line_only() -> None:
    lines = [f"+3069412345{number:02d},x" for number in range(60)]
    lines[10] = '+306941234599,"x'
    rows = read("phone,first_name\n" + "\n".join(lines))
    assert [item.line_number for item in rows.rejected] == [12]
    assert len(rows.contacts) == 59


def test_a_line_of_ten_megabytes_is_refused_by_its_number_and_nothing_is_kept_of_it() -> None:
    error = refusal("phone\n+306941234567\n" + "x" * 10_000_000)
    assert (error.reason, error.metadata["line_number"], error.metadata["limit"]) == ("CSV_LINE_TOO_LONG", "3", "65536")


def test_a_long_line_is_refused_in_the_middle_of_a_file_too() -> None:
    assert refusal("phone\n" + "x" * 70_000 + "\n+306941234567\n").metadata["line_number"] == "2"


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_a_file_that_is_not_utf8_is_refused_with_line_and_byte_offset(piece: int) -> None:
    data = "phone,first_name\n+306941234567,Άννα\n+306941234568,".encode() + "Άννα".encode("cp1253") + b"\n"
    with pytest.raises(DomainError) as caught:
        read(data, piece=piece)
    assert caught.value.reason == "CSV_NOT_UTF8"
    assert caught.value.metadata == {"line_number": "3", "byte_offset": str(data.index("Άννα".encode("cp1253")))}


def test_a_file_cut_in_the_middle_of_a_character_is_not_utf8() -> None:
    assert refusal("phone\n+306941234567\nΆ".encode()[:-1]).reason == "CSV_NOT_UTF8"


@given(data=st.data())
def test_where_a_file_is_cut_changes_nothing(data: st.DataObject) -> None:
    text = data.draw(
        st.text(alphabet="+306941\"',;\r\n aβ\u00e9", max_size=300).map(lambda tail: "phone,first_name\r\n" + tail)
    )
    content = text.encode()
    piece = data.draw(st.integers(1, max(len(content), 1)))
    assert read(content, piece=piece) == read(content)


@given(st.text(alphabet='+306941",\n aβ', max_size=400))
def test_every_line_is_accounted_for(tail: str) -> None:
    rows = read("phone,first_name\n" + tail)
    numbers = [row[0] for row in rows.contacts] + [line.line_number for line in rows.rejected]
    assert len(numbers) == len(set(numbers))
    lines = tail.count("\n") + (0 if tail.endswith("\n") or not tail else 1)
    assert all(2 <= number <= lines + 1 for number in numbers)
    if '"' not in tail:
        assert sorted(numbers) == list(range(2, lines + 2))


@given(st.lists(st.lists(st.text(alphabet='ab ,"\n;β', max_size=12), min_size=2, max_size=2), min_size=1, max_size=20))
def test_what_a_csv_writer_wrote_is_read_back(table: list[list[str]]) -> None:
    table = [[field if field.count("\n") < 20 else "" for field in row] for row in table]
    written = io.StringIO(newline="")
    csv.writer(written, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(table)
    reader = RecordReader(",", 2)
    records = [*reader.feed(written.getvalue().split("\n")[:-1]), *reader.finish()]
    assert [record.fields for record in records] == table


@given(st.text(max_size=80))
def test_any_header_is_read_or_refused_with_a_reason(line: str) -> None:
    reason = ""
    try:
        header = parse_header(line)
    except DomainError as error:
        reason = error.reason
    assert reason == "CSV_HEADER" or 0 <= header.phone < header.columns
