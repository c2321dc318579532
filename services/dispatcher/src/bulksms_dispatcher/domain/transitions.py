"""Transitions: from what an attempt proved to where its batch goes: to its outcome, or back into the queue."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from bulksms_dispatcher.domain.account_holds import HoldKind
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
    """How long the whole traffic account must not be used, not even to ask about statuses."""
    slows_account: bool = False
    """The provider found the account too fast: it goes on at half its rate."""
    sends_others: bool = False
    """Only those that the provider named are refused; the others become a batch of their own."""


def transition_after(
    verdict: Verdict, recipients: int, retries_made: int, retry_policy: RetryPolicy, account_pause: timedelta
) -> Transition:
    """Rules 3, 4 and 8, and the backoff. Whatever the status: the rest that the provider asks for, it gets."""
    transition = _transition(verdict, recipients, retries_made, retry_policy)
    rests = [transition.account_rest, verdict.retry_after, account_pause if verdict.hold is HoldKind.REFUSED else None]
    return replace(transition, account_rest=max((rest for rest in rests if rest is not None), default=None))


def _transition(verdict: Verdict, recipients: int, retries_made: int, retry_policy: RetryPolicy) -> Transition:
    if verdict.kind is OutcomeKind.ACCEPTED:
        return Transition(BatchState.ACCEPTED, "")
    if verdict.kind is OutcomeKind.AMBIGUOUS:
        return Transition(BatchState.AMBIGUOUS, verdict.reason)
    match verdict.follow_up:
        case FollowUp.HOLD_ACCOUNT | FollowUp.HAND_BACK:
            return Transition(BatchState.READY, verdict.reason)
        case FollowUp.CUT:
            return Transition(BatchState.READY if recipients > 1 else BatchState.REJECTED, verdict.reason)
        case FollowUp.RETRY:
            return _retry(verdict, retries_made, retry_policy)
        case FollowUp.NONE | FollowUp.SEND_OTHERS as follow_up:
            others = follow_up is FollowUp.SEND_OTHERS
            return Transition(BatchState.REJECTED, verdict.reason, sends_others=others)


def _retry(verdict: Verdict, retries_made: int, retry_policy: RetryPolicy) -> Transition:
    # Without a word of the provider a second is enough for its window to be over.
    rest = None if verdict.retry_after else _DEFAULT_REST
    delay = retry_policy.delay(retries_made, verdict.retry_after)
    if delay is None:
        return Transition(BatchState.DEAD, ATTEMPTS_EXHAUSTED, account_rest=rest, slows_account=True)
    return Transition(BatchState.READY, verdict.reason, delay, costs_retry=True, account_rest=rest, slows_account=True)
