"""Unresolved batches: sent, perhaps; and what becomes of them when evidence, an operator or time has the last word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from bulksms_dispatcher.domain.batches import NO_CAMPAIGN
from bulksms_dispatcher.domain.protocol import BatchState, OutcomeKind
from bulksms_dispatcher.domain.provider_records import Sighting, text_digest
from bulksms_dispatcher.domain.recipients import unpack, unpack_positions
from bulksms_dispatcher.domain.requests import render_one
from bulksms_dispatcher.domain.results import OPERATOR, Group, RecipientOutcome
from bulksms_dispatcher.domain.settlements import Answered, Settlement, Tried, Vouched
from smstext.parts import measure

__all__ = ["EVIDENCE", "NO_EVIDENCE", "Unresolved"]

EVIDENCE = "EVIDENCE"
NO_EVIDENCE = "NO_EVIDENCE"


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A batch whose message ids nobody knows, or one that is on the wire just now."""

    batch_id: UUID
    epoch: int
    state: BatchState
    reason: str
    campaign_id: UUID
    submission_id: UUID
    evidenced: int
    packed: bytes
    left_out: bytes | None
    text: str
    sender: str
    variable_names: Sequence[str]

    @property
    def is_single_message(self) -> bool:
        """True when its text is sent as it is."""
        return self.campaign_id == NO_CAMPAIGN

    def position_of(self, sighting: Sighting) -> int | None:
        """Where the recipient stands that was sent what the provider has; None when nobody was."""
        if sighting.sender not in (None, self.sender):
            return None
        recipients = unpack(self.packed)
        try:
            position = list(recipients.phones).index(sighting.destination)
        except ValueError:
            return None
        if position in self._left_out():
            return None
        text = self.text if self.is_single_message else render_one(self.text, self.variable_names, recipients, position)
        return position if text_digest(text) in sighting.texts else None

    def is_complete(self, evidenced: int) -> bool:
        """True when evidence has named everyone who was in the request."""
        return evidenced == len(unpack(self.packed).phones) - len(self._left_out())

    def accepted_by_evidence(self, ids: Mapping[int, str]) -> Settlement:
        """Everyone in the request was named."""
        return Settlement(
            BatchState.ACCEPTED,
            self._groups(Group(RecipientOutcome.ACCEPTED)),
            tried=Tried(OutcomeKind.ACCEPTED, EVIDENCE),
            parts=self._parts(ids),
            answered=Answered(0, message_ids=_in_order(ids)),
        )

    def accepted_by_operator(self, ids: Mapping[int, str]) -> Settlement:
        """All of it; those that evidence has named have their ids."""
        everyone = range(len(unpack(self.packed).phones))
        sent = [position for position in everyone if position not in self._left_out()]
        return Settlement(
            BatchState.ACCEPTED,
            self._groups(Group(RecipientOutcome.ACCEPTED, OPERATOR), ids),
            tried=Tried(OutcomeKind.ACCEPTED, OPERATOR),
            reason=OPERATOR,
            parts=self._parts(sent),
            vouched=Vouched(len(sent), _in_order(ids)),
        )

    def not_sent_by_operator(self) -> Settlement:
        """None of it; refused by storage when evidence says otherwise."""
        return Settlement(
            BatchState.REJECTED,
            self._groups(Group(RecipientOutcome.FAILED, OPERATOR)),
            tried=Tried(OutcomeKind.REFUSED, OPERATOR),
            reason=OPERATOR,
        )

    def given_up(self, ids: Mapping[int, str]) -> Settlement:
        """Time is over for those that no evidence has named."""
        return Settlement(
            BatchState.UNKNOWN,
            self._groups(Group(RecipientOutcome.UNKNOWN, NO_EVIDENCE), ids),
            reason=NO_EVIDENCE,
            parts=self._parts(ids),
            vouched=Vouched(len(ids), _in_order(ids)) if ids else None,
        )

    def _groups(self, rest: Group, ids: Mapping[int, str] | None = None) -> tuple[Group, ...]:
        groups = [rest]
        if ids:
            groups.append(Group(RecipientOutcome.ACCEPTED, positions=tuple(sorted(ids))))
        if left_out := self._left_out():
            groups.append(Group(RecipientOutcome.SUPPRESSED, "OPTED_OUT", "", tuple(sorted(left_out))))
        return tuple(groups)

    def _left_out(self) -> frozenset[int]:
        return frozenset(unpack_positions(self.left_out)) if self.left_out else frozenset()

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
