"""Rows: a file's records as contacts to be, or as lines that cannot be used, each with its reason and the cure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from bulksms_campaign.domain.contact_file.header import Header, parse_header
from bulksms_campaign.domain.contact_file.lines import LineReader
from bulksms_campaign.domain.contact_file.reasons import LineReason
from bulksms_campaign.domain.contact_file.records import Record, RecordReader
from bulksms_campaign.domain.contacts import MAX_NAME, clean_name
from smstext.phone import PhoneProblem, parse_phone

ContactRow = tuple[int, int, str, str]
"""(line number, phone, first name, last name)"""

_SCIENTIFIC = re.compile(r"\s*[+']?\d+(?:[.,]\d+)?[eE]\+?\d+\s*")
_SPOILT_BY_SPREADSHEET = (
    "a spreadsheet has rounded the number to scientific notation, its digits are lost: "
    "format the column as text and export it again"
)


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A line that cannot be used. Nothing in it is personal data."""

    line_number: int
    reason: LineReason
    field: str
    message: str


@dataclass(slots=True)
class Rows:
    """What a piece of the file came to."""

    contacts: list[ContactRow] = field(default_factory=list)
    rejected: list[RejectedLine] = field(default_factory=list)


class ContactFile:
    """Takes pieces of a CSV file, cut anywhere, and gives rows."""

    def __init__(self, default_region: str) -> None:
        self._region = default_region
        self._lines = LineReader()
        self._header: Header | None = None
        self._records: RecordReader | None = None

    def feed(self, data: bytes) -> Rows:
        """The rows that `data` completes. Raises what makes the whole file unusable (see refusals)."""
        return self._rows(self._lines.feed(data))

    def finish(self) -> Rows:
        """What remains at the end of the file."""
        rows = self._rows(self._lines.finish())
        if self._records is not None and self._header is not None:
            self._read(self._records.finish(), self._header, rows)
        return rows

    def _rows(self, lines: list[str]) -> Rows:
        rows = Rows()
        if not lines:
            return rows
        if self._header is None or self._records is None:
            self._header = parse_header(lines[0])
            self._records = RecordReader(self._header.delimiter, 2)
            lines = lines[1:]
        self._read(self._records.feed(lines), self._header, rows)
        return rows

    def _read(self, records: Iterable[Record], header: Header, rows: Rows) -> None:
        for record in records:
            row = read_record(record, header, self._region)
            if isinstance(row, RejectedLine):
                rows.rejected.append(row)
            else:
                rows.contacts.append(row)


def read_record(  # noqa: PLR0911 - one return per reason
    record: Record, header: Header, region: str
) -> ContactRow | RejectedLine:
    """One record as a contact to be, or why not."""
    line, fields = record.line_number, record.fields
    if fields is None:
        return RejectedLine(
            line, LineReason.BAD_QUOTES, "", 'a quote is not closed or stands inside a field: double it ("")'
        )
    if len(fields) != header.columns:
        if not any(value.strip() for value in fields):
            return _blank(line)
        if len(fields) < header.columns or any(value.strip() for value in fields[header.columns :]):
            return _wrong_count(line, len(fields), header.columns)
    raw_phone = fields[header.phone]
    phone = parse_phone(raw_phone, region)
    if phone.digits is None:
        if phone.problem is PhoneProblem.PHONE_MISSING and not any(value.strip() for value in fields):
            return _blank(line)
        return _wrong_phone(line, raw_phone, phone.problem or PhoneProblem.PHONE_INVALID)
    first_name = _name(fields, header.first_name)
    last_name = _name(fields, header.last_name)
    if first_name is None or last_name is None:
        column = "first_name" if first_name is None else "last_name"
        return RejectedLine(line, LineReason.CONTROL_CHARACTER, column, "has control characters: remove them")
    if len(first_name) > MAX_NAME or len(last_name) > MAX_NAME:
        column, name = ("first_name", first_name) if len(first_name) > MAX_NAME else ("last_name", last_name)
        return RejectedLine(
            line, LineReason.FIELD_TOO_LONG, column, f"has {len(name)} characters: at most {MAX_NAME} are allowed"
        )
    return line, phone.digits, first_name, last_name


def _name(fields: list[str], position: int | None) -> str | None:
    return "" if position is None else clean_name(fields[position])


def _blank(line: int) -> RejectedLine:
    return RejectedLine(line, LineReason.BLANK_LINE, "", "the line is empty: remove it")


def _wrong_count(line: int, found: int, expected: int) -> RejectedLine:
    return RejectedLine(
        line,
        LineReason.FIELD_COUNT,
        "",
        f"has {found} field(s), the header names {expected}: quote fields that contain the separator, add missing ones",
    )


def _wrong_phone(line: int, raw: str, problem: PhoneProblem) -> RejectedLine:
    if _SCIENTIFIC.fullmatch(raw):
        return RejectedLine(line, LineReason.PHONE_INVALID, "phone", _SPOILT_BY_SPREADSHEET)
    return RejectedLine(line, LineReason[problem.name], "phone", problem.value)
