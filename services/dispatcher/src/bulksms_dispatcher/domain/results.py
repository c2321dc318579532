"""What became of a batch's recipients: groups that share an outcome, each recipient in exactly one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import msgspec

from bulksms_dispatcher.domain.recipients import pack_positions, unpack_positions

__all__ = [
    "OPERATOR",
    "Group",
    "RecipientOutcome",
    "Resolved",
    "decode_groups",
    "encode_groups",
    "named",
    "resolve",
    "whole",
]

OPERATOR = "OPERATOR"
"""Reason of what an operator alone has confirmed."""


class RecipientOutcome(IntEnum):
    """The numbers are those of the campaign contract's RecipientOutcome."""

    DEFERRED = 0
    """Not reported: they are in another batch now, which will be."""
    ACCEPTED = 1
    FAILED = 2
    AMBIGUOUS = 3
    UNRESOLVED = 4
    CANCELLED = 5
    OPTED_OUT = 6


@dataclass(frozen=True, slots=True)
class Group:
    """Recipients by position; `positions` None means all that stand in no other group."""

    outcome: RecipientOutcome
    reason: str = ""
    description: str = ""
    positions: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """A group with its positions spelt out, ascending."""

    outcome: RecipientOutcome
    reason: str
    description: str
    positions: Sequence[int]


class _Stored(msgspec.Struct, array_like=True):
    outcome: int
    reason: str
    description: str
    positions: bytes | None


_decoder = msgspec.msgpack.Decoder(list[_Stored])


def whole(
    outcome: RecipientOutcome, opted_out_positions: Iterable[int] = (), *, reason: str = "", description: str = ""
) -> tuple[Group, ...]:
    """One outcome for everyone who was in the request; those at `opted_out_positions` had opted out."""
    opted_out = tuple(opted_out_positions)
    everyone = Group(outcome, reason, description)
    if not opted_out:
        return (everyone,)
    return everyone, Group(RecipientOutcome.OPTED_OUT, "OPTED_OUT", "", opted_out)


def resolve(groups: Sequence[Group], recipients: int) -> list[Resolved]:
    """Spell the positions out; empty groups are dropped. Raises ValueError when two groups claim one recipient."""
    open_groups = [group for group in groups if group.positions is None]
    named = [position for group in groups for position in group.positions or ()]
    taken = set(named)
    if len(taken) != len(named) or len(open_groups) > 1 or any(not 0 <= p < recipients for p in taken):
        raise ValueError("the groups of a batch overlap or reach beyond it")
    resolved = []
    for group in groups:
        if group.positions is not None:
            positions: Sequence[int] = sorted(group.positions)
        elif taken:
            positions = [position for position in range(recipients) if position not in taken]
        else:
            positions = range(recipients)
        if positions:
            resolved.append(Resolved(group.outcome, group.reason, group.description, positions))
    if sum(len(group.positions) for group in resolved) != recipients:
        raise ValueError("the groups of a batch leave recipients out")
    return resolved


def named(groups: Sequence[Group]) -> list[Resolved]:
    """Groups that speak of some recipients only; those in none of them are not spoken of."""
    return [
        Resolved(group.outcome, group.reason, group.description, sorted(group.positions))
        for group in groups
        if group.positions
    ]


def encode_groups(groups: Sequence[Group]) -> bytes:
    """As stored in the outbox."""
    return msgspec.msgpack.encode(
        [
            _Stored(
                group.outcome,
                group.reason,
                group.description,
                None if group.positions is None else pack_positions(group.positions),
            )
            for group in groups
        ]
    )


def decode_groups(stored: bytes) -> tuple[Group, ...]:
    """What `encode_groups` was given."""
    return tuple(
        Group(
            RecipientOutcome(item.outcome),
            item.reason,
            item.description,
            None if item.positions is None else tuple(unpack_positions(item.positions)),
        )
        for item in _decoder.decode(stored)
    )
