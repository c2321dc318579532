"""Earlier messages: who may have been sent which text, and which later message must wait for that."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.recipients import Recipients, unpack
from bulksms_dispatcher.domain.requests import render_some
from bulksms_dispatcher.domain.unresolved import Unresolved

__all__ = ["EarlierMessages"]


@dataclass(frozen=True, slots=True)
class EarlierMessages:
    """An ambiguous batch, and those of its numbers of which nobody knows whether they were sent its text."""

    batch: Unresolved
    phones: frozenset[int]

    @classmethod
    def of(cls, batch: Unresolved, named: Collection[int]) -> EarlierMessages:
        """But for the positions that evidence has `named`, and those that were not in the request."""
        out = {*named, *batch.not_in_request}
        phones = unpack(batch.packed).phones
        return cls(batch, frozenset(phone for position, phone in enumerate(phones) if position not in out))

    def of_the_same_text(self, batch: LeasedBatch, recipients: Recipients) -> frozenset[int]:
        """Numbers that `batch` would send the very text that they may have been sent.

        Evidence could not distinguish them. Another text to the same number is another message: it waits for nothing.
        """
        both = self.phones.intersection(recipients.phones)
        if not both:
            return both
        wanted = render_some(batch.text, batch.variable_names, recipients, both)
        perhaps = self._texts_to(both)
        return frozenset(phone for phone, text in wanted.items() if perhaps[phone] == text)

    def _texts_to(self, phones: Collection[int]) -> dict[int, str]:
        batch = self.batch
        if batch.is_single_message:
            return dict.fromkeys(phones, batch.text)
        return render_some(batch.text, batch.variable_names, unpack(batch.packed), phones)
