"""Reasons of outcomes: numbers in the contract, names without their prefix in the domain and in the tables."""

from __future__ import annotations

from bulksms.types.v1 import types_pb2

_PREFIX = "OUTCOME_REASON_"
_NAMES = {number: name.removeprefix(_PREFIX) for name, number in types_pb2.OutcomeReason.items() if number}
_NUMBERS = {name: number for number, name in _NAMES.items()}


def reason_name(number: types_pb2.OutcomeReason.ValueType) -> str:
    """A reason as it is stored; empty for none, and for one that only a later release knows."""
    return _NAMES.get(number, "")


def reason_number(name: str) -> types_pb2.OutcomeReason.ValueType:
    """A stored reason as the contract has it."""
    return _NUMBERS.get(name, types_pb2.OUTCOME_REASON_UNSPECIFIED)
