"""Unresolved batches: sent, perhaps; and what becomes of them by evidence, by an operator, or when time is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from bulksms_dispatcher.domain.batch_outcomes import AttemptResult, BatchOutcome, Confirmed, StoredResponse
from bulksms_dispatcher.domain.batches import NO_CAMPAIGN, BatchKey
from bulksms_dispatcher.domain.outbox import OutboxKind
from bulksms_dispatcher.domain.protocol import BatchState, OutcomeKind
from bulksms_dispatcher.domain.provider_records import ProviderRecord, text_digest
from bulksms_dispatcher.domain.recipients import unpack, unpack_positions
from bulksms_dispatcher.domain.requests import render_one
from bulksms_dispatcher.domain.results import OPERATOR, Group, RecipientOutcome
from smstext.parts import measure

__all__ = ["EVIDENCE", "UNRESOLVED", "Unresolved"]

EVIDENCE = "EVIDENCE"
UNRESOLVED = "UNRESOLVED"


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A batch whose message ids nobody knows, or one that is on the wire just now."""

    batch_id: UUID
    tenant_id: str
    epoch: int
    attempt_id: UUID | None
    state: BatchState
    reason: str
    campaign_id: UUID
    submission_id: UUID
    evidenced: int
    packed: bytes
    opted_out_positions: bytes | None
    text: str
    sender: str
    variable_names: Sequence[str]

    @property
    def key(self) -> BatchKey:
        """What names it in a write."""
        return BatchKey(self.tenant_id, self.batch_id, self.epoch, self.attempt_id)

    @property
    def lacks_ids(self) -> bool:
        """True when evidence may still name its recipients."""
        return self.state in (BatchState.AMBIGUOUS, BatchState.UNRESOLVED) or (
            self.state in (BatchState.ACCEPTED, BatchState.REJECTED) and self.reason == OPERATOR
        )

    @property
    def is_single_message(self) -> bool:
        """True when its text is sent as it is."""
        return self.campaign_id == NO_CAMPAIGN

    @property
    def not_in_request(self) -> frozenset[int]:
        """Positions of those who had opted out when it was sent."""
        return frozenset(unpack_positions(self.opted_out_positions)) if self.opted_out_positions else frozenset()

    @property
    def kinds_of_late_results(self) -> tuple[OutboxKind, ...]:
        """Who must hear of a recipient that is named before all are.

        Of an AMBIGUOUS batch credits are captured when it is resolved; of one an operator has confirmed they were.
        """
        campaign = () if self.is_single_message else (OutboxKind.CAMPAIGN,)
        capture = (OutboxKind.CAPTURE,) if self.state in (BatchState.UNRESOLVED, BatchState.REJECTED) else ()
        return campaign + capture

    def position_of(self, record: ProviderRecord) -> int | None:
        """Where the recipient stands that was sent what the provider has; None when nobody was."""
        if record.sender not in (None, self.sender):
            return None
        recipients = unpack(self.packed)
        try:
            position = list(recipients.phones).index(record.destination)
        except ValueError:
            return None
        if position in self.not_in_request:
            return None
        text = self.text if self.is_single_message else render_one(self.text, self.variable_names, recipients, position)
        return position if text_digest(text) in record.texts else None

    def is_complete(self, evidenced: int) -> bool:
        """True when evidence has named everyone who was in the request."""
        return evidenced == self._asked()

    def accepted_by_evidence(self, ids: Mapping[int, str]) -> BatchOutcome:
        """Everyone in the request was named."""
        return BatchOutcome(
            BatchState.ACCEPTED,
            self._groups(Group(RecipientOutcome.ACCEPTED)),
            attempt=AttemptResult(OutcomeKind.ACCEPTED, EVIDENCE),
            parts=self._parts(ids),
            response=StoredResponse(0, message_ids=_in_order(ids)),
        )

    def accepted_by_operator(self, ids: Mapping[int, str]) -> BatchOutcome:
        """All of it; those that evidence has named have their ids."""
        everyone = range(len(unpack(self.packed).phones))
        sent = [position for position in everyone if position not in self.not_in_request]
        return BatchOutcome(
            BatchState.ACCEPTED,
            self._groups(Group(RecipientOutcome.ACCEPTED, OPERATOR), ids),
            attempt=AttemptResult(OutcomeKind.ACCEPTED, OPERATOR),
            reason=OPERATOR,
            parts=self._parts(sent),
            confirmed=Confirmed(len(sent), _in_order(ids)),
        )

    def not_sent_by_operator(self) -> BatchOutcome:
        """None of it; refused by storage when evidence says otherwise."""
        return BatchOutcome(
            BatchState.REJECTED,
            self._groups(Group(RecipientOutcome.FAILED, OPERATOR)),
            attempt=AttemptResult(OutcomeKind.REJECTED, OPERATOR),
            reason=OPERATOR,
            released=self._asked(),
        )

    def given_up(self, ids: Mapping[int, str]) -> BatchOutcome:
        """Time is over for those that no evidence has named."""
        return BatchOutcome(
            BatchState.UNRESOLVED,
            self._groups(Group(RecipientOutcome.UNRESOLVED, UNRESOLVED), ids),
            reason=UNRESOLVED,
            parts=self._parts(ids),
            confirmed=Confirmed(len(ids), _in_order(ids), self.indexes_of(sorted(ids))) if ids else None,
            released=self._asked() - len(ids),
        )

    def indexes_of(self, positions: Sequence[int]) -> list[int]:
        """Within the submission, of these positions in the batch."""
        indexes = unpack(self.packed).indexes
        return [indexes[position] for position in positions]

    def _groups(self, rest: Group, ids: Mapping[int, str] | None = None) -> tuple[Group, ...]:
        groups = [rest]
        if ids:
            groups.append(Group(RecipientOutcome.ACCEPTED, positions=tuple(sorted(ids))))
        if opted_out_positions := self.not_in_request:
            groups.append(Group(RecipientOutcome.OPTED_OUT, "OPTED_OUT", "", tuple(sorted(opted_out_positions))))
        return tuple(groups)

    def _asked(self) -> int:
        return len(unpack(self.packed).phones) - len(self.not_in_request)

    def _parts(self, positions: Sequence[int] | Mapping[int, str]) -> int:
        if not positions:
            return 0
        if self.is_single_message:
            return measure(self.text).parts
        recipients = unpack(self.packed)
        return sum(
            measure(render_one(self.text, self.variable_names, recipients, position)).parts for position in positions
        )


def _in_order(ids: Mapping[int, str]) -> list[str]:
    return [ids[position] for position in sorted(ids)]
