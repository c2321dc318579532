"""Whether a gRPC server says that it serves."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from devstack.ports import accepts_connections

_TIMEOUT_SECONDS = 2.0


def is_serving(port: int, service: str = "") -> bool:
    """Ask the standard health service on `port` of 127.0.0.1; an error means no."""
    if not accepts_connections(port):  # cheaper than a channel, and without its back-off
        return False
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=_TIMEOUT_SECONDS
            )
        except grpc.RpcError:
            return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
