"""Status questions: one message's status, asked of the provider now because somebody wants to know."""

from __future__ import annotations

from datetime import timedelta

from bulksms_dispatcher.domain.lookup_results import LookupOutcome, LookupResult
from bulksms_dispatcher.domain.messages import Message, MessageReference, MessageStatus
from bulksms_dispatcher.pacing.limiter import PacingUnavailable
from bulksms_dispatcher.storage import messages
from bulksms_dispatcher.use_cases.awaited_reports import AwaitedReports, evidence_of
from bulksms_dispatcher.use_cases.paced_questions import PacedQuestions
from servicekit import errors
from servicekit.database import Database
from servicekit.errors import DomainError

__all__ = ["StatusQuestions"]

_PATIENCE = timedelta(seconds=5)
_RETRY_AFTER = timedelta(seconds=5)


class StatusQuestions:
    """Within the refreshes' share of the limits; what is learnt is recorded like a delivery report."""

    def __init__(self, database: Database, questions: PacedQuestions, reports: AwaitedReports) -> None:
        self._database = database
        self._questions = questions
        self._reports = reports

    async def refresh(self, tenant_id: str, reference: MessageReference) -> tuple[MessageStatus, str]:
        """The status as it is now and the provider's own word for it (empty when it has none).

        By the provider's id, any message of the tenant is found; by the others, single ones.
        Errors: MESSAGE_NOT_FOUND, PROVIDER_UNAVAILABLE.
        """
        message = await self._find(tenant_id, reference)
        if message is None:
            if not reference.provider_message_id:
                raise _not_found()
            return await self._refresh_recipient(tenant_id, reference.provider_message_id)
        if not message.provider_message_id:
            return message.status, ""  # not accepted (yet): there is nothing to ask about
        result = await self._ask(message.provider_message_id)
        if result.status.is_final:
            async with self._database.begin() as connection:
                await messages.record_reports(connection, [evidence_of(message.provider_message_id, result)])
            message = await self._find(tenant_id, reference) or message
        return message.status, result.raw_status

    async def _refresh_recipient(self, tenant_id: str, message_id: str) -> tuple[MessageStatus, str]:
        result = await self._ask(message_id)
        if result.outcome is LookupOutcome.NOT_FOUND or not await self._reports.record_in_campaign(
            tenant_id, {message_id: result}
        ):
            raise _not_found()
        return evidence_of(message_id, result).status, result.raw_status

    async def _find(self, tenant_id: str, reference: MessageReference) -> Message | None:
        async with self._database.connect() as connection:
            return await messages.find(connection, tenant_id, reference)

    async def _ask(self, message_id: str) -> LookupResult:
        try:
            result = await self._questions.ask(message_id, _PATIENCE)
        except PacingUnavailable:
            result = None
        if result is None:
            raise _unavailable("The limit of status refreshes leaves no room now: ask again later.")
        if result.outcome not in (LookupOutcome.KNOWN, LookupOutcome.NOT_FOUND):
            raise _unavailable("The provider did not respond: ask again later.")
        return result


def _unavailable(message: str) -> DomainError:
    return errors.unavailable("PROVIDER_UNAVAILABLE", message, retry_after=_RETRY_AFTER)


def _not_found() -> DomainError:
    return errors.not_found(
        "MESSAGE_NOT_FOUND",
        "The tenant has no such message: name a single message's id, or the provider's message id of a recipient.",
    )
