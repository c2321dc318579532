"""Submissions: a stream of recipients, checked and cut into batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import lt
from uuid import UUID

import msgspec

from bulksms_dispatcher.domain.messages import MessageClass
from bulksms_dispatcher.domain.recipients import Recipients
from servicekit import errors
from servicekit.errors import FieldViolation

__all__ = ["Cutter", "Submission", "SubmissionProgress"]

# E.164: at most 15 digits; the shortest international numbers in use have seven.
MIN_PHONE, MAX_PHONE = 10**6, 10**15 - 1
MAX_CHUNK = 10_000


@dataclass(frozen=True, slots=True)
class Submission:
    """What all recipients of a submission share."""

    submission_id: UUID
    tenant_id: str
    campaign_id: UUID
    enqueue_number: int
    reservation_id: UUID
    text: str
    variable_names: tuple[str, ...]
    sender: str
    priority: int
    traceparent: str
    snapshot_digest: bytes
    """Says which phone stands at which position; the ledger authorizes positions of this one snapshot."""
    message_class: MessageClass = MessageClass.MARKETING
    not_after: datetime | None = None
    """What is not armed by then is never sent."""

    @property
    def fingerprint(self) -> bytes:
        """The same for the same content; the trace context may differ between two streams of one submission."""
        content = (
            self.tenant_id,
            str(self.campaign_id),
            self.enqueue_number,
            str(self.reservation_id),
            self.text,
            self.variable_names,
            self.sender,
            self.priority,
            self.message_class,
            self.snapshot_digest,
            self.not_after,
        )
        return hashlib.sha256(msgspec.json.encode(content)).digest()


@dataclass(frozen=True, slots=True)
class SubmissionProgress:
    """How far a submission is stored."""

    next_index: int = 0
    last_phone: int = 0
    batches: int = 0
    complete: bool = False

    def after(self, recipients: Recipients) -> SubmissionProgress:
        """With one more batch."""
        return SubmissionProgress(
            self.next_index + len(recipients.phones), recipients.phones[-1], self.batches + 1, self.complete
        )


class Cutter:
    """Keeps what was streamed and is not stored: never more than one batch and one chunk.

    Positions that are stored already, or were streamed before, are skipped, so overlaps are harmless.
    """

    def __init__(self, batch_size: int, variables: int, stored: SubmissionProgress) -> None:
        self._batch_size = batch_size
        self._variables = variables
        self._stored = stored
        self._start = stored.next_index
        self._phones: list[int] = []
        self._values: list[str] = []

    @property
    def start(self) -> int:
        """Position of the first recipient it has."""
        return self._start

    @property
    def end(self) -> int:
        """Position after the last recipient it has."""
        return self._start + len(self._phones)

    @property
    def has_batch(self) -> bool:
        """True when there is enough for a whole batch."""
        return len(self._phones) >= self._batch_size

    def add(self, first_index: int, phones: Sequence[int], values: Sequence[str]) -> None:
        """Take a chunk; raises INVALID_ARGUMENT, SUBMISSION_GAP or SUBMISSION_CONFLICT."""
        self._check(first_index, phones, values)
        skip = self.end - first_index
        if skip < 0:
            raise errors.wrong_state(
                "SUBMISSION_GAP",
                f"The chunk begins at {first_index}, but the next one to come is {self.end}: go on from next_index.",
                next_index=self._stored.next_index,
            )
        if skip >= len(phones):
            return
        last = self._phones[-1] if self._phones else self._stored.last_phone
        if phones[skip] <= last:
            raise self._out_of_order()
        self._phones.extend(phones[skip:])
        self._values.extend(values[skip * self._variables :])

    def peek(self) -> Recipients:
        """The next batch: whole when there is enough, else what there is."""
        size = self._batch_size
        return Recipients(self._phones[:size], self._values[: size * self._variables], first_index=self._start)

    def move_to(self, stored: SubmissionProgress) -> None:
        """Drop what is stored by now, by this stream or another one of the same submission."""
        drop = stored.next_index - self._start
        self._stored = stored
        self._start = stored.next_index
        del self._phones[:drop]
        del self._values[: drop * self._variables]
        if self._phones and self._phones[0] <= stored.last_phone:
            raise self._conflict()

    def _check(self, first_index: int, phones: Sequence[int], values: Sequence[str]) -> None:
        violations = []
        if first_index < 0:
            violations.append(FieldViolation("chunk.first_index", "must not be negative"))
        if not 0 < len(phones) <= MAX_CHUNK:
            violations.append(FieldViolation("chunk.phones", f"must be 1 to {MAX_CHUNK} numbers"))
        elif not all(map(lt, phones, phones[1:])):
            violations.append(FieldViolation("chunk.phones", "must be strictly ascending"))
        elif phones[0] < MIN_PHONE or phones[-1] > MAX_PHONE:
            violations.append(FieldViolation("chunk.phones", "must be E.164 digits: 7 to 15 of them"))
        if len(values) != len(phones) * self._variables:
            violations.append(
                FieldViolation("chunk.values", f"must be {self._variables} for each phone, as variable_names says")
            )
        if violations:
            raise errors.invalid_argument(
                "INVALID_ARGUMENT", "A chunk cannot be taken: see the field violations.", violations=violations
            )

    def _out_of_order(self) -> errors.DomainError:
        if not self._phones:
            return self._conflict()
        violation = FieldViolation("chunk.phones", "must be above all phones streamed before")
        return errors.invalid_argument(
            "INVALID_ARGUMENT", "Phones must ascend across the whole submission.", violations=[violation]
        )

    def _conflict(self) -> errors.DomainError:
        return errors.already_exists(
            "SUBMISSION_CONFLICT",
            "The recipients streamed are not those that are stored up to here: use a new submission id for others.",
            next_index=self._stored.next_index,
        )
