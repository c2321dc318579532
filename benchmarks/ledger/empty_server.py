"""A server whose only RPC does nothing: what unary gRPC in Python costs by itself, or with our skeleton around it."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import grpc
import uvloop

from servicekit import logs, telemetry
from servicekit.grpc.server import build_server
from servicekit.settings import ServiceSettings, load

_SERVICE = "benchmarks.Empty"
_RESPONSE = b"x" * 200


def main() -> None:
    """Serve on GRPC_LISTEN until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--skeleton", action="store_true", help="with the services' interceptor, log and metrics")
    uvloop.run(_serve(parser.parse_args()))


async def _serve(arguments: argparse.Namespace) -> None:
    settings = load(ServiceSettings)
    if arguments.skeleton:
        logs.configure(settings.log_level, settings.log_format)
        telemetry.setup(settings)  # exporting nothing, as the ledger that is measured beside it
        served = build_server(settings, [(_add, None, _SERVICE)])
        await served.start()
    else:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        _add(None, server)
        server.add_insecure_port(str(settings.grpc_listen))
        await server.start()
    await asyncio.Event().wait()


def _add(_servicer: object, server: grpc.aio.Server) -> None:
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {"Call": grpc.unary_unary_rpc_method_handler(_call)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))


async def _call(_request: bytes, _context: Any) -> bytes:
    return _RESPONSE


if __name__ == "__main__":
    main()
