"""A process of its own that calls a server as fast as so many concurrent callers can, and prints what it saw.

It sends requests made beforehand and does not read the responses' content: what is measured is the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

import grpc
import uvloop

from benchmarks.ledger.accounts import HotAccount
from benchmarks.report import percentile_ms
from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms_ledger.domain.attempts import Authorize
from bulksms_ledger.domain.operations import Capture

SERVICE = "/bulksms.ledger.v1.LedgerService/"
EMPTY = "/benchmarks.Empty/Call"


def main() -> None:
    """Wait for a line on standard input, then call."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("kind", choices=["empty", "capture", "batch", "authorize"])
    parser.add_argument("--callers", type=int, required=True)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--tenant", default="")
    parser.add_argument("--seed", type=int, default=0)
    sys.stdout.write(json.dumps(uvloop.run(_call(parser.parse_args()))) + "\n")


async def _call(arguments: argparse.Namespace) -> dict[str, object]:
    method, requests = _requests(arguments)
    latencies: list[float] = []
    async with grpc.aio.insecure_channel(arguments.address) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        warm = requests.pop()
        await call(warm, timeout=30)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        queue = iter(requests)

        async def caller() -> None:
            for request in queue:
                started = time.perf_counter()
                response = await call(request, timeout=30)
                latencies.append(time.perf_counter() - started)
                if arguments.kind == "batch":
                    _check(response)
                if arguments.kind == "authorize":
                    _check_authorized(response)

        async with asyncio.TaskGroup() as group:
            for _ in range(arguments.callers):
                group.create_task(caller())
    return {"p50_ms": percentile_ms(latencies, 0.50), "p99_ms": percentile_ms(latencies, 0.99)}


def _requests(arguments: argparse.Namespace) -> tuple[str, list[bytes]]:
    if arguments.kind == "empty":
        return EMPTY, [b"x" * 250] * (arguments.items + 1)
    account = HotAccount(arguments.tenant, arguments.seed)
    if arguments.kind == "capture":
        captures = account.captures(arguments.items + 1)
        return SERVICE + "Capture", [capture_request(capture).SerializeToString() for capture in captures]
    size = arguments.batch
    if arguments.kind == "authorize":
        attempts = account.authorizations((arguments.items // size + 1) * size)
        asked = [[authorization(next(attempts)) for _ in range(size)] for _ in range(arguments.items // size + 1)]
        messages = [pb.BatchAuthorizeRequest(authorizations=one).SerializeToString() for one in asked]
        return SERVICE + "BatchAuthorize", messages
    captures = account.captures((arguments.items // size + 1) * size)
    batches = [[capture_request(next(captures)) for _ in range(size)] for _ in range(arguments.items // size + 1)]
    return SERVICE + "BatchCapture", [pb.BatchCaptureRequest(captures=batch).SerializeToString() for batch in batches]


def capture_request(capture: Capture) -> pb.CaptureRequest:
    """The message that asks for a capture."""
    evidence = capture.evidence
    if evidence is None:
        raise ValueError("these captures have evidence")
    return pb.CaptureRequest(
        request_id=str(capture.request_id),
        tenant_id=capture.tenant_id,
        reservation_id=str(capture.reservation_id),
        units=capture.units,
        evidence=pb.CaptureEvidence(
            batch_id=evidence.batch_id,
            epoch=evidence.epoch,
            bulk_id=evidence.bulk_id,
            accepted_count=evidence.accepted_count,
            parts=evidence.parts,
        ),
    )


def authorization(asked: Authorize) -> pb.Authorization:
    """The message that asks for an authorization."""
    return pb.Authorization(
        tenant_id=asked.tenant_id,
        reservation_id=str(asked.reservation_id),
        attempt_id=str(asked.attempt_id),
        campaign_id=asked.campaign_id,
        enqueue_number=asked.enqueue_number,
        snapshot_digest=asked.snapshot_digest,
        positions=[pb.PositionRange(first=first, last=end - 1) for first, end in asked.positions],
        units=asked.units,
    )


def _check_authorized(response: bytes) -> None:
    for result in pb.BatchAuthorizeResponse.FromString(response).results:
        if not result.HasField("authorized"):
            raise RuntimeError(f"an authorization was refused: {result.refusal}")


def _check(response: bytes) -> None:
    for result in pb.BatchCaptureResponse.FromString(response).results:
        if not result.HasField("captured"):
            raise RuntimeError(f"a capture failed: {result.refusal}")


if __name__ == "__main__":
    main()
