"""Desks: where the groups of one account are worked on, one being decided while the one before is written."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from bulksms_ledger.books import Book
from bulksms_ledger.drafts import Draft
from bulksms_ledger.operations import Operation

# How long a book is used before it is read anew. Whether it is right shows every time, in the account's row; but what
# somebody mends by hand in lots or reservations, without an entry, must not be written over for ever.
_BOOK_SECONDS: Final = 1.0
_RESERVATIONS_MAX: Final = 1000


class Desk:
    """One account in this process: whose turn it is, and what the groups before have left in memory.

    A book is handed on once: who decided on it as well could not come true any more.
    """

    def __init__(self) -> None:
        self.deciding = asyncio.Lock()
        self.writing = asyncio.Lock()
        self.groups = 0  # being worked on, or waiting for their turn
        self.left_at = 0.0  # when the last group was done
        self._next: Book | None = None  # what the next group may be decided on
        self._settled: Book | None = None  # what the last group committed from here left
        self._is_alone = True  # no other process has been at the account between our groups
        self._read_at = 0.0

    def is_given_up(self, now_seconds: float) -> bool:
        """Whether nobody is here, and what is known is too old for who comes."""
        return not self.groups and now_seconds - self.left_at >= _BOOK_SECONDS

    def take_for(self, operations: Sequence[Operation], now_seconds: float) -> Book | None:
        """The book these can be decided on before the account is locked; None where they can't."""
        book = self._next
        if book is None or not self._is_fresh(now_seconds) or not book.knows(operations):
            return None
        self._next = None
        return book

    def decided(self, book: Book) -> None:
        """The next group may be decided on what this one leaves, should it come true."""
        self._next = book

    def may_come_true(self, draft: Draft) -> bool:
        """Whether the group before is committed that this one was decided on.

        The account's row has a hash over all entries there have been, and all else follows from these: it says the
        rest. But the group before may have been refusals only, which leave no trace in the row.
        """
        return draft.base is not None and draft.base is self._settled

    def recall(self, loaded: Book, now_seconds: float) -> Book:
        """A book read under the lock for one group, with what else is known from before, where that still holds."""
        known = self._settled
        self._is_alone = known is None or known.account == loaded.account
        if known is not None and known is self._next and self._is_alone and self._is_fresh(now_seconds):
            loaded.recall(known)
        else:
            self._read_at = now_seconds
        self._next = None
        return loaded

    def settle(self, draft: Draft) -> None:
        """The draft has been committed."""
        self._settled = draft.book
        if draft.base is None:
            # What has been decided ahead meanwhile was decided on something else. Where another process works at the
            # account as well, nothing decided ahead would come true.
            is_worth_it = self._is_alone and draft.book.reservations_known <= _RESERVATIONS_MAX
            self._next = draft.book if is_worth_it else None

    def forget(self) -> None:
        """A group has failed: nothing is known any more."""
        self._next = self._settled = None

    def _is_fresh(self, now_seconds: float) -> bool:
        return now_seconds - self._read_at < _BOOK_SECONDS
