"""The outbox workers: results to the campaign service, captures to the ledger, until they are acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from itertools import groupby
from typing import Protocol

from opentelemetry import trace

from bulksms.campaign.v1 import results_pb2
from bulksms.campaign.v1.results_pb2_grpc import ResultServiceStub
from bulksms.ledger.v1 import ledger_pb2
from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from bulksms_dispatcher.batches import capture_id_of
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.recipients import unpack, unpack_ids
from bulksms_dispatcher.results import RecipientOutcome, Resolved, decode_groups, resolve
from bulksms_dispatcher.storage import outbox
from bulksms_dispatcher.storage.outbox import OutboxEntry, OutboxKind
from servicekit import logs
from servicekit.database import Database
from servicekit.errors import DomainError
from servicekit.grpc.errors import domain_errors
from servicekit.ids import derived_id
from servicekit.telemetry import context_from_traceparent, link_from_traceparent

__all__ = ["CaptureTeller", "CreditTeller", "ResultTeller", "Teller", "flush"]

# Each holds a batch's numbers and ids, up to half a megabyte.
_RESULTS_AT_ONCE = 4
_CAPTURES_AT_ONCE = 200
# Hidden from other replicas for longer than a call can take with its retries.
_HIDE = timedelta(seconds=45)
_CALL_TIMEOUT_SECONDS = 20.0
_FIRST_DELAY, _MAX_DELAY = timedelta(seconds=0.25), timedelta(seconds=15)
# Refused for good, as far as we can know: kept, reported each time, and tried again in case a person mended it.
_REFUSED_DELAY = timedelta(minutes=10)

_log = logs.get_logger("bulksms.dispatcher.outbox")
_tracer = trace.get_tracer("bulksms.dispatcher")


class Teller(Protocol):
    """One kind of entries, told round by round."""

    async def tell_once(self) -> bool:
        """Take some entries and tell them; True when there may be more."""
        ...


async def flush(tellers: Sequence[Teller], limit: timedelta) -> None:
    """Before the process ends: what was recorded last is told at once, if the others listen."""
    try:
        async with asyncio.timeout(limit.total_seconds()):
            for teller in tellers:
                while await teller.tell_once():
                    pass
    except TimeoutError:
        _log.warning("outbox not flushed: another process, or the next start, tells it")


class _Bookkeeper:
    """What all tellers do with an entry after its call."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics

    async def told(self, entries: Sequence[OutboxEntry]) -> None:
        async with self._database.begin() as connection:
            await outbox.acknowledge(connection, [entry.outbox_id for entry in entries])
        self._metrics.outbox_told.add(len(entries), {"kind": entries[0].kind.name})

    async def failed(self, entries: Sequence[OutboxEntry], error: DomainError) -> None:
        if error.retryable or error.category.rpc_code in ("UNIMPLEMENTED", "INTERNAL"):
            await self._again(entries, error)
        else:
            await self.refused(entries, error.reason)

    async def refused(self, entries: Sequence[OutboxEntry], reason: str) -> None:
        self._metrics.outbox_refused.add(len(entries), {"kind": entries[0].kind.name, "reason": reason})
        for entry in entries:
            _log.error("result refused and kept", kind=entry.kind.name, batch_id=str(entry.batch_id), reason=reason)
        async with self._database.begin() as connection:
            await outbox.postpone(connection, [e.outbox_id for e in entries], _REFUSED_DELAY, reason)

    async def _again(self, entries: Sequence[OutboxEntry], error: DomainError) -> None:
        tries = min(entry.tries for entry in entries)
        delay = min(_FIRST_DELAY * (1 << min(tries, 10)), _MAX_DELAY)
        _log.warning(
            "result not told yet", kind=entries[0].kind.name, entries=len(entries), tries=tries, reason=error.reason
        )
        async with self._database.begin() as connection:
            await outbox.postpone(connection, [entry.outbox_id for entry in entries], delay)


class ResultTeller:
    """Tells the campaign service what became of batches, in any order: it folds."""

    def __init__(self, database: Database, campaign: ResultServiceStub, metrics: Metrics) -> None:
        self._database = database
        self._campaign = campaign
        self._books = _Bookkeeper(database, metrics)

    async def tell_once(self) -> bool:
        """One round; True when there may be more."""
        async with self._database.begin() as connection:
            entries = await outbox.take_with_recipients(connection, [OutboxKind.CAMPAIGN], _RESULTS_AT_ONCE, _HIDE)
        async with asyncio.TaskGroup() as group:
            for entry in entries:
                group.create_task(self._tell(entry))
        return bool(entries)

    async def _tell(self, entry: OutboxEntry) -> None:
        # In the campaign's trace, below the span of the try it tells of.
        with _tracer.start_as_current_span(
            "report batch",
            context=context_from_traceparent(entry.traceparent),
            attributes={"bulksms.batch_id": str(entry.batch_id), "bulksms.state": entry.state.name},
        ):
            try:
                with domain_errors("the campaign service"):
                    await self._campaign.RecordBatchResult(_result_request(entry), timeout=_CALL_TIMEOUT_SECONDS)
            except DomainError as error:
                await self._books.failed([entry], error)
            else:
                await self._books.told([entry])


class CaptureTeller:
    """Tells the ledger what was accepted: many captures a call, one call per trace."""

    def __init__(self, database: Database, ledger: LedgerServiceStub, metrics: Metrics) -> None:
        self._database = database
        self._ledger = ledger
        self._books = _Bookkeeper(database, metrics)

    async def tell_once(self) -> bool:
        """One round; True when there may be more."""
        async with self._database.begin() as connection:
            entries = await outbox.take(connection, [OutboxKind.CAPTURE], _CAPTURES_AT_ONCE, _HIDE)
        for _, together in groupby(sorted(entries, key=_trace_of), key=_trace_of):
            await self._tell(list(together))
        return bool(entries)

    async def _tell(self, entries: list[OutboxEntry]) -> None:
        request = ledger_pb2.BatchCaptureRequest(captures=[capture_request(entry) for entry in entries])
        links = [link for entry in entries[1:16] if (link := link_from_traceparent(entry.traceparent))]
        with _tracer.start_as_current_span(
            "capture credits",
            context=context_from_traceparent(entries[0].traceparent),
            links=links,
            attributes={"bulksms.batches": len(entries), "bulksms.messages": sum(e.accepted for e in entries)},
        ):
            try:
                with domain_errors("the ledger"):
                    response = await self._ledger.BatchCapture(request, timeout=_CALL_TIMEOUT_SECONDS)
            except DomainError as error:
                await self._books.failed(entries, error)
                return
            reasons = {result.request_id: result.error_reason for result in response.results}
            captured = [e for e in entries if reasons.get(str(capture_id_of(e.batch_id, e.epoch))) == ""]
            if captured:
                await self._books.told(captured)
            for entry in entries:
                reason = reasons.get(str(capture_id_of(entry.batch_id, entry.epoch)), "NO_RESULT")
                if reason:
                    await self._books.refused([entry], reason)


class CreditTeller:
    """Settles the credit of single messages: captured when it was accepted, then its reservation is closed."""

    def __init__(self, database: Database, ledger: LedgerServiceStub, metrics: Metrics) -> None:
        self._database = database
        self._ledger = ledger
        self._books = _Bookkeeper(database, metrics)

    async def tell_once(self) -> bool:
        """One round; True when there may be more."""
        async with self._database.begin() as connection:
            entries = await outbox.take(connection, [OutboxKind.MESSAGE_CREDIT], _CAPTURES_AT_ONCE, _HIDE)
        for entry in entries:
            await self._tell(entry)
        return bool(entries)

    async def _tell(self, entry: OutboxEntry) -> None:
        close = ledger_pb2.CloseRequest(
            request_id=str(derived_id(entry.batch_id, "close", entry.epoch)),
            tenant_id=entry.tenant_id,
            reservation_id=str(entry.reservation_id),
            expected_captured=entry.accepted,
        )
        with _tracer.start_as_current_span("settle credit", context=context_from_traceparent(entry.traceparent)):
            try:
                with domain_errors("the ledger"):
                    if entry.accepted:
                        await self._ledger.Capture(capture_request(entry), timeout=_CALL_TIMEOUT_SECONDS)
                    await self._ledger.Close(close, timeout=_CALL_TIMEOUT_SECONDS)
            except DomainError as error:
                await self._books.failed([entry], error)
            else:
                await self._books.told([entry])


def capture_request(entry: OutboxEntry) -> ledger_pb2.CaptureRequest:
    """The capture of an accepted batch; the same request id however often it is told."""
    return ledger_pb2.CaptureRequest(
        request_id=str(capture_id_of(entry.batch_id, entry.epoch)),
        tenant_id=entry.tenant_id,
        reservation_id=str(entry.reservation_id),
        units=entry.accepted,
        evidence=ledger_pb2.CaptureEvidence(
            batch_id=str(entry.batch_id),
            epoch=entry.epoch,
            bulk_id=entry.bulk_id,
            accepted_count=entry.accepted,
            parts=entry.parts,
        ),
    )


def _result_request(entry: OutboxEntry) -> results_pb2.RecordBatchResultRequest:
    phones = unpack(entry.packed or b"").phones
    groups = resolve(decode_groups(entry.groups or b"\x90"), len(phones))
    return results_pb2.RecordBatchResultRequest(
        tenant_id=entry.tenant_id,
        campaign_id=str(entry.campaign_id),
        enqueue_number=entry.enqueue_number,
        batch_id=str(entry.batch_id),
        epoch=entry.epoch,
        bulk_id=entry.bulk_id,
        traceparent=entry.traceparent,
        first_phone=entry.first_phone,
        last_phone=entry.last_phone,
        groups=[_outcome_group(group, phones, entry.message_ids) for group in groups],
    )


def _outcome_group(group: Resolved, phones: Sequence[int], message_ids: bytes | None) -> results_pb2.OutcomeGroup:
    everyone = len(group.positions) == len(phones)
    accepted = group.outcome is RecipientOutcome.ACCEPTED
    return results_pb2.OutcomeGroup(
        outcome=results_pb2.RecipientOutcome.ValueType(group.outcome),
        reason=group.reason,
        description=group.description,
        phones=phones if everyone else [phones[position] for position in group.positions],
        message_ids=unpack_ids(message_ids or b"") if accepted else (),
    )


def _trace_of(entry: OutboxEntry) -> str:
    """The trace id: `00-<trace id>-<span id>-<flags>`."""
    return entry.traceparent[3:35]
