"""The header line: which delimiter the file uses, and which column is what."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from bulksms_campaign.domain.contact_file.records import QUOTE, QuotedRecord, Reading
from bulksms_campaign.domain.contact_file.refusals import bad_header

DELIMITERS = (",", ";", "\t")

_PHONE = (
    "phone", "phones", "phonenumber", "phoneno", "mobile", "mobilephone", "mobilenumber", "mobileno", "msisdn", "cell",
    "cellphone", "cellnumber", "telephone", "telephonenumber", "tel", "gsm", "number", "τηλεφωνο", "αριθμοστηλεφωνου",
    "κινητο", "κινητοτηλεφωνο", "αριθμοσκινητου", "τηλ", "κιν",
)  # fmt: skip
_FIRST_NAME = ("firstname", "first", "name", "givenname", "forename", "ονομα", "μικροονομα")
_LAST_NAME = ("lastname", "last", "surname", "familyname", "επωνυμο", "επιθετο")
_ALIASES = (
    dict.fromkeys(_PHONE, "phone") | dict.fromkeys(_FIRST_NAME, "first_name") | dict.fromkeys(_LAST_NAME, "last_name")
)


@dataclass(frozen=True, slots=True)
class Header:
    """How to read the file's records: positions are indexes into a record's fields."""

    delimiter: str
    columns: int
    phone: int
    first_name: int | None
    last_name: int | None


def parse_header(line: str) -> Header:
    """Read the header line; raises CSV_HEADER naming what was found and what is expected."""
    readings = {delimiter: _columns(line, delimiter) for delimiter in DELIMITERS}
    delimiter = max(DELIMITERS, key=lambda mark: ("phone" in readings[mark], len(readings[mark])))
    names = readings[delimiter]
    if "phone" not in names:
        found = _fields(line, delimiter)
        raise bad_header([name for name in found if name.strip()], "names no phone column")
    for column in ("phone", "first_name", "last_name"):
        if names.count(column) > 1:
            raise bad_header(_fields(line, delimiter), f"names the {column} column twice: rename one of the two")
    return Header(
        delimiter,
        len(names),
        names.index("phone"),
        names.index("first_name") if "first_name" in names else None,
        names.index("last_name") if "last_name" in names else None,
    )


def _columns(line: str, delimiter: str) -> list[str | None]:
    return [_ALIASES.get(_folded(name)) for name in _fields(line, delimiter)]


def _fields(line: str, delimiter: str) -> list[str]:
    if QUOTE not in line:
        return line.split(delimiter)
    record = QuotedRecord(delimiter)
    return record.fields if record.add(line) is Reading.WHOLE else line.replace(QUOTE, "").split(delimiter)


def _folded(name: str) -> str:
    """The name without case, accents and what is no letter: "Όνομα " is "ονομα", "First_Name" is "firstname"."""
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    return "".join(character for character in decomposed if character.isalpha()).replace("ς", "σ")
