"""Handing a batch of reports to campaign, whatever campaign's state, until each has a reply."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode

from bulksms_dlr_gateway.domain.disposition import PeerReply
from bulksms_dlr_gateway.domain.entries import Entry
from bulksms_dlr_gateway.forwarding.peers import Peer
from bulksms_dlr_gateway.metrics import ForwardingMetrics
from servicekit import errors, logs
from servicekit.backoff import Backoff
from servicekit.errors import Category, DomainError
from servicekit.telemetry import link_from_traceparent

__all__ = ["Delivery"]

_log = logs.get_logger("bulksms.dlr_gateway.delivery")
_tracer = trace.get_tracer("bulksms.dlr_gateway.delivery")

_BACKOFF = Backoff(timedelta(seconds=0.25), longest=timedelta(seconds=10))
# A peer that breaks on one report must not hold up the others of its batch: after that many times it is cut in two.
_BREAKS_BEFORE_SPLIT = 3
_MAX_LINKS = 64


class Delivery:
    """Offers reports to one peer."""

    def __init__(self, peer: Peer, metrics: ForwardingMetrics) -> None:
        self._peer = peer
        self._metrics = metrics

    async def offer_once(self, entries: Sequence[Entry], lane: str) -> list[PeerReply]:
        """One call, traced, linked to the requests that brought the reports; raises DomainError."""
        with _tracer.start_as_current_span(
            f"forward delivery reports to {self._peer.name}",
            Context(),
            SpanKind.INTERNAL,
            {"dlr.reports": len(entries), "dlr.lane": lane},
            links=_links(entries),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                unknown = await self._recorded(entries)
            except DomainError as error:
                span.set_status(Status(StatusCode.ERROR, error.reason))
                self._metrics.failures.add(1, {"peer": self._peer.name, "reason": error.reason})
                raise
            span.set_attribute("dlr.unknown", len(unknown))
        self._metrics.forwarded.add(len(entries) - len(unknown), {"peer": self._peer.name})
        if unknown:
            self._metrics.unknown.add(len(unknown), {"peer": self._peer.name, "lane": lane})
        return [PeerReply.UNKNOWN if index in unknown else PeerReply.TAKEN for index in range(len(entries))]

    async def offer(self, entries: Sequence[Entry], lane: str) -> list[PeerReply]:
        """Offer until there is a reply for each; a peer that is away is waited for."""
        failures = breaks = 0
        while True:
            try:
                return await self.offer_once(entries, lane)
            except DomainError as error:
                failures += 1
                breaks += error.category is Category.INTERNAL
                refused = error.category is Category.INVALID_ARGUMENT
                if refused or breaks >= _BREAKS_BEFORE_SPLIT:
                    _log.error("a batch was not taken", peer=self._peer.name, reports=len(entries), error=str(error))
                    return await self._offer_halves(entries, lane, PeerReply.REFUSED if refused else PeerReply.BREAKS)
                await self._pause(failures, error)

    async def _recorded(self, entries: Sequence[Entry]) -> frozenset[int]:
        try:
            return await self._peer.record(entries)
        except DomainError:
            raise
        except Exception as error:  # the boundary of a lane's loop: one odd report must not end the process
            _log.exception("a call could not be made", peer=self._peer.name)
            raise errors.internal("FORWARDING_FAILED", f"Forwarding failed: {type(error).__qualname__}.") from error

    async def _offer_halves(self, entries: Sequence[Entry], lane: str, alone: PeerReply) -> list[PeerReply]:
        if len(entries) == 1:
            return [alone]
        middle = len(entries) // 2
        return [*await self.offer(entries[:middle], lane), *await self.offer(entries[middle:], lane)]

    async def _pause(self, failures: int, error: DomainError) -> None:
        pause = max(_BACKOFF.after(failures), error.retry_after or timedelta(0))
        if failures in {1, 5} or failures % 30 == 0:
            _log.warning(
                "forwarding waits", peer=self._peer.name, reason=error.reason, error=error.message, failures=failures
            )
        await asyncio.sleep(min(pause, 3 * _BACKOFF.longest).total_seconds())


def _links(entries: Sequence[Entry]) -> list[trace.Link]:
    links = []
    for traceparent in dict.fromkeys(entry.traceparent for entry in entries if entry.traceparent):
        link = link_from_traceparent(traceparent)
        if link is not None:
            links.append(link)
        if len(links) == _MAX_LINKS:
            break
    return links
