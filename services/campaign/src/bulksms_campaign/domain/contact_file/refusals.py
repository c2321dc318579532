"""What makes a whole file unusable; a single bad line never does."""

from __future__ import annotations

from collections.abc import Sequence

from servicekit.errors import DomainError, invalid_argument

MAX_RECORD_CHARACTERS = 65_536


def not_utf8(line_number: int, byte_offset: int) -> DomainError:
    """Bytes that are no UTF-8; the usual cause is a spreadsheet's export in a national code page."""
    return invalid_argument(
        "CSV_NOT_UTF8",
        f"The file is not UTF-8: line {line_number} has an invalid byte at offset {byte_offset}. "
        'Save it as "CSV UTF-8" or convert it, for example with iconv -f WINDOWS-1253 -t UTF-8.',
        line_number=line_number,
        byte_offset=byte_offset,
    )


def line_too_long(line_number: int) -> DomainError:
    """A line no contact can have: read on, it would fill the memory."""
    return invalid_argument(
        "CSV_LINE_TOO_LONG",
        f"Line {line_number} is longer than {MAX_RECORD_CHARACTERS} characters. Nothing was imported. "
        "Break it into lines, one contact each, or remove it.",
        line_number=line_number,
        limit=MAX_RECORD_CHARACTERS,
    )


def too_large(max_bytes: int) -> DomainError:
    """More bytes than one import may have."""
    return invalid_argument(
        "CSV_TOO_LARGE",
        f"The file is larger than {max_bytes} bytes. Nothing was imported. Split it into several files.",
        limit=max_bytes,
    )


def empty() -> DomainError:
    """A file without a single data line."""
    return invalid_argument(
        "IMPORT_EMPTY",
        "The file has no data lines: give a header line that names a phone column, and one line per contact.",
        line_number=1,
    )


def bad_header(found: Sequence[str], problem: str) -> DomainError:
    """A header line that does not say where the phone is; what was found is shown, cut to a sane size."""
    shown = ", ".join(repr(name[:40]) for name in found[:20]) or "nothing"
    return invalid_argument(
        "CSV_HEADER",
        f"The header line (line 1) {problem}. Found: {shown}. Expected: a phone column ('phone', 'mobile', 'msisdn', "
        "'τηλέφωνο' or 'κινητό'), optionally 'first_name' and 'last_name', separated by ',', ';' or tab.",
        line_number=1,
    )
