"""The accepted log: what the simulator took, readable while it runs and after a crash.

A log is a sequence of records, one per accepted request: a JSON header line, then the body of the request
exactly as it came, then a line feed. The header carries the body's length and checksum, so that a record that was
being written when the process died is recognised, and ignored: there was no response to it.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from devstack.mitto.message_ids import IdBlock
from devstack.mitto.wire import OutgoingMessage, decode_messages

MAX_HEADER_BYTES = 4 * 1024 * 1024


class RecordHeader(msgspec.Struct, gc=False, frozen=True):
    """What precedes a request body in the log."""

    request: int
    connection: int
    path: str
    received_at: float
    bulk_id: str | None
    blocks: list[IdBlock]
    count: int
    positions: list[int] | None
    """Which messages of the body were accepted; None for all."""
    bytes: int
    crc32: int

    def message_ids(self) -> list[str]:
        """Ids of the accepted messages, in their order."""
        if len(self.blocks) == 1:
            return self.blocks[0].ids()
        return [message_id for block in self.blocks for message_id in block.ids()]

    def select(self, messages: list[OutgoingMessage]) -> list[OutgoingMessage]:
        """The accepted ones among the messages of the body."""
        if self.positions is None:
            return messages
        return [messages[position] for position in self.positions]


@dataclass(frozen=True, slots=True)
class AcceptedMessage:
    """One message that the provider took and will send."""

    request: int
    connection: int
    bulk_id: str | None
    message_id: str
    traffic_account: str
    destination: str
    sender: str
    text: str
    received_at: float


@dataclass(frozen=True, slots=True)
class Record:
    """Where one accepted request is in the log."""

    header: RecordHeader
    offset: int
    """Of the body, in bytes from the start of the file."""

    @property
    def end(self) -> int:
        """Where the next record starts."""
        return self.offset + self.header.bytes + 1


class DamagedLogError(Exception):
    """The log has something in its middle that no crash of the simulator explains."""


def read_accepted(path: Path | str, start: int = 0) -> Iterator[AcceptedMessage]:
    """Every accepted message, in the order of acceptance. A torn last record is left out.

    `start` is the byte at which a record starts: what is before is not read.
    """
    with Path(path).open("rb") as file:
        file.seek(start)
        for record, body in _records_with_bodies(file):
            header = record.header
            messages = header.select(decode_messages(header.path, body))
            for message_id, message in zip(header.message_ids(), messages, strict=True):
                yield AcceptedMessage(
                    request=header.request,
                    connection=header.connection,
                    bulk_id=header.bulk_id,
                    message_id=message_id,
                    traffic_account=message.traffic_account_id,
                    destination=message.destination,
                    sender=message.sms.sender,
                    text=message.sms.text,
                    received_at=header.received_at,
                )


def read_records(path: Path | str) -> Iterator[Record]:
    """Every complete record of the log, without decoding the bodies."""
    with Path(path).open("rb") as file:
        for record, _ in _records_with_bodies(file):
            yield record


class Duplicates(msgspec.Struct, frozen=True):
    """How often the same text went to the same destination."""

    messages: int
    distinct: int
    surplus: int
    """Messages beyond the first of each (destination, text): 0 when nothing was sent twice."""
    worst: int
    """The most often one (destination, text) was accepted."""


def count_duplicates(path: Path | str) -> Duplicates:
    """Count the (destination, text) pairs that were accepted more than once."""
    seen = Counter(hash((message.destination, message.text)) for message in read_accepted(path))
    total = seen.total()
    worst = max(seen.values(), default=0)
    return Duplicates(messages=total, distinct=len(seen), surplus=total - len(seen), worst=worst)


_header_decoder = msgspec.json.Decoder(RecordHeader)


def _records_with_bodies(file: BinaryIO) -> Iterator[tuple[Record, bytes]]:
    while True:
        start = file.tell()
        line = file.readline(MAX_HEADER_BYTES)
        if not line.endswith(b"\n"):
            if len(line) == MAX_HEADER_BYTES:
                raise DamagedLogError(f"header at byte {start} has no end")
            return
        try:
            header = _header_decoder.decode(line)
        except msgspec.DecodeError as error:
            _only_at_the_end(file, start, str(error))
            return
        offset = file.tell()
        body = file.read(header.bytes + 1)
        if len(body) <= header.bytes:
            return
        if body[-1:] != b"\n" or zlib.crc32(memoryview(body)[:-1]) != header.crc32:
            _only_at_the_end(file, start, "checksum differs")
            return
        yield Record(header, offset), body[:-1]


def _only_at_the_end(file: BinaryIO, start: int, reason: str) -> None:
    """A write cut short by a power cut may leave garbage, but only behind everything else."""
    if file.read(1):
        raise DamagedLogError(f"record at byte {start}: {reason}")
