"""A service as the stack knows them (`migrate`, then `serve` with gRPC health), with nothing in it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import asyncpg
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


async def migrate() -> None:
    if os.environ.get("TOY_FAULT") == "migration":
        sys.exit("the migration found a table it does not know")
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    await connection.execute("CREATE TABLE IF NOT EXISTS migrated (at timestamptz DEFAULT now())")
    await connection.execute("INSERT INTO migrated DEFAULT VALUES")
    await connection.close()


def serve() -> None:
    if os.environ.get("TOY_FAULT") == "start":
        sys.exit("GRPC_LISTEN: no such interface")
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    servicer = health.HealthServicer()
    if os.environ.get("TOY_FAULT") != "sick":
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    else:
        servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(os.environ["GRPC_LISTEN"])
    server.start()
    print("toy serves", os.environ.get("DATABASE_URL", "").rpartition("/")[2], flush=True)  # noqa: T201
    stop.wait()
    server.stop(1).wait()
    print("toy stopped", flush=True)  # noqa: T201


if __name__ == "__main__":
    if sys.argv[1] == "migrate":
        asyncio.run(migrate())
    else:
        serve()
