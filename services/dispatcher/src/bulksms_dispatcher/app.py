"""The composition root: everything made once, in the order it starts."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from uuid import uuid4

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
from bulksms_dispatcher.pacing.connection import open_redis
from bulksms_dispatcher.pacing.current import CurrentLimits
from bulksms_dispatcher.pacing.gate import PacingGate
from bulksms_dispatcher.pacing.in_flight import InFlightTracker
from bulksms_dispatcher.pacing.limiter import Limiter
from bulksms_dispatcher.peers.campaign import CampaignPeer
from bulksms_dispatcher.peers.ledger import IDEMPOTENT_METHODS, LedgerPeer
from bulksms_dispatcher.providers.lookup import MessageLookup
from bulksms_dispatcher.providers.mitto import MittoClient
from bulksms_dispatcher.servicers.dispatch import DispatchServicer
from bulksms_dispatcher.servicers.messages import MessageServicer
from bulksms_dispatcher.servicers.queue import QueueServicer
from bulksms_dispatcher.settings import Settings
from bulksms_dispatcher.use_cases.awaited_reports import AwaitedReports
from bulksms_dispatcher.use_cases.batch_sizes import BatchSizes
from bulksms_dispatcher.use_cases.bulk_resolutions import BulkResolutions
from bulksms_dispatcher.use_cases.campaign_control import CampaignControl
from bulksms_dispatcher.use_cases.campaign_holds import CampaignHolds
from bulksms_dispatcher.use_cases.delivery_evidence import DeliveryEvidenceIntake
from bulksms_dispatcher.use_cases.evidence import EvidenceSearch
from bulksms_dispatcher.use_cases.intake import Intake
from bulksms_dispatcher.use_cases.paced_questions import PacedQuestions, QuestionKind
from bulksms_dispatcher.use_cases.republishing import Republishing
from bulksms_dispatcher.use_cases.resolutions import Resolutions
from bulksms_dispatcher.use_cases.sending_control import SendingControl
from bulksms_dispatcher.use_cases.signals import MessageSignals
from bulksms_dispatcher.use_cases.single_sends import SingleSends
from bulksms_dispatcher.use_cases.status_questions import StatusQuestions
from bulksms_dispatcher.workers.capture_publisher import CapturePublisher
from bulksms_dispatcher.workers.credit_publisher import CreditPublisher
from bulksms_dispatcher.workers.deferral import Deferral
from bulksms_dispatcher.workers.heartbeat import Heartbeat
from bulksms_dispatcher.workers.id_recall import IdRecall
from bulksms_dispatcher.workers.journal_recovery import JournalRecovery
from bulksms_dispatcher.workers.lanes import Lanes
from bulksms_dispatcher.workers.late_batches import LateBatches
from bulksms_dispatcher.workers.outbox import Outbox
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
from bulksms_dispatcher.workers.traffic_account import TrafficAccount
from bulksms_dispatcher.workers.transmission import Transmission
from servicekit.clock import SystemClock
from servicekit.database import Database
from servicekit.grpc.client import open_channel
from servicekit.grpc.server import Servicer, build_server
from servicekit.lifecycle import Component, closing
from servicekit.worker import PeriodicWorker

__all__ = ["MIGRATIONS", "build"]

MIGRATIONS = Path(__file__).parent / "migrations"

_SECOND = timedelta(seconds=1)
_EVIDENCE_POLL = timedelta(seconds=0.5)
_RECOVERY_POLL = timedelta(seconds=10)
_WATCH_POLL = timedelta(seconds=15)
_SWEEP_POLL = timedelta(seconds=15)
_RETENTION_POLL = timedelta(minutes=10)
_QUESTIONS_AT_ONCE = {"refreshes": 8, "statuses": 8, "evidence": 16}


async def build(settings: Settings) -> Sequence[Component]:
    """All components of a dispatcher process."""
    return _Composition(settings).components()


class _Composition:
    """Every part is made once, when it is first asked for; `components` has the order in which they start."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._account = settings.mitto_traffic_account_id
        self._worker = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._clock, self._metrics = SystemClock(), Metrics()
        self._known = KnownIds(clock=self._clock if settings.provider_ids_carry_time else None)
        self._message_signals = MessageSignals()
        self._database = Database.from_settings(settings, application_name=settings.name)
        self._redis = open_redis(settings.redis_url, connections=settings.worker_concurrency + 8)
        self._campaign_channel = open_channel(
            settings.campaign_address, idempotent_methods=["bulksms.campaign.v1.ResultService"]
        )
        self._ledger_channel = open_channel(settings.ledger_address, idempotent_methods=IDEMPOTENT_METHODS)
        self._campaign = CampaignPeer(ResultServiceStub(self._campaign_channel))
        self._ledger = LedgerPeer(LedgerServiceStub(self._ledger_channel))

    def components(self) -> Sequence[Component]:
        """In the order they start; they stop the other way round."""
        return [
            self._database,
            closing("redis", self._redis.aclose),
            closing("campaign channel", self._campaign_channel.close),
            closing("ledger channel", self._ledger_channel.close),
            closing("provider", self._provider.close),
            closing("message lookup", self._lookup.close),
            IdRecall(self._database, self._known),
            self._tracker,
            PeriodicWorker("bulksms.dispatcher.batch_sizes", _SECOND, self._sizes.refresh_once),
            PeriodicWorker("bulksms.dispatcher.rate_limits", _SECOND, self._limits.refresh_once),
            PeriodicWorker("bulksms.dispatcher.pacing_gate", _SECOND, self._gate.watch_once),
            Heartbeat(self._database, self._worker),
            *self._housekeepers(),
            *self._outbox.components,
            self._queue_signal,
            self._journal,
            PeriodicWorker("bulksms.dispatcher.journal_recovery", _RECOVERY_POLL, self._recovery.recover_once),
            SenderPool(self._lanes, self._sender, self._gate, self._settings.worker_concurrency),
            build_server(self._settings, self._servicers()),
        ]

    # What is recorded or changed, and who must know of it.

    def _on_recorded(self, batch: LeasedBatch) -> None:
        if batch.is_single_message:
            self._outbox.notify(OutboxKind.MESSAGE_CREDIT)
            self._message_signals.notify(batch.submission_id)
        else:
            self._outbox.notify(OutboxKind.CAMPAIGN, OutboxKind.CAPTURE)

    def _on_returned(self, batch: LeasedBatch, delay: timedelta) -> None:
        self._lanes.notify_after(delay)
        if batch.is_single_message:
            self._message_signals.notify(batch.submission_id)

    def _on_change(self) -> None:
        self._outbox.notify()
        self._queue_signal.notify()

    def _on_account_change(self) -> None:
        self._queue_signal.notify()

    # Pacing.

    @cached_property
    def _limits(self) -> CurrentLimits:
        return CurrentLimits(self._database, self._settings.limits)

    @cached_property
    def _limiter(self) -> Limiter:
        return Limiter(
            self._redis,
            key_prefix=self._settings.redis_key_prefix,
            traffic_account_id=self._account,
            limits=self._limits,
            slowdown=self._settings.slowdown,
            refreshes=Limit(self._settings.status_refresh_max or None),
        )

    @cached_property
    def _tracker(self) -> InFlightTracker:
        grace = timedelta(milliseconds=self._settings.rate_limit_arrival_grace_ms)
        return InFlightTracker(self._limiter, grace, self._metrics)

    @cached_property
    def _gate(self) -> PacingGate:
        return PacingGate(self._limiter, self._metrics, self._clock, self._lanes.notify)

    # Sending.

    @cached_property
    def _lanes(self) -> Lanes:
        return Lanes(self._database, self._traffic_account, self._worker, self._settings.lease, self._clock)

    @cached_property
    def _traffic_account(self) -> TrafficAccount:
        return TrafficAccount(
            self._database,
            self._account,
            self._settings.hold_rules,
            self._limiter,
            self._metrics,
            self._clock,
            probe_ttl=self._settings.lease,
            on_change=self._on_account_change,
        )

    @cached_property
    def _queue_signal(self) -> QueueSignal:
        return QueueSignal(self._redis, self._settings.redis_key_prefix, self._lanes.notify)

    @cached_property
    def _sizes(self) -> BatchSizes:
        return BatchSizes(self._database, self._account, self._settings.batch_sizes)

    @cached_property
    def _recorder(self) -> Recorder:
        return Recorder(
            self._database,
            self._ledger,
            self._limiter,
            self._metrics,
            worker=self._worker,
            retry_policy=self._settings.retry_policy,
            account_pause=timedelta(seconds=self._settings.account_pause_seconds),
            retryable_rejections=self._settings.retryable_rejections,
            on_recorded=self._on_recorded,
            on_returned=self._on_returned,
        )

    @cached_property
    def _journal(self) -> Journal:
        return Journal(self._settings.journal_path, self._metrics)

    @cached_property
    def _recovery(self) -> JournalRecovery:
        return JournalRecovery(
            self._journal, self._database, self._recorder, self._known, self._metrics, self._settings.promises
        )

    @cached_property
    def _provider(self) -> MittoClient:
        return MittoClient(
            self._settings.mitto_base_url,
            self._settings.mitto_api_key,
            self._settings.timeouts,
            connections=self._settings.worker_concurrency + 1,
            keepalive=timedelta(seconds=self._settings.mitto_keepalive_seconds),
        )

    @cached_property
    def _sender(self) -> Sender:
        recheck = timedelta(seconds=self._settings.deferred_recheck_seconds)
        preparation = Preparation(
            self._database,
            self._limiter,
            self._recorder,
            Deferral(self._database, self._recorder, self._metrics, worker=self._worker, delay=recheck),
            self._sizes,
            self._metrics,
            worker=self._worker,
            traffic_account_id=self._account,
            use_bulk=self._settings.use_bulk_sms,
            on_cut=self._queue_signal.notify,
        )
        transmission = Transmission(
            self._database,
            self._ledger,
            self._recorder,
            self._journal,
            self._traffic_account,
            worker=self._worker,
            lease=self._settings.lease,
        )
        return Sender(
            preparation,
            self._tracker,
            self._provider,
            transmission,
            self._recorder,
            self._known,
            self._sizes,
            self._traffic_account,
            self._metrics,
            self._settings.promises,
        )

    # Reports to others, and questions to the provider.

    @cached_property
    def _outbox(self) -> Outbox:
        return Outbox(
            [
                ResultPublisher(self._database, self._campaign, self._metrics, self._worker),
                CapturePublisher(self._database, self._ledger, self._metrics, self._worker),
                CreditPublisher(self._database, self._ledger, self._metrics, self._worker),
            ]
        )

    @cached_property
    def _lookup(self) -> MessageLookup:
        return MessageLookup(
            self._settings.mitto_base_url,
            self._settings.mitto_api_key,
            timedelta(seconds=self._settings.mitto_soft_timeout_seconds),
            connections=sum(_QUESTIONS_AT_ONCE.values()),
        )

    def _questions(self, kind: QuestionKind, whose: str) -> PacedQuestions:
        return PacedQuestions(self._limiter, self._tracker, self._lookup, kind, at_once=_QUESTIONS_AT_ONCE[whose])

    @cached_property
    def _awaited(self) -> AwaitedReports:
        return AwaitedReports(self._database, self._campaign)

    @cached_property
    def _evidence(self) -> EvidenceSearch:
        return EvidenceSearch(
            self._database,
            self._questions(QuestionKind.EVIDENCE, "evidence"),
            self._known,
            self._metrics,
            concurrency=_QUESTIONS_AT_ONCE["evidence"],
            window=timedelta(seconds=self._settings.evidence_window_seconds),
            on_change=self._on_change,
        )

    def _housekeepers(self) -> Iterator[Component]:
        settings, database = self._settings, self._database
        if settings.status_refresh_max:
            questions = self._questions(QuestionKind.REFRESH, "refreshes")
            refresher = ReportRefresher(database, questions, self._awaited, self._metrics, settings.refresh_schedule)
            yield PeriodicWorker("bulksms.dispatcher.report_refresher", _SECOND, refresher.refresh_once)
        watch = QueueWatch(database, self._metrics, self._account)
        yield PeriodicWorker("bulksms.dispatcher.queue_watch", _WATCH_POLL, watch.look_once)
        yield PeriodicWorker("bulksms.dispatcher.evidence", _EVIDENCE_POLL, self._evidence.look_once)
        if settings.retention_days:
            retention = Retention(database, settings.retention)
            yield PeriodicWorker("bulksms.dispatcher.retention", _RETENTION_POLL, retention.delete_once)
        yield PeriodicWorker("bulksms.dispatcher.sweeper", _SWEEP_POLL, Sweeper(database, self._ledger).sweep_once)
        late = LateBatches(
            database,
            self._metrics,
            self._on_change,
            traffic_account_id=self._account,
            outage_patience=timedelta(hours=settings.provider_outage_patience_hours),
        )
        yield PeriodicWorker("bulksms.dispatcher.late_batches", _SECOND, late.fail_once)
        # Half a lease: a worker that waits for the database tries every two seconds, and connects within five.
        horizon, grace = timedelta(hours=settings.ambiguity_horizon_hours), settings.lease / 2
        reaper = Reaper(database, self._ledger, horizon, self._on_change, grace=grace, clock=self._clock)
        yield PeriodicWorker("bulksms.dispatcher.reaper", _SECOND, reaper.reap_once)

    # What is served.

    def _servicers(self) -> list[Servicer]:
        database, notify = self._database, self._queue_signal.notify
        intake = Intake(
            database,
            self._clock,
            batch_size=self._sizes.maximum,
            backlog_limit=self._settings.backlog_limit,
            on_stored=notify,
        )
        validity = timedelta(seconds=self._settings.message_validity_seconds)
        signals = self._message_signals
        singles = SingleSends(database, self._ledger, signals, self._clock, validity=validity, notify=notify)
        # Their slots are not the refresher's: who asks waits for the result.
        statuses = StatusQuestions(database, self._questions(QuestionKind.REFRESH, "statuses"), self._awaited)
        holds = CampaignHolds(database, self._gate, self._limits, self._account)
        dispatch = DispatchServicer(database, intake, CampaignControl(database, self._on_change), holds)
        messages = MessageServicer(database, singles, statuses, DeliveryEvidenceIntake(database, self._evidence))
        resolutions = Resolutions(database, self._account, self._on_change)
        queue = QueueServicer(
            database,
            self._gate,
            self._limits,
            resolutions,
            BulkResolutions(
                database,
                resolutions,
                traffic_account_id=self._account,
                evidence_window=timedelta(seconds=self._settings.evidence_window_seconds),
            ),
            SendingControl(database, self._on_change),
            Republishing(database, self._on_change),
            traffic_account_id=self._account,
        )
        return [
            (add_DispatchServiceServicer_to_server, dispatch, "bulksms.dispatcher.v1.DispatchService"),
            (add_MessageServiceServicer_to_server, messages, "bulksms.dispatcher.v1.MessageService"),
            (add_QueueServiceServicer_to_server, queue, "bulksms.dispatcher.v1.QueueService"),
        ]
