"""Figures of this process for whoever collects OpenTelemetry metrics."""

from __future__ import annotations

from opentelemetry import metrics

__all__ = ["Metrics"]


class Metrics:
    """Counters and histograms; attributes are few and never name a recipient."""

    def __init__(self, meter_provider: metrics.MeterProvider | None = None) -> None:
        meter = metrics.get_meter("bulksms.dispatcher.metrics", meter_provider=meter_provider)
        self.batches = meter.create_counter("dispatcher.batches", description="Attempts by outcome and reason")
        self.dead = meter.create_counter(
            "dispatcher.batches.dead", description="Batches given up without having been sent, by reason"
        )
        self.messages = meter.create_counter("dispatcher.messages", description="Messages by outcome")
        self.provider_seconds = meter.create_histogram(
            "dispatcher.provider.duration", unit="s", description="From the first byte of a request to its outcome"
        )
        self.pacing_waits = meter.create_counter("dispatcher.pacing.waits", description="Permits refused, by scope")
        self.pacing_expired = meter.create_counter(
            "dispatcher.pacing.expired", description="Permits handed back because they were too old to be used"
        )
        self.pacing_available = meter.create_gauge(
            "dispatcher.pacing.available", description="1 while Redis answers, 0 while sending is stopped"
        )
        self.account_held = meter.create_gauge(
            "dispatcher.account.held", description="1 while the traffic account is held: only probes are sent"
        )
        self.refreshes = meter.create_counter(
            "dispatcher.refreshes", description="Messages the provider was asked about, by result and status"
        )
        self.queue_batches = meter.create_gauge("dispatcher.queue.batches", description="Batches not final, by state")
        self.queue_oldest_ready = meter.create_gauge(
            "dispatcher.queue.oldest_ready", unit="s", description="How long the batch that waits longest has been due"
        )
        self.stops = meter.create_gauge("dispatcher.stops", description="Stops by operators that are in force")
        self.outbox_pending = meter.create_gauge(
            "dispatcher.outbox.pending", description="Outbox entries not acknowledged yet"
        )
        self.outbox_oldest = meter.create_gauge(
            "dispatcher.outbox.oldest", unit="s", description="Age of the oldest outbox entry that was not refused"
        )
        self.outbox_acknowledged = meter.create_counter(
            "dispatcher.outbox.acknowledged", description="Outbox entries acknowledged"
        )
        self.outbox_refused = meter.create_counter(
            "dispatcher.outbox.refused", description="Outbox entries refused for good, by reason; they are kept"
        )
        self.alarms = meter.create_counter(
            "dispatcher.alarms",
            description="What a person should look at: responses that cannot be matched, refusals of the account",
        )
        self.evidence = meter.create_counter(
            "dispatcher.evidence", description="Reports for unknown message ids, by what they proved"
        )
        self.uncaptured = meter.create_counter(
            "dispatcher.credits.uncaptured", description="Messages proved sent after their reservation was closed"
        )
        self.authorizations_refused = meter.create_counter(
            "dispatcher.authorizations.refused", description="Attempts the ledger did not allow to send, by reason"
        )
        self.journal_failures = meter.create_counter(
            "dispatcher.journal.failures", description="Responses that could not be written to the journal"
        )
        self.journal_recovered = meter.create_counter(
            "dispatcher.journal.recovered", description="Responses of a process that died, read back from its journal"
        )
        self.deferred = meter.create_counter(
            "dispatcher.deferred", description="Recipients deferred because an earlier message to them is unresolved"
        )
