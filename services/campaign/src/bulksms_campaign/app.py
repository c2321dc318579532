"""The composition root: every part of the service made and put together, in the order it starts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from bulksms.campaign.v1.campaign_pb2_grpc import add_CampaignServiceServicer_to_server
from bulksms.campaign.v1.contacts_pb2_grpc import add_ContactServiceServicer_to_server
from bulksms.campaign.v1.results_pb2_grpc import add_ResultServiceServicer_to_server
from bulksms_campaign.peers.dispatcher import DispatcherPeer
from bulksms_campaign.peers.ledger import LedgerPeer
from bulksms_campaign.servicers.campaigns import CampaignOperations, CampaignServicer
from bulksms_campaign.servicers.contacts import ContactServicer
from bulksms_campaign.servicers.results import ResultServicer
from bulksms_campaign.settings import Settings
from bulksms_campaign.storage.tasks import TaskKind
from bulksms_campaign.use_cases.contacts import Contacts
from bulksms_campaign.use_cases.controls import Controls
from bulksms_campaign.use_cases.drafts import Drafts
from bulksms_campaign.use_cases.enqueue import Enqueue
from bulksms_campaign.use_cases.imports import Imports
from bulksms_campaign.use_cases.preview import Previews
from bulksms_campaign.use_cases.results import Results
from bulksms_campaign.use_cases.signals import Signals
from bulksms_campaign.use_cases.status import StatusReader
from bulksms_campaign.workers.completion import Completion
from bulksms_campaign.workers.control import Control
from bulksms_campaign.workers.counting import Counting
from bulksms_campaign.workers.launch import Launch
from bulksms_campaign.workers.opt_out_publisher import OptOutPublisher
from bulksms_campaign.workers.reservation_closer import ReservationCloser
from bulksms_campaign.workers.schedule import Schedule
from bulksms_campaign.workers.standstill import Standstill
from bulksms_campaign.workers.task_worker import TaskWorker, Work
from servicekit.clock import Clock, SystemClock
from servicekit.database import Database
from servicekit.grpc.server import build_server
from servicekit.lifecycle import Component, closing
from servicekit.worker import PeriodicWorker

PACKAGE = "bulksms.campaign.v1"
PEER_TIMEOUT = timedelta(seconds=5)
SUBMIT_TIMEOUT = timedelta(minutes=10)


async def build(settings: Settings) -> Sequence[Component]:
    """The service's components, in the order they start; they stop in the reverse of it."""
    clock, signals = SystemClock(), Signals()
    database = Database.from_settings(settings)
    ledger = LedgerPeer(settings.ledger_address, timeout=timedelta(seconds=settings.reserve_timeout_seconds))
    dispatcher = DispatcherPeer(settings.dispatcher_address, timeout=PEER_TIMEOUT, stream_timeout=SUBMIT_TIMEOUT)
    enqueue = Enqueue(database, ledger, signals, batch_size=settings.estimated_batch_size)
    operations = CampaignOperations(
        drafts=Drafts(database, signals, clock),
        enqueue=enqueue,
        controls=Controls(database, signals),
        previews=Previews(
            database, ledger, clock, batch_size=settings.estimated_batch_size, render_limit=settings.preview_limit
        ),
        statuses=StatusReader(database, clock, watch_limit=settings.watch_limit),
    )
    imports = Imports(database, signals, concurrency=settings.import_concurrency, max_bytes=settings.import_max_bytes)
    server = build_server(
        settings,
        [
            (
                add_CampaignServiceServicer_to_server,
                CampaignServicer(database, operations),
                f"{PACKAGE}.CampaignService",
            ),
            (
                add_ContactServiceServicer_to_server,
                ContactServicer(database, Contacts(database, signals), imports),
                f"{PACKAGE}.ContactService",
            ),
            (
                add_ResultServiceServicer_to_server,
                ResultServicer(Results(database, signals)),
                f"{PACKAGE}.ResultService",
            ),
        ],
        endless_methods=[f"{PACKAGE}.CampaignService/WatchCampaign"],
    )
    return [
        database,
        closing("ledger channel", ledger.close),
        closing("dispatcher channel", dispatcher.close),
        *_workers(settings, database, signals, ledger, dispatcher, enqueue, clock),
        server,
    ]


def _workers(
    settings: Settings,
    database: Database,
    signals: Signals,
    ledger: LedgerPeer,
    dispatcher: DispatcherPeer,
    enqueue: Enqueue,
    clock: Clock,
) -> list[PeriodicWorker]:
    launch = Launch(database, dispatcher, signals, chunk_size=settings.submit_chunk_size)
    workers: list[PeriodicWorker] = []

    def add(kind: TaskKind, work: Work, number: int = 1) -> list[PeriodicWorker]:
        tasks = TaskWorker(database, kind, work, lease=settings.lease)
        added = [tasks.worker(index) for index in range(number)]
        workers.extend(added)
        return added

    for worker in add(TaskKind.LAUNCH, launch.work, settings.launch_workers):
        signals.launch.listen(worker.notify)
    for worker in add(TaskKind.CONTROL, Control(database, dispatcher).work):
        signals.control.listen(worker.notify)
    for worker in add(TaskKind.CLOSE_RESERVATION, ReservationCloser(database, ledger).work):
        signals.close_reservation.listen(worker.notify)
    for worker in add(TaskKind.DELIVER_OPT_OUTS, OptOutPublisher(database, dispatcher).work):
        signals.deliver_opt_outs.listen(worker.notify)
    for worker in add(TaskKind.COUNT, Counting(database).work):
        signals.count.listen(worker.notify)
    for worker in add(TaskKind.COMPLETE, Completion(database, signals).work):
        signals.complete.listen(worker.notify)
    add(TaskKind.WATCH_HOLD, Standstill(database, dispatcher, clock).work)
    add(TaskKind.START_SCHEDULED, Schedule(database, enqueue, clock).work)
    return workers
