"""The webhook: who may report, what is taken, and what is answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, StatusCode

from bulksms_dlr_gateway.domain.entries import Entry
from bulksms_dlr_gateway.domain.payload import Payload, Rejected, TooManyReportsError, UnreadableBodyError, parse
from bulksms_dlr_gateway.domain.reports import microseconds
from bulksms_dlr_gateway.http.messages import Head, Response, json_response
from bulksms_dlr_gateway.http.secret_guard import SecretGuard
from bulksms_dlr_gateway.metrics import HttpMetrics
from bulksms_dlr_gateway.storage.spool import Spool, SpoolFullError
from servicekit import logs
from servicekit.clock import Clock

__all__ = ["DeliveryReportHandler"]

_log = logs.get_logger("bulksms.dlr_gateway.webhook")
_tracer = trace.get_tracer("bulksms.dlr_gateway.webhook")

REPORTS_PATH = b"/v1/mitto/delivery-reports"
_ROUTE = REPORTS_PATH.decode()
_HEALTH_PATHS = frozenset({b"/healthz", b"/readyz"})
_RETRY_AFTER = "2"
_MAX_REJECTED_LISTED = 100
_MAX_RAW_BODY = 16_384
_REFUSAL_LOG_SECONDS = 10.0


class DeliveryReportHandler:
    """Answers the webhook and the health checks.

    Requests without the secret cost a hash and a counter: no span, no log line of their own, no byte of their body.
    """

    def __init__(self, spool: Spool, guard: SecretGuard, secret_header: str, clock: Clock) -> None:
        self._spool = spool
        self._guard = guard
        self._secret_header = secret_header.lower().encode()
        self._clock = clock
        self._metrics = HttpMetrics()
        self._draining = False
        self._refusals = _RefusalLog(clock.monotonic)

    def drain(self) -> None:
        """Be not ready from now on."""
        self._draining = True

    def admit(self, head: Head) -> Response | None:
        """Refuse what is not for us, by path, method and secret."""
        if head.path in _HEALTH_PATHS:
            return None if head.method in {"GET", "HEAD"} else _refusal(405, "METHOD_NOT_ALLOWED", allow="GET, HEAD")
        refusal = self._refusal_of(head)
        return None if refusal is None else self._refused(*refusal)

    async def respond(self, head: Head, body: bytes) -> Response:
        """Store the reports of an admitted request; 200 is only said when they are on disk."""
        if head.path in _HEALTH_PATHS:
            response = _ALIVE if head.path == b"/healthz" else self._readiness()
            return response if head.method == "GET" else replace(response, body=b"")
        # A root of its own: whoever reports cannot decide where our traces hang. It is handed on
        # rather than made the current one: nothing below starts another, and that costs 10 µs.
        span = _tracer.start_span(f"POST {_ROUTE}", Context(), SpanKind.SERVER)
        try:
            response = await self._take(body, span)
            if span.is_recording():
                # The route, not the path: that may hold the secret.
                span.set_attributes(
                    {
                        "http.request.method": "POST",
                        "http.route": _ROUTE,
                        "http.request.body.size": len(body),
                        "http.response.status_code": response.status,
                    }
                )
                if response.status >= 500:
                    span.set_status(StatusCode.ERROR)
        except BaseException:
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            span.end()
        return response

    def _refusal_of(self, head: Head) -> tuple[Response, str] | None:
        path = head.path
        if path != REPORTS_PATH and not path.startswith(REPORTS_PATH + b"/"):
            return _refusal(404, "NOT_FOUND"), "NOT_FOUND"
        if head.method != "POST":
            return _refusal(405, "METHOD_NOT_ALLOWED", allow="POST"), "METHOD_NOT_ALLOWED"
        segment = path[len(REPORTS_PATH) + 1 :]
        candidate = unquote_to_bytes(segment) if segment else head.headers.get(self._secret_header, b"")
        if not self._guard.admits(candidate):
            status, reason = (403, "SECRET_WRONG") if candidate else (401, "SECRET_MISSING")
            return _refusal(status, reason), reason
        if head.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            return _refusal(415, "ENCODING_NOT_SUPPORTED"), "ENCODING_NOT_SUPPORTED"
        return None

    async def _take(self, body: bytes, span: trace.Span) -> Response:
        try:
            payload = parse(body)
        except TooManyReportsError:
            return self._refused(_refusal(413, "TOO_MANY_REPORTS"), "TOO_MANY_REPORTS")
        except UnreadableBodyError as error:
            # Mitto's format is known in part only: what it really sent is worth keeping.
            raw = body[:_MAX_RAW_BODY].decode("utf-8", "replace")
            payload = Payload((), [Rejected(0, error.reason, raw)] if raw else ())
            refusal = self._refused(_refusal(400, error.reason, str(error)), error.reason)
            return await self._store(payload, refusal, span)
        reports, rejected = payload.reports, payload.rejected
        if not rejected:
            return await self._store(payload, _all_accepted(len(reports)), span)
        outcome = {
            "accepted": len(reports),
            "rejected": len(rejected),
            "errors": [{"index": item.index, "reason": item.reason} for item in rejected[:_MAX_REJECTED_LISTED]],
        }
        return await self._store(payload, json_response(200 if reports else 400, outcome), span)

    async def _store(self, payload: Payload, response: Response, span: trace.Span) -> Response:
        """The response when everything is on disk, else a 503."""
        received_at = microseconds(self._clock.now())
        traceparent = ""
        if span.is_recording():
            traceparent = _traceparent(span)
            span.set_attributes({"dlr.accepted": len(payload.reports), "dlr.rejected": len(payload.rejected)})
        entries = [Entry(report, received_at, traceparent) for report in payload.reports]
        try:
            committed = self._spool.append(entries, payload.rejected)
            await asyncio.shield(committed)
        except SpoolFullError as error:
            return self._refused(_refusal(503, error.reason, retry_after=_RETRY_AFTER), error.reason)
        self._metrics.stored([report.status for report in payload.reports], [item.reason for item in payload.rejected])
        return response

    def _readiness(self) -> Response:
        reason = "STOPPING" if self._draining else self._spool.closed_because
        return json_response(503, {"status": "not ready", "reason": reason}) if reason else _READY

    def _refused(self, response: Response, reason: str) -> Response:
        self._metrics.refused(reason)
        self._refusals.note(reason)
        return response


_ALIVE = json_response(200, {"status": "ok"})
_READY = json_response(200, {"status": "ready"})


@lru_cache(maxsize=256)
def _all_accepted(count: int) -> Response:
    return json_response(200, {"accepted": count, "rejected": 0})


def _traceparent(span: trace.Span) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _refusal(status: int, reason: str, message: str = "", **headers: str) -> Response:
    return json_response(status, {"reason": reason, **({"message": message} if message else {})}, **headers)


class _RefusalLog:
    """At most one line every ten seconds, with counts: a flood of forged reports must not become one of log lines."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._next = monotonic()
        self._counts: Counter[str] = Counter()

    def note(self, reason: str) -> None:
        self._counts[reason] += 1
        now = self._monotonic()
        if now >= self._next:
            self._next = now + _REFUSAL_LOG_SECONDS
            _log.warning("requests refused", reasons=[f"{name}: {count}" for name, count in self._counts.items()])
            self._counts.clear()
