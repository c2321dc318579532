"""Captures to the ledger: what was accepted of each attempt, and what nobody will learn of."""

from __future__ import annotations

from itertools import groupby

from opentelemetry import trace

from bulksms_dispatcher.domain.outbox import OutboxEntry, OutboxKind
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.peers.ledger import LedgerPeer
from bulksms_dispatcher.workers.publisher import Publisher
from servicekit.database import Database
from servicekit.errors import DomainError
from servicekit.telemetry import context_from_traceparent, link_from_traceparent

__all__ = ["CapturePublisher"]

# Evidence that comes after the reservation was closed: its credits were given back, and repeating changes nothing.
_TOO_LATE = frozenset({"RESERVATION_STATE", "RESERVATION_EXCEEDED", "RESERVATION_NOT_FOUND"})
# The batch met an earlier attempt, whose credits are the ledger's to report: this one has none.
_NEVER_AUTHORIZED = "ATTEMPT_NOT_FOUND"
_MAX_LINKS = 15

_tracer = trace.get_tracer("bulksms.dispatcher.capture_publisher")


class CapturePublisher(Publisher):
    """Reports to the ledger what was accepted: many captures a call, one call per trace."""

    kind = OutboxKind.CAPTURE
    name = "bulksms.dispatcher.capture_publisher"

    def __init__(self, database: Database, ledger: LedgerPeer, metrics: Metrics, worker: str) -> None:
        super().__init__(database, metrics, worker)
        self._ledger = ledger

    async def deliver(self, entries: list[OutboxEntry]) -> None:
        """Trace by trace."""
        for _, together in groupby(sorted(entries, key=_trace_of), key=_trace_of):
            await self._deliver(list(together))

    async def _deliver(self, entries: list[OutboxEntry]) -> None:
        others = entries[1 : _MAX_LINKS + 1]
        with _tracer.start_as_current_span(
            "capture credits",
            context=context_from_traceparent(entries[0].traceparent),
            links=[link for entry in others if (link := link_from_traceparent(entry.traceparent))],
            attributes={
                "bulksms.batches": len(entries),
                "bulksms.messages": sum(entry.accepted for entry in entries),
            },
        ):
            accepted = [entry for entry in entries if entry.accepted]
            try:
                reasons = await self._ledger.capture_all(accepted) if accepted else []
            except DomainError as error:
                await self.acknowledgements.failed(entries, error)
                return
            await self._take(accepted, reasons)
            for entry in entries:
                if not entry.accepted:
                    await self._release(entry)

    async def _take(self, entries: list[OutboxEntry], reasons: list[str]) -> None:
        captured = []
        for entry, reason in zip(entries, reasons, strict=True):
            if reason == _NEVER_AUTHORIZED or (reason in _TOO_LATE and entry.part):
                await self.acknowledgements.uncaptured([entry], reason)
            elif reason:
                await self.acknowledgements.refused([entry], reason)
            elif entry.released:
                await self._release(entry)
            else:
                captured.append(entry)
        if captured:
            await self.acknowledgements.acknowledged(captured)

    async def _release(self, entry: OutboxEntry) -> None:
        """After what was accepted of it is captured: the rest of an attempt whose time is over."""
        try:
            await self._ledger.release(entry)
        except DomainError as error:
            if error.reason != _NEVER_AUTHORIZED:
                await self.acknowledgements.failed([entry], error)
                return
        await self.acknowledgements.acknowledged([entry])


def _trace_of(entry: OutboxEntry) -> str:
    """The trace id: `00-<trace id>-<span id>-<flags>`."""
    return entry.traceparent[3:35]
