"""The composition root: everything made once, in the order it starts."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from bulksms.campaign.v1.results_pb2_grpc import ResultServiceStub
from bulksms.dispatcher.v1.dispatch_pb2_grpc import add_DispatchServiceServicer_to_server
from bulksms.dispatcher.v1.messages_pb2_grpc import add_MessageServiceServicer_to_server
from bulksms.dispatcher.v1.queue_pb2_grpc import add_QueueServiceServicer_to_server
from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.known_ids import KnownIds
from bulksms_dispatcher.domain.outbox import OutboxKind
from bulksms_dispatcher.domain.rate_limits import Limit
from bulksms_dispatcher.journal.journal import Journal
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.pacing.current import CurrentLimits
from bulksms_dispatcher.pacing.gate import PacingGate
from bulksms_dispatcher.pacing.in_flight import InFlightTracker
from bulksms_dispatcher.pacing.limiter import Limiter
from bulksms_dispatcher.peers.campaign import CampaignPeer
from bulksms_dispatcher.peers.ledger import LedgerPeer
from bulksms_dispatcher.providers.lookup import MessageLookup
from bulksms_dispatcher.providers.mitto import MittoClient
from bulksms_dispatcher.servicers.dispatch import DispatchServicer
from bulksms_dispatcher.servicers.messages import MessageServicer
from bulksms_dispatcher.servicers.queue import QueueServicer
from bulksms_dispatcher.settings import Settings
from bulksms_dispatcher.use_cases.awaited_reports import AwaitedReports
from bulksms_dispatcher.use_cases.batch_sizes import BatchSizes
from bulksms_dispatcher.use_cases.campaign_control import CampaignControl
from bulksms_dispatcher.use_cases.delivery_evidence import DeliveryEvidenceIntake
from bulksms_dispatcher.use_cases.evidence import EvidenceSearch
from bulksms_dispatcher.use_cases.intake import Intake
from bulksms_dispatcher.use_cases.paced_questions import PacedQuestions, QuestionKind
from bulksms_dispatcher.use_cases.requeues import Requeues
from bulksms_dispatcher.use_cases.resolutions import Resolutions
from bulksms_dispatcher.use_cases.signals import MessageSignals
from bulksms_dispatcher.use_cases.single_sends import SingleSends
from bulksms_dispatcher.use_cases.status_questions import StatusQuestions
from bulksms_dispatcher.workers.capture_publisher import CapturePublisher
from bulksms_dispatcher.workers.credit_publisher import CreditPublisher
from bulksms_dispatcher.workers.deferral import Deferral
from bulksms_dispatcher.workers.heartbeat import Heartbeat
from bulksms_dispatcher.workers.journal_recovery import JournalRecovery
from bulksms_dispatcher.workers.lanes import Lanes
from bulksms_dispatcher.workers.outbox import Publisher, flush
from bulksms_dispatcher.workers.pool import SenderPool
from bulksms_dispatcher.workers.preparation import Preparation
from bulksms_dispatcher.workers.queue_signal import QueueSignal
from bulksms_dispatcher.workers.queue_watch import QueueWatch
from bulksms_dispatcher.workers.reaper import Reaper
from bulksms_dispatcher.workers.recorder import Recorder
from bulksms_dispatcher.workers.report_refresher import ReportRefresher
from bulksms_dispatcher.workers.result_publisher import ResultPublisher
from bulksms_dispatcher.workers.retention import Retention
from bulksms_dispatcher.workers.sender import Sender
from bulksms_dispatcher.workers.sweeper import Sweeper
from bulksms_dispatcher.workers.transmission import Transmission
from servicekit.clock import SystemClock
from servicekit.database import Database
from servicekit.grpc.client import open_channel
from servicekit.grpc.server import Servicer, build_server
from servicekit.lifecycle import Component, closing
from servicekit.worker import PeriodicWorker

__all__ = ["MIGRATIONS", "build"]

MIGRATIONS = Path(__file__).parent / "migrations"

_OUTBOX_POLL = timedelta(seconds=1)
# One round delivers all that was recorded meanwhile: it has six round trips to the database, however little it does.
_OUTBOX_LINGER = timedelta(milliseconds=50)
_REDIS_TIMEOUT_SECONDS = 2.0
_REFRESH_POLL = timedelta(seconds=1)
_REFRESHES_AT_ONCE = 8
_STATUS_QUESTIONS_AT_ONCE = 8
_EVIDENCE_AT_ONCE = 16
_RECOVERY_POLL = timedelta(seconds=10)
_RETENTION_POLL = timedelta(minutes=10)
_WATCH_POLL = timedelta(seconds=15)
_SWEEP_POLL = timedelta(seconds=15)
_EVIDENCE_POLL = timedelta(seconds=0.5)
_OUTBOX_FLUSH = timedelta(seconds=3)


async def build(settings: Settings) -> Sequence[Component]:
    """All components of a dispatcher process."""
    clock, metrics, signals, known = SystemClock(), Metrics(), MessageSignals(), KnownIds()
    worker = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
    database = Database.from_settings(settings, application_name=settings.name)
    redis = _open_redis(settings)
    campaign_channel = open_channel(settings.campaign_address, idempotent_methods=["bulksms.campaign.v1.ResultService"])
    ledger_channel = open_channel(settings.ledger_address, idempotent_methods=["bulksms.ledger.v1.LedgerService"])
    provider = MittoClient(
        settings.mitto_base_url,
        settings.mitto_api_key,
        settings.timeouts,
        connections=settings.worker_concurrency + 1,
        keepalive=timedelta(seconds=settings.mitto_keepalive_seconds),
    )

    campaign, ledger = CampaignPeer(ResultServiceStub(campaign_channel)), LedgerPeer(LedgerServiceStub(ledger_channel))
    publishers: list[Publisher] = [
        ResultPublisher(database, campaign, metrics, worker),
        CapturePublisher(database, ledger, metrics, worker),
        CreditPublisher(database, ledger, metrics, worker),
    ]
    outbox = {
        publisher.kind: PeriodicWorker(publisher.name, _OUTBOX_POLL, publisher.deliver_once, linger=_OUTBOX_LINGER)
        for publisher in publishers
    }

    limits = CurrentLimits(database, settings.limits)
    limiter = Limiter(
        redis,
        key_prefix=settings.redis_key_prefix,
        traffic_account_id=settings.mitto_traffic_account_id,
        limits=limits,
        slowdown=settings.slowdown,
        refreshes=Limit(settings.status_refresh_max),
    )
    tracker = InFlightTracker(limiter, timedelta(milliseconds=settings.rate_limit_arrival_grace_ms), metrics)
    lanes = Lanes(database, worker, settings.lease, clock)
    gate = PacingGate(limiter, metrics, lanes.notify)
    queue_signal = QueueSignal(redis, settings.redis_key_prefix, lanes.notify)

    def on_recorded(batch: LeasedBatch) -> None:
        if batch.is_single_message:
            outbox[OutboxKind.MESSAGE_CREDIT].notify()
            signals.notify(batch.submission_id)
        else:
            outbox[OutboxKind.CAMPAIGN].notify()
            outbox[OutboxKind.CAPTURE].notify()

    def on_returned(batch: LeasedBatch, delay: timedelta) -> None:
        lanes.notify_after(delay)
        if batch.is_single_message:
            signals.notify(batch.submission_id)

    def on_change() -> None:
        for publisher in outbox.values():
            publisher.notify()
        queue_signal.notify()

    sizes = BatchSizes(database, settings.mitto_traffic_account_id, settings.batch_sizes)
    recorder = Recorder(
        database,
        limiter,
        metrics,
        worker=worker,
        retry_policy=settings.retry_policy,
        account_pause=timedelta(seconds=settings.account_pause_seconds),
        retryable_rejections=settings.retryable_rejections,
        on_recorded=on_recorded,
        on_returned=on_returned,
    )
    journal = Journal(settings.journal_path, metrics)
    recovery = JournalRecovery(journal, database, recorder, known, metrics)
    preparation = Preparation(
        database,
        limiter,
        recorder,
        Deferral(
            database, recorder, metrics, worker=worker, delay=timedelta(seconds=settings.deferred_recheck_seconds)
        ),
        sizes,
        metrics,
        worker=worker,
        traffic_account_id=settings.mitto_traffic_account_id,
        use_bulk=settings.use_bulk_sms,
    )
    transmission = Transmission(database, recorder, journal, worker=worker, lease=settings.lease)
    sender = Sender(preparation, tracker, provider, transmission, recorder, known, sizes, metrics)

    lookup = MessageLookup(
        settings.mitto_base_url,
        settings.mitto_api_key,
        timedelta(seconds=settings.mitto_soft_timeout_seconds),
        connections=_REFRESHES_AT_ONCE + _STATUS_QUESTIONS_AT_ONCE + _EVIDENCE_AT_ONCE,
    )
    questions = partial(PacedQuestions, limiter, tracker, lookup)
    awaited = AwaitedReports(database, campaign)
    report_refresher = ReportRefresher(
        database,
        questions(QuestionKind.REFRESH, at_once=_REFRESHES_AT_ONCE),
        awaited,
        metrics,
        settings.refresh_schedule,
    )

    evidence = EvidenceSearch(
        database,
        questions(QuestionKind.EVIDENCE, at_once=_EVIDENCE_AT_ONCE),
        known,
        metrics,
        concurrency=_EVIDENCE_AT_ONCE,
        window=timedelta(seconds=settings.evidence_window_seconds),
        on_change=on_change,
    )
    # Half a lease: a worker that waits for the database tries every two seconds, and connects within five.
    horizon = timedelta(hours=settings.ambiguity_horizon_hours)
    reaper = Reaper(database, horizon, on_change, grace=settings.lease / 2, clock=clock)
    intake = Intake(
        database,
        clock,
        batch_size=lambda: sizes.current,
        backlog_limit=settings.backlog_limit,
        on_stored=queue_signal.notify,
    )
    # Their slots are not the refresher's: who asks waits for the answer.
    statuses = StatusQuestions(database, questions(QuestionKind.REFRESH, at_once=_STATUS_QUESTIONS_AT_ONCE), awaited)
    singles = SingleSends(database, ledger, signals, clock, notify=queue_signal.notify)
    servicers: list[Servicer] = [
        (
            add_DispatchServiceServicer_to_server,
            DispatchServicer(database, intake, CampaignControl(database, on_change)),
            "bulksms.dispatcher.v1.DispatchService",
        ),
        (
            add_MessageServiceServicer_to_server,
            MessageServicer(database, singles, statuses, DeliveryEvidenceIntake(database, evidence)),
            "bulksms.dispatcher.v1.MessageService",
        ),
        (
            add_QueueServiceServicer_to_server,
            QueueServicer(database, gate, limits, Requeues(database, on_change), Resolutions(database, on_change)),
            "bulksms.dispatcher.v1.QueueService",
        ),
    ]
    return [
        database,
        closing("redis", redis.aclose),
        closing("campaign channel", campaign_channel.close),
        closing("ledger channel", ledger_channel.close),
        closing("provider", provider.close),
        closing("message lookup", lookup.close),
        tracker,
        PeriodicWorker("bulksms.dispatcher.batch_sizes", timedelta(seconds=1), sizes.refresh_once),
        PeriodicWorker("bulksms.dispatcher.rate_limits", timedelta(seconds=1), limits.refresh_once),
        PeriodicWorker("bulksms.dispatcher.pacing_gate", timedelta(seconds=PacingGate.poll_seconds), gate.watch_once),
        Heartbeat(database, worker),
        *(
            [PeriodicWorker("bulksms.dispatcher.report_refresher", _REFRESH_POLL, report_refresher.refresh_once)]
            if settings.status_refresh_max
            else []
        ),
        PeriodicWorker("bulksms.dispatcher.queue_watch", _WATCH_POLL, QueueWatch(database, metrics).look_once),
        PeriodicWorker("bulksms.dispatcher.evidence", _EVIDENCE_POLL, evidence.look_once),
        *(
            [
                PeriodicWorker(
                    "bulksms.dispatcher.retention", _RETENTION_POLL, Retention(database, settings.retention).delete_once
                )
            ]
            if settings.retention_days
            else []
        ),
        PeriodicWorker("bulksms.dispatcher.sweeper", _SWEEP_POLL, Sweeper(database, ledger).sweep_once),
        PeriodicWorker("bulksms.dispatcher.reaper", timedelta(seconds=1), reaper.reap_once),
        *outbox.values(),
        closing("outbox flush", partial(flush, publishers, _OUTBOX_FLUSH)),
        queue_signal,
        journal,
        PeriodicWorker("bulksms.dispatcher.journal_recovery", _RECOVERY_POLL, recovery.recover_once),
        SenderPool(lanes, sender, gate, settings.worker_concurrency),
        build_server(settings, servicers),
    ]


def _open_redis(settings: Settings) -> Redis:
    """Without retries: who asks decides what it means that Redis is away."""
    pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
        settings.redis_url.get_secret_value(),
        max_connections=settings.worker_concurrency + 8,
        timeout=_REDIS_TIMEOUT_SECONDS,
        socket_timeout=_REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=_REDIS_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)
