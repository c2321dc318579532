"""Drafts: a group of operations decided, ready to be written."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from bulksms_ledger.books import Book
from bulksms_ledger.operations import AnyOperation, Decision
from bulksms_ledger.storage.packing import Packed

_SLICE: Final = 50  # operations decided before the event loop has its turn: some 0.5 ms
_FEW: Final = 200  # captures that one statement writes; with more of them COPY takes less


@dataclass(frozen=True, slots=True)
class Draft:
    """What a group has come to."""

    book: Book
    base: Book | None  # what it was decided on, where that was not read under the account's lock
    decisions: list[Decision]
    packed: Packed | None  # None: a few captures, decided ahead
    decided_at: datetime


async def make_draft(
    book: Book, operations: Sequence[AnyOperation], now: datetime, *, base: Book | None = None
) -> Draft:
    """Decide the operations, in order, on a book made for them."""
    decisions: list[Decision] = []
    packed = Packed(book.account.tenant_id, now)
    are_few = len(operations) <= _FEW
    for start in range(0, len(operations), _SLICE):
        if start:
            await asyncio.sleep(0)
        entries, recorded = len(book.entries), len(book.recorded)
        decisions += [book.decide(operation, now) for operation in operations[start : start + _SLICE]]
        if not are_few:
            packed.add(book.entries[entries:], book.recorded[recorded:])
    if are_few and base is not None and book.has_only_captured:
        return Draft(book, base, decisions, None, now)
    if are_few:
        packed.add(book.entries, book.recorded)
    return Draft(book, base, decisions, packed, now)
