"""Records: lines put together and cut into fields by RFC 4180, forgiving about one bad line at a time.

A quote that is never closed, or closed in the middle of a field, spoils the line it stands on and no other: reading
goes on with the next physical line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from bulksms_campaign.domain.contact_file.refusals import MAX_RECORD_CHARACTERS

QUOTE = '"'
MAX_RECORD_LINES = 25
"""More lines than this in one record are an unclosed quote. It also bounds how often a line is read again."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record: the line it starts on and its fields; None for fields when its quotes are wrong."""

    line_number: int
    fields: list[str] | None


class RecordReader:
    """Takes lines and gives records; holds back at most one record's lines."""

    def __init__(self, delimiter: str, first_line_number: int) -> None:
        self._delimiter = delimiter
        self._next_line = first_line_number
        self._held: list[str] = []
        self._held_characters = 0
        self._quoted = QuotedRecord(delimiter)

    def feed(self, lines: Iterable[str]) -> Iterator[Record]:
        """The records that `lines` complete."""
        for line in lines:
            if self._held or QUOTE in line:
                yield from self._hold(line)
            else:
                yield Record(self._next_line, line.split(self._delimiter))
                self._next_line += 1

    def finish(self) -> Iterator[Record]:
        """What is held back: a record whose quote was never closed, and the lines behind it."""
        while self._held:
            yield from self._spoil_first()

    def _hold(self, line: str) -> Iterator[Record]:
        if not self._held:
            self._quoted = QuotedRecord(self._delimiter)
            self._held_characters = 0
        self._held.append(line)
        self._held_characters += len(line)
        reading = self._quoted.add(line)
        if reading is Reading.WHOLE:
            yield Record(self._next_line, self._quoted.fields)
            self._next_line += len(self._held)
            self._held = []
        elif (
            reading is Reading.SPOILT
            or len(self._held) > MAX_RECORD_LINES
            or self._held_characters > MAX_RECORD_CHARACTERS
        ):
            yield from self._spoil_first()

    def _spoil_first(self) -> Iterator[Record]:
        yield Record(self._next_line, None)
        self._next_line += 1
        rest, self._held = self._held[1:], []
        yield from self.feed(rest)


class Reading(Enum):
    """How far a record with quotes is."""

    WHOLE = 1
    OPEN = 2
    SPOILT = 3


class QuotedRecord:
    """A record that may have quotes, read line by line."""

    def __init__(self, delimiter: str) -> None:
        self.fields: list[str] = []
        self._delimiter = delimiter
        self._open: list[str] | None = None

    def add(self, line: str) -> Reading:
        """Read one more line; OPEN when its last quote is not closed, SPOILT when it can't be made sense of."""
        position, end = 0, len(line)
        while True:
            if self._open is None and not _begins_quoted(line, position):
                stop = line.find(self._delimiter, position)
                stop = end if stop < 0 else stop
                if line.find(QUOTE, position, stop) >= 0:
                    return Reading.SPOILT
                self.fields.append(line[position:stop])
                position = stop
            else:
                begin = position if self._open is not None else line.index(QUOTE, position) + 1
                position = self._read_quoted(line, begin)
                if position < 0:
                    return Reading.OPEN
                if position < end and line[position] != self._delimiter:
                    return Reading.SPOILT
            if position >= end:
                return Reading.WHOLE
            position += 1

    def _read_quoted(self, line: str, begin: int) -> int:
        """The position behind the quoted field and the spaces that follow it; -1 when it goes on on the next line."""
        pieces = self._open or []
        closed = _closing_quote(line, begin)
        if closed < 0:
            self._open = [*pieces, line[begin:]]
            return -1
        self.fields.append("\n".join([*pieces, line[begin:closed]]).replace('""', QUOTE))
        self._open = None
        position = closed + 1
        while line.startswith(" ", position):
            position += 1
        return position


def _begins_quoted(line: str, position: int) -> bool:
    while line.startswith(" ", position):
        position += 1
    return line.startswith(QUOTE, position)


def _closing_quote(line: str, position: int) -> int:
    while True:
        found = line.find(QUOTE, position)
        if found < 0 or not line.startswith(QUOTE, found + 1):
            return found
        position = found + 2
