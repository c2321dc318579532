"""Message ids: ULIDs handed out in blocks, so that a million of them cost a few hundred bytes."""

from __future__ import annotations

from random import Random

import msgspec

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_DIGIT = {character: value for value, character in enumerate(CROCKFORD)}

BLOCK_SIZE = 32**3
"""Ids of one block differ in three characters only."""

_MIDDLES = [a + b + c for a in CROCKFORD for b in CROCKFORD for c in CROCKFORD]
_TIME_LENGTH = 10
_TAIL_LENGTH = 13
ULID_LENGTH = 26


def encode_base32(value: int, length: int) -> str:
    """`value` in Crockford's base 32, padded to `length` characters."""
    characters: list[str] = []
    for _ in range(length):
        value, digit = divmod(value, 32)
        characters.append(CROCKFORD[digit])
    return "".join(reversed(characters))


def ulid_milliseconds(ulid: str) -> int:
    """The time part of a ULID, in milliseconds since 1970."""
    value = 0
    for character in ulid[:_TIME_LENGTH]:
        value = value * 32 + _DIGIT[character]
    return value


class IdBlock(msgspec.Struct, frozen=True, gc=False):
    """Up to 32,768 ULIDs of one millisecond.

    The i-th id is `time + middle((offset + i * stride) mod 32768) + tail`. The odd stride makes ids of one
    request sort in another order than its messages, so that nobody comes to rely on an order Mitto
    does not promise.
    """

    time: str
    tail: str
    offset: int
    stride: int
    count: int

    @property
    def key(self) -> str:
        """What all ids of this block share."""
        return self.time + self.tail

    def ids(self) -> list[str]:
        """All ids, in message order."""
        time, tail, last = self.time, self.tail, BLOCK_SIZE - 1
        stop = self.offset + self.count * self.stride
        return [time + _MIDDLES[k & last] + tail for k in range(self.offset, stop, self.stride)]

    def position(self, message_id: str) -> int | None:
        """The index of a message id within this block, or None."""
        middle = 0
        for character in message_id[_TIME_LENGTH : _TIME_LENGTH + 3]:
            digit = _DIGIT.get(character)
            if digit is None:
                return None
            middle = middle * 32 + digit
        position = (middle - self.offset) * pow(self.stride, -1, BLOCK_SIZE) % BLOCK_SIZE
        return position if position < self.count else None


def block_key(message_id: str) -> str | None:
    """The key of the block that a message id would belong to; None where it is no ULID of ours."""
    if len(message_id) != ULID_LENGTH:
        return None
    return message_id[:_TIME_LENGTH] + message_id[_TIME_LENGTH + 3 :]


def new_blocks(count: int, milliseconds: int, random: Random) -> list[IdBlock]:
    """Enough blocks for `count` ids created at `milliseconds`."""
    time = encode_base32(milliseconds, _TIME_LENGTH)
    return [
        IdBlock(
            time=time,
            tail=encode_base32(random.getrandbits(5 * _TAIL_LENGTH), _TAIL_LENGTH),
            offset=random.randrange(BLOCK_SIZE),
            stride=random.randrange(BLOCK_SIZE) | 1,
            count=min(BLOCK_SIZE, count - start),
        )
        for start in range(0, count, BLOCK_SIZE)
    ]


def unknown_ulid(milliseconds: int, random: Random) -> str:
    """An id that was never handed out."""
    return encode_base32(milliseconds, _TIME_LENGTH) + encode_base32(random.getrandbits(80), 16)
