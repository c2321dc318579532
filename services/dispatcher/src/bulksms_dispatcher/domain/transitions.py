"""Transitions: from what an attempt proved to where its batch goes: to its outcome, or back into the queue."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from bulksms_dispatcher.domain.protocol import BatchState, OutcomeKind
from bulksms_dispatcher.domain.provider_outcomes import FollowUp, Verdict
from bulksms_dispatcher.domain.retries import RetryPolicy

__all__ = ["ATTEMPTS_EXHAUSTED", "Transition", "transition_after"]

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
