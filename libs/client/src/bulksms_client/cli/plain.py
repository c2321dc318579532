"""Messages of the contract as plain values: what `--json` prints and what the tables are made of."""

from __future__ import annotations

import re
from datetime import UTC
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

__all__ = ["Document", "plain", "short_names"]

Document = dict[str, Any]


def plain(message: Message) -> Document:
    """A message as a dictionary with the contract's field names.

    Unlike protobuf's own JSON: 64-bit numbers are numbers, durations are seconds, enum values lose their prefix
    (SENDING), bytes are hex, and every field is there (null: unset).
    """
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def short_names(enum: Any) -> dict[int, str]:
    """Names of an enum's values without the prefix that protobuf's style demands: {3: "SENDING"}."""
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
    return {value.number: value.name.removeprefix(prefix) for value in enum.values}


def _field(message: Message, field: Any) -> Any:
    if field.is_repeated:
        return [_value(field, one) for one in getattr(message, field.name)]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(field, getattr(message, field.name))


def _value(field: Any, value: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToDatetime(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, Duration):
        return value.ToTimedelta().total_seconds()
    if isinstance(value, Message):
        return plain(value)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return None if value == 0 else short_names(field.enum_type).get(value, str(value))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return value.hex()
    return value
