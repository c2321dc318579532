"""Reasons of outcomes: names in the tables, numbers in the contract."""

from __future__ import annotations

from bulksms.types.v1 import types_pb2

__all__ = ["reason_name", "reason_number"]

_NUMBERS = {
    name.removeprefix("OUTCOME_REASON_"): types_pb2.OutcomeReason.ValueType(number)
    for name, number in types_pb2.OutcomeReason.items()
}
_NAMES = {number: name for name, number in _NUMBERS.items() if number}


def reason_number(name: str) -> types_pb2.OutcomeReason.ValueType:
    """A stored reason as the contract has it; unspecified for none."""
    return _NUMBERS.get(name, types_pb2.OUTCOME_REASON_UNSPECIFIED)


def reason_name(number: types_pb2.OutcomeReason.ValueType) -> str:
    """A reason of the contract as it is stored; empty for none, and for one that this contract does not have."""
    return _NAMES.get(number, "")
