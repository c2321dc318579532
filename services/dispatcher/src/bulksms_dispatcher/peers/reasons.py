"""Reasons of outcomes: names in the tables, numbers in the contract."""

from __future__ import annotations

from bulksms.types.v1 import types_pb2

__all__ = ["reason_number"]

_NUMBERS = {
    name.removeprefix("OUTCOME_REASON_"): types_pb2.OutcomeReason.ValueType(number)
    for name, number in types_pb2.OutcomeReason.items()
}


def reason_number(name: str) -> types_pb2.OutcomeReason.ValueType:
    """A stored reason as the contract has it; unspecified for none."""
    return _NUMBERS.get(name, types_pb2.OUTCOME_REASON_UNSPECIFIED)
