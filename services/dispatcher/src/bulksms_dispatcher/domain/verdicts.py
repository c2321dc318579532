"""From what an attempt proved to what becomes of its batch: its outcome is recorded, or it goes back into the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from bulksms_dispatcher.domain.protocol import BatchState, OutcomeKind
from bulksms_dispatcher.domain.provider_outcomes import FollowUp, Verdict
from bulksms_dispatcher.domain.results import Group, RecipientOutcome, whole
from bulksms_dispatcher.domain.retries import RetryPolicy

__all__ = [
    "ATTEMPTS_EXHAUSTED",
    "Transition",
    "groups_of",
    "is_retryable_rejection",
    "positions_asked",
    "transition_after",
]

ATTEMPTS_EXHAUSTED = "ATTEMPTS_EXHAUSTED"
_DEFAULT_REST = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Transition:
    """Where the batch goes: to `target`, or, when that is READY, back into the queue after `delay`."""

    target: BatchState
    reason: str
    delay: timedelta = timedelta(0)
    costs_retry: bool = False
    account_rest: timedelta | None = None
    """How long the whole traffic account must not be used."""
    slows_account: bool = False
    """The provider found the account too fast: it goes on at half its rate."""


def transition_after(
    verdict: Verdict, retries_made: int, retry_policy: RetryPolicy, account_pause: timedelta
) -> Transition:
    """Rules 3, 4 and 8, and the backoff."""
    if verdict.kind is OutcomeKind.ACCEPTED:
        return Transition(BatchState.ACCEPTED, "")
    if verdict.kind is OutcomeKind.AMBIGUOUS:
        return Transition(BatchState.AMBIGUOUS, verdict.reason)
    match verdict.follow_up:
        case FollowUp.PAUSE_ACCOUNT:
            return Transition(BatchState.READY, verdict.reason, delay=account_pause, account_rest=account_pause)
        case FollowUp.PARK | FollowUp.CUT as follow_up:
            return Transition(BatchState.DEAD if follow_up is FollowUp.PARK else BatchState.READY, verdict.reason)
        case FollowUp.RETRY:
            return _retry(verdict, retries_made, retry_policy)
        case FollowUp.NONE:
            return Transition(BatchState.REJECTED, verdict.reason)


def _retry(verdict: Verdict, retries_made: int, retry_policy: RetryPolicy) -> Transition:
    # Of what is retried only 429 was rejected by the provider itself.
    rejected = verdict.kind is OutcomeKind.REJECTED
    rest = (verdict.retry_after or _DEFAULT_REST) if rejected else None
    delay = retry_policy.delay(retries_made, verdict.retry_after)
    if delay is None:
        return Transition(BatchState.DEAD, ATTEMPTS_EXHAUSTED, account_rest=rest, slows_account=rejected)
    return Transition(
        BatchState.READY, verdict.reason, delay, costs_retry=True, account_rest=rest, slows_account=rejected
    )


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
        case BatchState.REJECTED if not verdict.rejections:
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
    return (*first, *rejected, *opted_out)


def positions_asked(recipients: int, opted_out_positions: Sequence[int]) -> Sequence[int]:
    """Position in the batch of each message of the request."""
    if not opted_out_positions:
        return range(recipients)
    out = set(opted_out_positions)
    return [position for position in range(recipients) if position not in out]
