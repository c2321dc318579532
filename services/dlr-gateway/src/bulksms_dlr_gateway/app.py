"""The composition root: what the gateway is made of, in the order it starts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from bulksms_dlr_gateway.forwarding.delivery import Delivery
from bulksms_dlr_gateway.forwarding.forwarder import FreshLane, WaitingLane
from bulksms_dlr_gateway.forwarding.peers import CampaignPeer, DispatcherPeer
from bulksms_dlr_gateway.http.connection import ConnectionLimits
from bulksms_dlr_gateway.http.secret_guard import SecretGuard
from bulksms_dlr_gateway.http.server import HttpServer
from bulksms_dlr_gateway.http.webhook import DeliveryReportHandler
from bulksms_dlr_gateway.metrics import ForwardingMetrics, observe_spool
from bulksms_dlr_gateway.settings import Settings
from bulksms_dlr_gateway.storage.spool import Spool
from servicekit.clock import SystemClock
from servicekit.grpc.client import open_channel
from servicekit.grpc.server import build_server
from servicekit.lifecycle import Component, closing
from servicekit.worker import PeriodicWorker

__all__ = ["build"]


async def build(settings: Settings) -> Sequence[Component]:
    """The gateway's components; HTTP starts last and stops first."""
    clock = SystemClock()
    spool = Spool(settings.spool_path, clock, settings.spool_limits)
    observe_spool(lambda: spool.sizes, lambda: spool.lag)
    timeout = timedelta(seconds=settings.forward_timeout_seconds)
    campaign = open_channel(settings.campaign_address, default_timeout=timeout)
    dispatcher = open_channel(settings.dispatcher_address, default_timeout=timeout)
    metrics = ForwardingMetrics()
    to_campaign = Delivery(CampaignPeer(campaign, timeout), metrics)
    to_dispatcher = Delivery(DispatcherPeer(dispatcher, timeout), metrics)
    return [
        spool,
        PeriodicWorker("bulksms.dlr_gateway.spool_maintenance", timedelta(seconds=1), spool.maintain),
        closing("campaign channel", campaign.close),
        closing("dispatcher channel", dispatcher.close),
        WaitingLane(
            spool,
            to_campaign,
            to_dispatcher,
            settings.retry_schedule,
            clock,
            metrics,
            batch_size=settings.forward_batch_size,
        ),
        FreshLane(
            spool,
            to_campaign,
            settings.retry_schedule,
            clock,
            metrics,
            batch_size=settings.forward_batch_size,
            in_flight=settings.forward_in_flight,
            linger=timedelta(seconds=settings.forward_linger_seconds),
        ),
        build_server(settings, []),  # health and reflection only
        _http_server(settings, spool, clock),
    ]


def _http_server(settings: Settings, spool: Spool, clock: SystemClock) -> HttpServer:
    guard = SecretGuard(secret.get_secret_value() for secret in settings.dlr_secrets)
    return HttpServer(
        settings.http_listen,
        DeliveryReportHandler(spool, guard, settings.dlr_secret_header, clock),
        ConnectionLimits(
            max_body_bytes=settings.http_max_body_bytes,
            head_timeout=settings.http_head_timeout_seconds,
            body_timeout=settings.http_body_timeout_seconds,
            idle_timeout=settings.http_idle_timeout_seconds,
        ),
        max_connections=settings.http_max_connections,
        grace=settings.shutdown_grace,
    )
