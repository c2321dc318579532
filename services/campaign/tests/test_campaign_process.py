"""The service as a process: migrate, serve, stop; and its traces."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import text

from bulksms_campaign.domain.recipients import Fact
from bulksms_campaign.domain.results import MessageReport, OutcomeGroup
from bulksms_campaign.storage.batches import BatchRow
from bulksms_campaign.use_cases.results import Results
from bulksms_campaign.use_cases.signals import Signals
from devstack.ports import choose_port
from servicekit.database import Database
from servicekit.grpc.client import open_channel

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "bulksms_campaign"]
TRACE = "0af7651916cd43dd8448eb211c80319c"


def environment(database_url: str, port: int = 0) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "GRPC_LISTEN": f"127.0.0.1:{port}",
        "LEDGER_ADDRESS": "127.0.0.1:1",
        "DISPATCHER_ADDRESS": "127.0.0.1:1",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "SHUTDOWN_GRACE_SECONDS": "2",
    }


@asynccontextmanager
async def serving(database_url: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, health_pb2_grpc.HealthStub]]:
    port = choose_port()
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "serve", env=environment(database_url, port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    channel = open_channel(f"127.0.0.1:{port}", idempotent_methods=["grpc.health.v1.Health"])
    try:
        yield process, health_pb2_grpc.HealthStub(channel)
    finally:
        await channel.close()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_it_migrates_an_empty_database_serves_and_stops_on_a_signal(database_url: str) -> None:
    for _ in range(2):  # the second time there is nothing to do
        migrated = await asyncio.create_subprocess_exec(*COMMAND, "migrate", env=environment(database_url))
        assert await migrated.wait() == 0
    async with serving(database_url) as (process, health):
        async with asyncio.timeout(30):
            while True:
                try:
                    answer = await health.Check(
                        health_pb2.HealthCheckRequest(service="bulksms.campaign.v1.CampaignService")
                    )
                    break
                except grpc.aio.AioRpcError:
                    assert process.returncode is None
                    await asyncio.sleep(0.1)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            assert await process.wait() == 0


async def test_it_does_not_start_without_its_peers_addresses(database_url: str) -> None:
    settings = environment(database_url)
    del settings["LEDGER_ADDRESS"]
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "check", env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 2
    assert b"LEDGER_ADDRESS is not set" in said


@pytest.fixture
async def small_campaign(campaign_database: Database) -> UUID:
    campaign_id = uuid4()
    async with campaign_database.begin() as connection:
        for statement in (
            """INSERT INTO campaigns (campaign_id, tenant_id, name, text, sender, all_contacts, groups, exclude_groups,
                priority, message_class, state, revision, created_at, updated_at, enqueue_number)
               VALUES (:id, 'acme', 'n', 't', 's', true, '{}', '{}', 2, 1, 3, 1, now(), now(), 1)""",
            """INSERT INTO enqueues (tenant_id, campaign_id, enqueue_number, launched_on, reservation_id, enqueued_at,
                traceparent, total, queued)
               VALUES ('acme', :id, 1, '2026-01-01', gen_random_uuid(), now(), '', 10, 10)""",
            """INSERT INTO recipients (tenant_id, campaign_id, enqueue_number, launched_on, phone, position, units,
                updated_at)
               SELECT 'acme', :id, 1, '2026-01-01', i, i - 1, 1, now() FROM generate_series(1, 10) AS i""",
        ):
            await connection.execute(text(statement), {"id": campaign_id})
    return campaign_id


async def test_results_and_reports_are_spans_of_the_campaigns_trace_linked_to_who_brought_them(
    campaign_database: Database, small_campaign: UUID
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    results = Results(campaign_database, Signals(), tracer)
    traceparents = [f"00-{TRACE}-00000000000000{number:02x}-01" for number in (1, 2)]
    for number, phones in enumerate(([1, 2, 3, 4, 5], [6, 7, 8, 9, 10])):
        batch = BatchRow("acme", uuid4(), small_campaign, phones[0], phones[-1], 1, 1, "bulk", traceparents[number])
        outcomes = OutcomeGroup(Fact.ACCEPTED, "", "", phones, [f"m{phone}" for phone in phones])
        await results.record_batch(batch, [outcomes])
    exporter.clear()
    with tracer.start_as_current_span("call") as call:
        ids = [f"m{phone}" for phone in (2, 3, 9)]
        await results.record_reports({id_: MessageReport(id_, Fact.DELIVERED, "") for id_ in ids})
    spans = [span for span in exporter.get_finished_spans() if span.name == "campaign.record_delivery_reports"]
    assert {f"{span.context.trace_id:032x}" for span in spans} == {TRACE}
    changed = sorted(
        (span.parent.span_id, (span.attributes or {})["bulksms.recipients_changed"]) for span in spans if span.parent
    )
    assert changed == [(1, 2), (2, 1)]
    assert all(span.links[0].context == call.get_span_context() for span in spans)
    assert not any("m2" in str(span.attributes) for span in spans)
    provider.shutdown()
