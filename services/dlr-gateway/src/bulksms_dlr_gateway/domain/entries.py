"""Reports on their way: what is kept with each while it is in the spool, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from bulksms_dlr_gateway.domain.reports import Report

__all__ = ["Entry", "SpoolSizes", "SpooledEntry"]


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A report in the spool: when and under which trace it came, and how often it was asked about."""

    report: Report
    received_at: int
    """Microseconds since 1970, UTC."""
    traceparent: str = ""
    """W3C context of the request that brought it; empty when that was not sampled."""
    attempts: int = 0
    """How often it was forwarded and not taken."""
    unknown_since: int | None = None
    """When campaign first said it does not know the message; microseconds since 1970, UTC."""


class SpooledEntry(msgspec.Struct, frozen=True, array_like=True):
    """An entry and the id of its row."""

    id: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class SpoolSizes:
    """Rows per table, and the bytes of the file that are in use."""

    fresh: int
    waiting: int
    quarantined: int
    quarantine_dropped: int
    used_bytes: int
