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
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class PackedDraft(Draft):
    """One to be written with COPY."""

    packed: Packed


@dataclass(frozen=True, slots=True)
class FewCaptures(Draft):
    """Captures decided ahead, and so few that one statement writes them."""


async def make_draft(
    book: Book, operations: Sequence[AnyOperation], now: datetime, *, base: Book | None = None
) -> PackedDraft:
    """Decide the operations, in order, on a book made for them."""
    packed = Packed(book.account.tenant_id, now)
    decisions = await _decide(book, operations, now, packed)
    return PackedDraft(book, base, decisions, now, packed)


async def make_draft_ahead(base: Book, operations: Sequence[AnyOperation], now: datetime) -> PackedDraft | FewCaptures:
    """Decide the operations on what another group leaves, before that is committed."""
    book = base.following()
    if len(operations) > _FEW:
        return await make_draft(book, operations, now, base=base)
    decisions = await _decide(book, operations, now)
    if book.has_only_captured:
        return FewCaptures(book, base, decisions, now)
    packed = Packed(book.account.tenant_id, now)
    packed.add(book.entries, book.recorded)
    return PackedDraft(book, base, decisions, now, packed)


async def _decide(
    book: Book, operations: Sequence[AnyOperation], now: datetime, packed: Packed | None = None
) -> list[Decision]:
    """Decide slice by slice; what each slice adds to the book is packed with it, where it is to be packed."""
    decisions: list[Decision] = []
    for start in range(0, len(operations), _SLICE):
        if start:
            await asyncio.sleep(0)
        entries, recorded = len(book.entries), len(book.recorded)
        decisions += [book.decide(operation, now) for operation in operations[start : start + _SLICE]]
        if packed is not None:
            packed.add(book.entries[entries:], book.recorded[recorded:])
    return decisions
