"""The recipients of a batch, packed into one value: ascending numbers as deltas, their values beside them."""

from __future__ import annotations

import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from operator import sub

import msgspec

from bulksms_dispatcher.domain.index_ranges import IndexRange, from_ranges, to_ranges

__all__ = ["Recipients", "pack", "pack_ids", "pack_positions", "unpack", "unpack_ids", "unpack_positions"]

# 5,000 ascending mobile numbers take 5-10 KB instead of 40; level 1 is as small as level 6 here and twice as fast.
_LEVEL = 1
_MAX_UNPACKED = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Recipients:
    """Phones, strictly ascending, and `width` values for each of them, one after the other."""

    phones: Sequence[int]
    values: Sequence[str] = ()
    first_index: int = 0
    """Of the first of them within the submission, when they are consecutive there."""
    scattered: Sequence[int] = ()
    """Their indexes within the submission, when they are not."""

    @property
    def indexes(self) -> Sequence[int]:
        """Of each of them within the submission; the ledger calls them positions and authorizes each once."""
        return self.scattered or range(self.first_index, self.first_index + len(self.phones))

    @property
    def width(self) -> int:
        """Values per recipient."""
        return len(self.values) // len(self.phones) if self.phones else 0

    def values_of(self, position: int) -> Sequence[str]:
        """The values of one recipient."""
        width = self.width
        return self.values[position * width : (position + 1) * width]

    def column(self, index: int) -> Sequence[str]:
        """One of the values of every recipient."""
        return self.values[index :: self.width]

    def only(self, positions: Sequence[int]) -> Recipients:
        """Those at these positions, which ascend."""
        values = [value for position in positions for value in self.values_of(position)]
        indexes = self.indexes
        return Recipients(
            [self.phones[position] for position in positions],
            values,
            scattered=[indexes[position] for position in positions],
        )


class _Packed(msgspec.Struct, array_like=True):
    deltas: bytes
    values: Sequence[str]
    index_ranges: Sequence[IndexRange]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Packed)


def pack(recipients: Recipients) -> bytes:
    """As stored in the batch's row."""
    phones = recipients.phones
    deltas = array("q", chain(phones[:1], map(sub, phones[1:], phones)))
    packed = _Packed(_little_endian(deltas).tobytes(), recipients.values, to_ranges(recipients.indexes))
    return zlib.compress(_encoder.encode(packed), _LEVEL)


def unpack(packed: bytes) -> Recipients:
    """What `pack` was given."""
    data = _decoder.decode(_decompress(packed))
    deltas = array("q")
    deltas.frombytes(data.deltas)
    phones = list(accumulate(_little_endian(deltas)))
    if len(data.index_ranges) == 1:
        return Recipients(phones, data.values, first_index=data.index_ranges[0][0])
    return Recipients(phones, data.values, scattered=from_ranges(data.index_ranges))


def pack_ids(message_ids: Iterable[str]) -> bytes:
    """The provider's message ids as stored; they are printable and hold no line break. Random, so not compressed."""
    return "\n".join(message_ids).encode()


def unpack_ids(packed: bytes) -> list[str]:
    """What `pack_ids` was given."""
    return packed.decode().split("\n") if packed else []


def pack_positions(positions: Iterable[int]) -> bytes:
    """Positions within a batch, as stored."""
    return zlib.compress(_little_endian(array("i", positions)).tobytes(), _LEVEL)


def unpack_positions(packed: bytes) -> list[int]:
    """What `pack_positions` was given."""
    positions = array("i")
    positions.frombytes(_decompress(packed))
    return list(_little_endian(positions))


def _decompress(packed: bytes) -> bytes:
    decompressor = zlib.decompressobj()
    data = decompressor.decompress(packed, _MAX_UNPACKED)
    if decompressor.unconsumed_tail or not decompressor.eof:
        raise ValueError("a packed value is damaged or larger than any batch")
    return data


def _little_endian(numbers: array[int]) -> array[int]:
    # Written on one machine, read on another.
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
