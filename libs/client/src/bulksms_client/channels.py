"""Channel arguments both kinds of channel share: retries, balancing, keepalive, sizes."""

from __future__ import annotations

import json
from typing import Any

from bulksms.campaign.v1 import campaign_pb2, contacts_pb2
from bulksms.dispatcher.v1 import messages_pb2, queue_pb2
from bulksms.ledger.v1 import ledger_pb2
from bulksms_client.options import TlsOptions

__all__ = ["channel_arguments", "service_config"]

MAX_MESSAGE_BYTES = 16 * 1024 * 1024

# gRPC allows at most 5 attempts. Full attempts take about 0.1 + 0.3 + 0.9 + 2 seconds, each ±20 % jitter: long enough
# for a service to be replaced, short enough to say so. The call's deadline spans all attempts.
_RETRY_POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 3,
    "retryableStatusCodes": ["UNAVAILABLE"],
}

_SERVICES = [
    service
    for file in (campaign_pb2, contacts_pb2, ledger_pb2, messages_pb2, queue_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
]


def service_config() -> dict[str, Any]:
    """Every unary RPC is idempotent (reads, and mutations by their request id) and repeated while UNAVAILABLE.

    Streams are left out by name: one that has begun must not be begun again behind the caller's back.
    Deadlines are set call by call: Python's gRPC does not obey a service config's `timeout`.
    """
    streams = [
        {"service": service.full_name, "method": method.name}
        for service in _SERVICES
        for method in service.methods
        if method.client_streaming or method.server_streaming
    ]
    return {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {"name": [{"service": service.full_name} for service in _SERVICES], "retryPolicy": _RETRY_POLICY},
            {"name": streams},
        ],
    }


def channel_arguments(tls: TlsOptions | None) -> list[tuple[str, str | int]]:
    """Arguments of a channel."""
    arguments: list[tuple[str, str | int]] = [
        ("grpc.service_config", json.dumps(service_config())),
        # The contract is this package's: a resolver's TXT record must not replace it.
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_retries", 1),
        # A service that comes back is found within a second or two, not after gRPC's default of up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # Added replicas are looked up when a server sends a connection away for its age, not up to 30 s later.
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ]
    if tls is not None and tls.server_name:
        arguments.append(("grpc.ssl_target_name_override", tls.server_name))
    return arguments
