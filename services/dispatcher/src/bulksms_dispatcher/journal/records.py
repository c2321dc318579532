"""Records of the journal: one provider response each, with a length and a checksum, so that a torn end is seen."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import msgspec

__all__ = ["JournalRecord", "decode_all", "encode"]

_HEAD = struct.Struct("<II")
# As long as the largest response that is read (64 KB and 1 KB a message of 10,000), and room to spare.
_MAX_PAYLOAD = 32 * 1024 * 1024


class JournalRecord(msgspec.Struct, array_like=True, frozen=True):
    """What the provider responded to one attempt, byte for byte."""

    batch_id: UUID
    attempt_id: UUID
    status: int
    retry_after_seconds: float | None
    body: bytes

    @property
    def retry_after(self) -> timedelta | None:
        """What a 429 asked for."""
        return None if self.retry_after_seconds is None else timedelta(seconds=self.retry_after_seconds)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(JournalRecord)


def encode(record: JournalRecord) -> bytes:
    """As it stands in a segment."""
    payload = _encoder.encode(record)
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def decode_all(data: bytes) -> Iterator[JournalRecord]:
    """The records of a segment up to the first one that is not whole: what follows it was never acknowledged."""
    offset = 0
    while len(data) - offset >= _HEAD.size:
        length, checksum = _HEAD.unpack_from(data, offset)
        offset += _HEAD.size
        payload = data[offset : offset + length]
        if length > _MAX_PAYLOAD or len(payload) < length or zlib.crc32(payload) != checksum:
            return
        try:
            yield _decoder.decode(payload)
        except msgspec.DecodeError:
            return
        offset += length
