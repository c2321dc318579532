"""The dispatcher as this service sees it: submissions, their control, opt-outs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from bulksms.dispatcher.v1.dispatch_pb2 import (
    CancelCampaignRequest,
    GetCampaignHoldRequest,
    GetSubmissionRequest,
    PauseCampaignRequest,
    RecipientChunk,
    RecordOptOutsRequest,
    RemoveOptOutsRequest,
    ResumeCampaignRequest,
    SubmissionEnd,
    SubmissionHeader,
    SubmitRequest,
)
from bulksms.dispatcher.v1.dispatch_pb2_grpc import DispatchServiceStub
from bulksms_campaign.domain.enqueues import Chunk
from bulksms_campaign.domain.holds import Hold, HoldReason
from bulksms_campaign.peers.reasons import reason_name
from servicekit.errors import Category, DomainError
from servicekit.grpc.client import open_channel
from servicekit.grpc.errors import domain_errors
from servicekit.ids import derived_id

_NAMESPACE = UUID("5d1f7a52-8f0e-4d5c-8a52-0d6b1a7f3c44")
_SERVICE = "bulksms.dispatcher.v1.DispatchService"
_IDEMPOTENT = tuple(
    f"{_SERVICE}/{method}"
    for method in (
        "GetSubmission",
        "PauseCampaign",
        "ResumeCampaign",
        "CancelCampaign",
        "GetCampaignHold",
        "RecordOptOuts",
        "RemoveOptOuts",
    )
)


_KNOWN_HOLDS = frozenset(int(reason) for reason in HoldReason)
HOLD_TIMEOUT = timedelta(seconds=1)
"""Short: a dispatcher that takes longer is as good as away to whoever asks what holds a campaign."""


@dataclass(frozen=True, slots=True)
class SubmissionProgress:
    """How far the dispatcher has a submission."""

    last_phone: int = 0
    complete: bool = False


def submission_id(campaign_id: UUID, enqueue_number: int) -> UUID:
    """The same for every stream of one enqueue."""
    return derived_id(_NAMESPACE, "submission", campaign_id, enqueue_number)


class DispatcherPeer:
    """Calls to the dispatcher; errors are `DomainError`s with the dispatcher's own reasons."""

    def __init__(self, address: str, *, timeout: timedelta, stream_timeout: timedelta) -> None:
        self._channel = open_channel(
            address, default_timeout=timeout, stream_timeout=stream_timeout, idempotent_methods=_IDEMPOTENT
        )
        self._dispatch = DispatchServiceStub(self._channel)

    async def close(self) -> None:
        """Let go of the channel."""
        await self._channel.close(1.0)

    async def submission(self, tenant_id: str, submission: UUID) -> SubmissionProgress:
        """How far it has this submission; the beginning when it has never heard of it."""
        try:
            with domain_errors("the dispatcher"):
                request = GetSubmissionRequest(tenant_id=tenant_id, submission_id=str(submission))
                response = await self._dispatch.GetSubmission(request)
        except DomainError as error:
            if error.category is Category.NOT_FOUND:
                return SubmissionProgress()
            raise
        return SubmissionProgress(response.last_phone, response.complete)

    async def submit(self, header: SubmissionHeader, chunks: AsyncIterator[Chunk], recipients: int) -> int:
        """Stream the rest of a submission of `recipients` in all; returns the batches it was cut into."""
        failures: list[Exception] = []

        async def parts() -> AsyncIterator[SubmitRequest]:
            yield SubmitRequest(header=header)
            try:
                async for chunk in chunks:
                    first = chunk.first_position
                    yield SubmitRequest(
                        chunk=RecipientChunk(first_index=first, phones=chunk.phones, values=chunk.values)
                    )
            except Exception as error:
                failures.append(error)
                raise
            yield SubmitRequest(end=SubmissionEnd(recipients=recipients))

        try:
            with domain_errors("the dispatcher"):
                response = await self._dispatch.Submit(parts())
        except (asyncio.CancelledError, DomainError):
            # gRPC reports an error of the request iterator as a cancelled call: the real one is what counts.
            if failures:
                raise failures[0] from None
            raise
        return response.batches

    async def pause(self, tenant_id: str, campaign_id: UUID, number: int) -> None:
        """Stop claims. `number` tells this request from earlier ones of the same kind."""
        request = PauseCampaignRequest(
            request_id=_request_id("pause", campaign_id, number), tenant_id=tenant_id, campaign_id=str(campaign_id)
        )
        with domain_errors("the dispatcher"):
            await self._dispatch.PauseCampaign(request)

    async def resume(self, tenant_id: str, campaign_id: UUID, number: int) -> None:
        """Allow claims again."""
        request = ResumeCampaignRequest(
            request_id=_request_id("resume", campaign_id, number), tenant_id=tenant_id, campaign_id=str(campaign_id)
        )
        with domain_errors("the dispatcher"):
            await self._dispatch.ResumeCampaign(request)

    async def cancel(self, tenant_id: str, campaign_id: UUID, number: int) -> None:
        """Cancel what is not armed, and whatever is submitted later."""
        request = CancelCampaignRequest(
            request_id=_request_id("cancel", campaign_id, number), tenant_id=tenant_id, campaign_id=str(campaign_id)
        )
        with domain_errors("the dispatcher"):
            await self._dispatch.CancelCampaign(request)

    async def hold(self, tenant_id: str, campaign_id: UUID, now: datetime) -> Hold | None:
        """What keeps a campaign's batches from being sent; None when nothing does. Seen `now` where it has no begin."""
        request = GetCampaignHoldRequest(tenant_id=tenant_id, campaign_id=str(campaign_id))
        with domain_errors("the dispatcher"):
            response = await self._dispatch.GetCampaignHold(request, timeout=HOLD_TIMEOUT.total_seconds())
        if response.reason not in _KNOWN_HOLDS:  # none, or one that only a later release knows
            return None
        return Hold(
            reason=HoldReason(response.reason),
            since=response.since.ToDatetime(UTC) if response.HasField("since") else now,
            until=response.until.ToDatetime(UTC) if response.HasField("until") else None,
            batch_reason=reason_name(response.batch_reason),
            description=response.description,
        )

    async def record_opt_outs(self, tenant_id: str, phones: Sequence[int], change_ids: Sequence[UUID]) -> None:
        """Send nothing more to these numbers."""
        request = RecordOptOutsRequest(
            request_id=str(derived_id(_NAMESPACE, "record opt-outs", *change_ids)), tenant_id=tenant_id, phones=phones
        )
        with domain_errors("the dispatcher"):
            await self._dispatch.RecordOptOuts(request)

    async def remove_opt_outs(self, tenant_id: str, phones: Sequence[int], change_ids: Sequence[UUID]) -> None:
        """These numbers may be written to again."""
        request = RemoveOptOutsRequest(
            request_id=str(derived_id(_NAMESPACE, "remove opt-outs", *change_ids)), tenant_id=tenant_id, phones=phones
        )
        with domain_errors("the dispatcher"):
            await self._dispatch.RemoveOptOuts(request)


def _request_id(kind: str, campaign_id: UUID, number: int) -> str:
    return str(derived_id(_NAMESPACE, kind, campaign_id, number))
