"""ResultService: what the dispatcher and the gateway report."""

# ruff: noqa: ARG002 - names and arguments are the contract's

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from bulksms.campaign.v1 import results_pb2 as pb
from bulksms.campaign.v1.results_pb2_grpc import ResultServiceServicer
from bulksms_campaign.domain.recipients import Fact
from bulksms_campaign.domain.results import MessageReport, OutcomeGroup, clean_description, fold_reports
from bulksms_campaign.peers.reasons import reason_name
from bulksms_campaign.storage.batches import BatchRow
from bulksms_campaign.use_cases.results import Results
from servicekit.arguments import ArgumentCheck

Context = grpc.aio.ServicerContext[Any, Any]
MAX_REPORTS = 5000
MAX_RECIPIENTS = 100_000
MAX_INTEGER = (1 << 31) - 1
MAX_ID = 64
"""Of ids and trace contexts: the contract's bound."""

_FACT_OF_OUTCOME = {
    pb.RECIPIENT_OUTCOME_ACCEPTED: Fact.ACCEPTED,
    pb.RECIPIENT_OUTCOME_FAILED: Fact.FAILED,
    pb.RECIPIENT_OUTCOME_AMBIGUOUS: Fact.AMBIGUOUS,
    pb.RECIPIENT_OUTCOME_UNRESOLVED: Fact.UNRESOLVED,
    pb.RECIPIENT_OUTCOME_CANCELLED: Fact.CANCELLED,
    pb.RECIPIENT_OUTCOME_OPTED_OUT: Fact.OPTED_OUT,
}
_FACT_OF_REPORT = {
    pb.DELIVERY_STATUS_UNSPECIFIED: Fact.REPORTED_OTHER,
    pb.DELIVERY_STATUS_SENT: Fact.REPORTED_SENT,
    pb.DELIVERY_STATUS_DELIVERED: Fact.DELIVERED,
    pb.DELIVERY_STATUS_FAILED: Fact.NOT_DELIVERED,
    pb.DELIVERY_STATUS_EXPIRED: Fact.EXPIRED,
}


class ResultServicer(ResultServiceServicer):
    """Requests to operations and back."""

    def __init__(self, results: Results) -> None:
        self._results = results

    async def RecordBatchResult(
        self, request: pb.RecordBatchResultRequest, context: Context
    ) -> pb.RecordBatchResultResponse:
        check = ArgumentCheck()
        batch = BatchRow(
            check.tenant_id(request.tenant_id),
            check.uuid("batch_id", request.batch_id),
            check.uuid("campaign_id", request.campaign_id),
            request.first_phone,
            request.last_phone,
            request.epoch,
            request.enqueue_number,
            check.text("bulk_id", request.bulk_id, maximum=MAX_ID),
            check.text("traceparent", request.traceparent, maximum=MAX_ID),
            check.uuid("attempt_id", request.attempt_id) if request.attempt_id else None,
        )
        check.number("enqueue_number", request.enqueue_number, minimum=1, maximum=MAX_INTEGER)
        check.number("epoch", request.epoch, minimum=0, maximum=MAX_INTEGER)
        groups = _groups(check, request.groups)
        check.finish()
        return pb.RecordBatchResultResponse(changed=await self._results.record_batch(batch, groups))

    async def RecordDeliveryReports(
        self, request: pb.RecordDeliveryReportsRequest, context: Context
    ) -> pb.RecordDeliveryReportsResponse:
        check = ArgumentCheck()
        if len(request.reports) > MAX_REPORTS:
            check.wrong("reports", f"has {len(request.reports)} reports: send at most {MAX_REPORTS} a call")
            check.finish()
        for index, report in enumerate(request.reports):
            check.text(f"reports[{index}].provider_message_id", report.provider_message_id, minimum=1, maximum=MAX_ID)
        tenant_id = check.tenant_id(request.tenant_id) if request.tenant_id else ""
        check.finish()
        folded = fold_reports(_report(item) for item in request.reports)
        known, changed = await self._results.record_reports(folded, tenant_id)
        unknown = [index for index, report in enumerate(request.reports) if report.provider_message_id not in known]
        return pb.RecordDeliveryReportsResponse(unknown_indexes=unknown, changed=changed)

    async def ListAwaitedReports(
        self, request: pb.ListAwaitedReportsRequest, context: Context
    ) -> pb.ListAwaitedReportsResponse:
        check = ArgumentCheck()
        tenant_id = check.tenant_id(request.tenant_id)
        campaign_id = check.uuid("campaign_id", request.campaign_id)
        if max(request.after_phone, request.last_phone) >= 1 << 63:
            check.wrong("last_phone", "is no telephone number")
        size = check.page_size(request.page_size)
        check.finish()
        awaited = await self._results.list_awaited(
            tenant_id,
            campaign_id,
            request.enqueue_number,
            after=request.after_phone,
            last=request.last_phone,
            limit=size,
        )
        return pb.ListAwaitedReportsResponse(
            phones=[phone for phone, _ in awaited],
            provider_message_ids=[message_id for _, message_id in awaited],
        )


def _report(report: pb.DeliveryReport) -> MessageReport:
    fact = _FACT_OF_REPORT.get(report.status, Fact.REPORTED_OTHER)
    return MessageReport.of(report.provider_message_id, fact, report.description or report.error_code)


def _groups(check: ArgumentCheck, groups: Sequence[pb.OutcomeGroup]) -> list[OutcomeGroup]:
    checked: list[OutcomeGroup] = []
    seen: set[int] = set()
    total = 0
    for index, group in enumerate(groups):
        field = f"groups[{index}]"
        fact = _FACT_OF_OUTCOME.get(group.outcome)
        if fact is None:
            check.wrong(f"{field}.outcome", "is unknown: name what became of the recipients")
            continue
        expected = len(group.phones) if fact is Fact.ACCEPTED else 0
        ids = list(group.provider_message_ids)
        # None at all: an operator confirmed it, and nobody knows their ids.
        if len(ids) not in (0, expected):
            check.wrong(f"{field}.provider_message_ids", f"has {len(ids)} ids: {expected} are expected")
        for provider_message_id in ids:
            check.text(f"{field}.provider_message_ids", provider_message_id, minimum=1, maximum=MAX_ID)
        seen.update(group.phones)
        total += len(group.phones)
        reason = reason_name(group.reason)
        description = clean_description(group.description)
        checked.append(OutcomeGroup(fact, reason, description, list(group.phones), ids))
    if len(seen) != total:
        check.wrong("groups", "name a recipient twice: each stands in exactly one group")
    if total > MAX_RECIPIENTS:
        check.wrong("groups", f"name {total} recipients: at most {MAX_RECIPIENTS} a batch")
    return checked
