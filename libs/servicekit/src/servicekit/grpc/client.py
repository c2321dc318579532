"""Channels to other services: traced, bounded in time, quick to find a peer that has come back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
from opentelemetry import metrics, trace

from servicekit.grpc.calls import split_method
from servicekit.grpc.client_interceptors import client_interceptors
from servicekit.settings import Endpoint

__all__ = ["MAX_MESSAGE_BYTES", "Tls", "open_channel"]

MAX_MESSAGE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM bytes; without root certificates the system's are used, with key and chain the client shows its own."""

    root_certificates: bytes | None = None
    private_key: bytes | None = None
    certificate_chain: bytes | None = None
    server_name: str | None = None


def open_channel(
    address: Endpoint | str,
    *,
    default_timeout: timedelta = timedelta(seconds=10),
    stream_timeout: timedelta | None = timedelta(minutes=5),
    idempotent_methods: Iterable[str] = (),
    tls: Tls | None = None,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> grpc.aio.Channel:
    """A channel to `host:port` (or any gRPC target); close it with `await channel.close(grace)`.

    `idempotent_methods` are `package.Service/Method`, or `package.Service` for all of one: these are retried on
    UNAVAILABLE, up to four times within about three seconds and never beyond the call's deadline.
    """
    target = str(address)
    interceptors = client_interceptors(
        default_timeout=default_timeout,
        stream_timeout=stream_timeout,
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
    )
    options = _options(idempotent_methods)
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    credentials = grpc.ssl_channel_credentials(tls.root_certificates, tls.private_key, tls.certificate_chain)
    return grpc.aio.secure_channel(target, credentials, options=options, interceptors=interceptors)


def _options(idempotent_methods: Iterable[str]) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # A peer that vanished without a word is noticed within 30 seconds; the server permits pings from 10 s on.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # A restarted peer is found within a second; the default backs off to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        ("grpc.service_config", json.dumps(_service_config(idempotent_methods))),
        ("grpc.service_config_disable_resolution", 1),
        # A channel of our own even when another in this process has the same target and options.
        ("grpc.use_local_subchannel_pool", 1),
    ]


def _service_config(idempotent_methods: Iterable[str]) -> dict[str, Any]:
    names = []
    for path in idempotent_methods:
        service, method = split_method(path) if "/" in path.removeprefix("/") else (path.removeprefix("/"), "")
        names.append({"service": service, **({"method": method} if method else {})})
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if names:
        config["methodConfig"] = [
            {
                "name": names,
                # Five attempts is gRPC's own maximum; the pauses (each ±20 %) outlast the reconnect backoff above.
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    return config
