"""From what a try proved to what becomes of its batch: settled, or back in the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from bulksms_dispatcher.domain.protocol import BatchState, OutcomeKind
from bulksms_dispatcher.domain.provider_outcomes import FollowUp, Verdict
from bulksms_dispatcher.domain.results import Group, RecipientOutcome, whole
from bulksms_dispatcher.domain.retries import RetryPolicy

__all__ = ["ATTEMPTS_EXHAUSTED", "Decision", "decide", "groups_of", "is_retryable_refusal", "positions_asked"]

ATTEMPTS_EXHAUSTED = "ATTEMPTS_EXHAUSTED"
RETRYABLE_REFUSALS: tuple[str, ...] = ()
"""What the provider says of a single message of a bulk that it would take later (rule 8). None is known (mitto.md);
until one is, they are named by the setting RETRYABLE_REFUSALS."""
_DEFAULT_REST = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Decision:
    """Where the batch goes: to `target`, or, when that is READY, back into the queue after `delay`."""

    target: BatchState
    reason: str
    delay: timedelta = timedelta(0)
    costs_retry: bool = False
    account_rest: timedelta | None = None
    """How long the whole traffic account must not be used."""
    slows_account: bool = False
    """The provider found the account too fast: it goes on at half its rate."""


def decide(verdict: Verdict, retries_made: int, retry_policy: RetryPolicy, account_pause: timedelta) -> Decision:
    """Rules 3, 4 and 8, and the backoff."""
    if verdict.kind is OutcomeKind.ACCEPTED:
        return Decision(BatchState.ACCEPTED, "")
    if verdict.kind is OutcomeKind.AMBIGUOUS:
        return Decision(BatchState.AMBIGUOUS, verdict.reason)
    match verdict.follow_up:
        case FollowUp.PAUSE_ACCOUNT:
            return Decision(BatchState.READY, verdict.reason, delay=account_pause, account_rest=account_pause)
        case FollowUp.PARK | FollowUp.CUT as follow_up:
            return Decision(BatchState.DEAD if follow_up is FollowUp.PARK else BatchState.READY, verdict.reason)
        case FollowUp.RETRY:
            return _retry(verdict, retries_made, retry_policy)
        case FollowUp.NONE:
            return Decision(BatchState.REJECTED, verdict.reason)


def _retry(verdict: Verdict, retries_made: int, retry_policy: RetryPolicy) -> Decision:
    # Of what is retried only 429 was refused by the provider itself.
    refused = verdict.kind is OutcomeKind.REFUSED
    rest = (verdict.retry_after or _DEFAULT_REST) if refused else None
    delay = retry_policy.delay(retries_made, verdict.retry_after)
    if delay is None:
        return Decision(BatchState.DEAD, ATTEMPTS_EXHAUSTED, account_rest=rest, slows_account=refused)
    return Decision(BatchState.READY, verdict.reason, delay, costs_retry=True, account_rest=rest, slows_account=refused)


def is_retryable_refusal(description: str, also: Sequence[str] = ()) -> bool:
    """True when the provider's words for one refused message mean "not now"; `also` are words from the settings."""
    words = description.casefold()
    return any(known.casefold() in words for known in (*RETRYABLE_REFUSALS, *also) if known)


def groups_of(
    decision: Decision,
    verdict: Verdict,
    recipients: int,
    left_out: Sequence[int],
    deferred: Callable[[str], bool] = lambda _description: False,
) -> tuple[Group, ...]:
    """What is told about the recipients; `left_out` were not in the request because they had opted out.

    Those refused with words that are `deferred` are not told of: they go on in another batch.
    """
    description = verdict.description
    match decision.target:
        case BatchState.AMBIGUOUS:
            return whole(RecipientOutcome.AMBIGUOUS, left_out, reason=decision.reason, description=description)
        case BatchState.DEAD:
            return whole(RecipientOutcome.FAILED, left_out, reason=decision.reason, description=description)
        case BatchState.REJECTED if not verdict.refusals:
            return whole(RecipientOutcome.FAILED, left_out, reason=decision.reason, description=description)
    asked = positions_asked(recipients, left_out)
    refused = tuple(
        Group(
            RecipientOutcome.DEFERRED if deferred(refusal.description) else RecipientOutcome.FAILED,
            "PROVIDER_REJECTED",
            refusal.description,
            tuple(asked[position] for position in refusal.positions),
        )
        for refusal in verdict.refusals
    )
    accepted, *suppressed = whole(RecipientOutcome.ACCEPTED, left_out)
    first = (accepted,) if decision.target is BatchState.ACCEPTED else ()
    return (*first, *refused, *suppressed)


def positions_asked(recipients: int, left_out: Sequence[int]) -> Sequence[int]:
    """Position in the batch of each message of the request."""
    if not left_out:
        return range(recipients)
    out = set(left_out)
    return [position for position in range(recipients) if position not in out]
