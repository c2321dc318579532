"""Paced questions: the provider is asked about one message, from its rate-limit slot to the rest after a 429."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from enum import Enum

from bulksms_dispatcher.domain.lookup_results import LookupOutcome, LookupResult
from bulksms_dispatcher.pacing.in_flight import InFlightTracker
from bulksms_dispatcher.pacing.limiter import Limiter
from bulksms_dispatcher.pacing.permits import Permit, Throttled
from bulksms_dispatcher.providers.lookup import MessageLookup
from servicekit import logs

__all__ = ["PacedQuestions", "QuestionKind"]

_LONGEST_NAP_SECONDS = 1.0
# How long refreshes rest when the provider does not say: a 401 or 403 is the whole account's.
_RESTS = {LookupOutcome.TOO_FAST: timedelta(seconds=5), LookupOutcome.REFUSED: timedelta(seconds=60)}
# No tenant has this name: the limiter lets all evidence questions together have what one tenant may have.
_EVIDENCE_LANE = "(evidence)"
_log = logs.get_logger("bulksms.dispatcher.questions")


class QuestionKind(Enum):
    """Whose share of the limits a question is asked from; each is a request of the account's."""

    REFRESH = "from what sends leave, within a limit of its own"
    EVIDENCE = "as if all of them were one tenant's sends"


class PacedQuestions:
    """Questions of one kind, `at_once` at most; each waits for its slot, is asked once, and releases it."""

    def __init__(
        self, limiter: Limiter, tracker: InFlightTracker, lookup: MessageLookup, kind: QuestionKind, *, at_once: int
    ) -> None:
        self._limiter = limiter
        self._tracker = tracker
        self._lookup = lookup
        self._kind = kind
        self._slots = asyncio.Semaphore(at_once)

    async def ask(
        self, message_id: str, within: timedelta, *, wanted: Callable[[], bool] = lambda: True
    ) -> LookupResult | None:
        """What the provider says of a message; None when no slot came free `within` that time, or it is not `wanted`.

        `retry_after` of the result is set when the provider wants no questions now; refreshes rest for so long then.
        Raises PacingUnavailable.
        """
        try:
            async with asyncio.timeout(within.total_seconds()) as patience, self._slots:
                permit = await self._take_permit(wanted)
                patience.reschedule(None)  # what is asked has the lookup's own deadline
                return None if permit is None else await self._ask(permit, message_id)
        except TimeoutError:
            return None

    async def _take_permit(self, wanted: Callable[[], bool]) -> Permit | None:
        while wanted():
            reply = await self._acquire()
            if isinstance(reply, Permit):
                return reply
            await asyncio.sleep(min(reply.wait.total_seconds(), _LONGEST_NAP_SECONDS))
        return None

    async def _acquire(self) -> Permit | Throttled:
        if self._kind is QuestionKind.REFRESH:
            return await self._limiter.acquire_refresh()
        return await self._limiter.acquire(_EVIDENCE_LANE, 0, ahead=timedelta(0))

    async def _ask(self, permit: Permit, message_id: str) -> LookupResult:
        with self._tracker.follow(permit) as in_flight:
            result = await self._lookup.ask(message_id, begin=in_flight.begin)
        rest = _RESTS.get(result.outcome)
        if rest is not None:
            rest = result.retry_after or rest
            await self._limiter.block_refreshes(rest)
            _log.warning("status refresh rests", outcome=result.outcome.name, seconds=rest.total_seconds())
        return replace(result, retry_after=rest)
