"""Verdicts turned into outcomes: which recipients were accepted, which were not, and which go on in another batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from bulksms_dispatcher.domain.batch_outcomes import AttemptResult, BatchOutcome, Deferred, StoredResponse
from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.provider_outcomes import FollowUp, Verdict
from bulksms_dispatcher.domain.recipients import unpack
from bulksms_dispatcher.domain.results import Group, RecipientOutcome, whole
from bulksms_dispatcher.domain.retries import RetryPolicy
from bulksms_dispatcher.domain.transitions import Transition

__all__ = ["groups_of", "is_retryable_rejection", "outcome_of", "positions_asked"]

_MAX_BODY = 64 * 1024


def outcome_of(
    verdict: Verdict,
    transition: Transition,
    batch: LeasedBatch,
    opted_out_positions: Sequence[int],
    parts: Sequence[int],
    *,
    worker: str,
    retry_policy: RetryPolicy,
    meaning_not_now: Sequence[str] = (),
) -> BatchOutcome:
    """What is recorded of a batch that does not go back; `parts` are those of each message of the request."""
    delay = None if batch.is_single_message else retry_policy.delay(batch.retries)
    groups = groups_of(
        transition,
        verdict,
        batch.recipients,
        opted_out_positions,
        lambda description: delay is not None and is_retryable_rejection(description, meaning_not_now),
    )
    positions = sorted(
        p for group in groups if group.outcome is RecipientOutcome.DEFERRED for p in group.positions or ()
    )
    return BatchOutcome(
        transition.target,
        groups,
        attempt=AttemptResult(verdict.kind, verdict.reason, verdict.http_status, worker),
        reason=transition.reason,
        description=verdict.description,
        parts=_accepted_parts(verdict, parts) if transition.target is BatchState.ACCEPTED else 0,
        response=_kept(verdict) if verdict.http_status else None,
        deferred=_deferred(batch, positions, transition, delay),
    )


def _deferred(
    batch: LeasedBatch, positions: Sequence[int], transition: Transition, delay: timedelta | None
) -> Deferred | None:
    if not positions:
        return None
    recipients = unpack(batch.packed).only(positions)
    if transition.sends_others:
        return Deferred(recipients, timedelta(0), costs_retry=False)
    return Deferred(recipients, delay) if delay is not None else None


def _accepted_parts(verdict: Verdict, parts: Sequence[int]) -> int:
    return sum(parts) - sum(parts[p] for rejection in verdict.rejections for p in rejection.positions)


def _kept(verdict: Verdict) -> StoredResponse:
    return StoredResponse(verdict.http_status, verdict.bulk_id, verdict.message_ids, verdict.body[:_MAX_BODY])


def is_retryable_rejection(description: str, meaning_not_now: Sequence[str]) -> bool:
    """True when the provider's words for one rejected message mean "not now" (rule 8); they are named by a setting."""
    said = description.casefold()
    return any(words.casefold() in said for words in meaning_not_now if words)


def groups_of(
    transition: Transition,
    verdict: Verdict,
    recipients: int,
    opted_out_positions: Sequence[int],
    deferred: Callable[[str], bool] = lambda _description: False,
) -> tuple[Group, ...]:
    """What is reported about the recipients; those at `opted_out_positions` were not in the request.

    Those rejected with words that are `deferred` are not reported: they go on in another batch.
    """
    description = verdict.description
    match transition.target:
        case BatchState.AMBIGUOUS:
            return whole(
                RecipientOutcome.AMBIGUOUS, opted_out_positions, reason=transition.reason, description=description
            )
        case BatchState.DEAD:
            return whole(
                RecipientOutcome.FAILED, opted_out_positions, reason=transition.reason, description=description
            )
        case BatchState.REJECTED if not verdict.rejections or _comes_too_late(verdict, transition):
            return whole(
                RecipientOutcome.FAILED, opted_out_positions, reason=transition.reason, description=description
            )
    asked = positions_asked(recipients, opted_out_positions)
    rejected = tuple(
        Group(
            RecipientOutcome.DEFERRED if deferred(rejection.description) else RecipientOutcome.FAILED,
            "PROVIDER_REJECTED",
            rejection.description,
            tuple(asked[position] for position in rejection.positions),
        )
        for rejection in verdict.rejections
    )
    accepted, *opted_out = whole(RecipientOutcome.ACCEPTED, opted_out_positions)
    first = (accepted,) if transition.target is BatchState.ACCEPTED else ()
    if transition.sends_others:
        named = {position for group in rejected for position in group.positions or ()}
        others = tuple(position for position in asked if position not in named)
        first = (Group(RecipientOutcome.DEFERRED, positions=others),)
    return (*first, *rejected, *opted_out)


def _comes_too_late(verdict: Verdict, transition: Transition) -> bool:
    """The batch is ambiguous by now: whoever was in it is not sent to again (rule 5), although only one was named."""
    return verdict.follow_up is FollowUp.SEND_OTHERS and not transition.sends_others


def positions_asked(recipients: int, opted_out_positions: Sequence[int]) -> Sequence[int]:
    """Position in the batch of each message of the request."""
    if not opted_out_positions:
        return range(recipients)
    out = set(opted_out_positions)
    return [position for position in range(recipients) if position not in out]
