"""An operator's statement about many ambiguous batches: counted first, and carried out no further than counted."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text

from bulksms.dispatcher.v1 import dispatch_pb2, queue_pb2
from bulksms_dispatcher.settings import Settings
from devstack.eventually import eventually
from servicekit.database import Database

from .dispatcher_support import (
    ACCOUNT,
    TENANT,
    Dispatcher,
    Peers,
    Provider,
    header,
    phones,
    reason_of,
    serving,
    submit,
    why,
)

NOT_SENT, ACCEPTED = queue_pb2.RESOLUTION_NOT_SENT, queue_pb2.RESOLUTION_ACCEPTED


@pytest.fixture
async def dispatcher(configure: Callable[..., Settings]) -> AsyncIterator[Dispatcher]:
    """One whose account, once held, is not probed: what is ambiguous here are whole batches."""
    async with serving(configure(probe_after_seconds=300.0)) as running:
        yield running


async def ambiguous(
    dispatcher: Dispatcher,
    simulator: Provider,
    database: Database,
    behaviour: str,
    count: int = 1,
    *,
    first: int,
    tenant_id: str = TENANT,
) -> dispatch_pb2.SubmissionHeader:
    """A campaign of so many ambiguous batches of ten; then the account is held no longer."""
    simulator.script(*[behaviour] * count)
    before = (await dispatcher.states())["AMBIGUOUS"]
    head = await submit(dispatcher, phones(10 * count, first=first), header(tenant_id=tenant_id))
    for wanted in range(before + 1, before + count + 1):
        await eventually(lambda: _are_ambiguous(dispatcher, wanted))  # noqa: B023
        async with database.begin() as connection:
            await connection.execute(text("DELETE FROM account_holds"))
    return head


async def _are_ambiguous(dispatcher: Dispatcher, at_least: int) -> bool:
    return (await dispatcher.states())["AMBIGUOUS"] >= at_least


async def let_hours_pass(database: Database, hours: int = 2) -> None:
    async with database.begin() as connection:
        moved = "UPDATE attempts SET armed_at = armed_at - make_interval(hours => :hours)"
        await connection.execute(text(moved), {"hours": hours})


async def preview(
    dispatcher: Dispatcher, resolution: queue_pb2.Resolution.ValueType, **selection: Any
) -> queue_pb2.PreviewResolutionResponse:
    return await dispatcher.queue.PreviewResolution(
        queue_pb2.PreviewResolutionRequest(selection=queue_pb2.BatchSelection(**selection), resolution=resolution)
    )


async def carry_out(dispatcher: Dispatcher, token: str, request_id: str | None = None) -> tuple[int, int]:
    """How many were resolved, and how many left."""
    request = queue_pb2.ResolveBatchesRequest(
        request_id=request_id or str(uuid.uuid4()), token=token, evidence="Mitto ticket 4711"
    )
    response = await dispatcher.queue.ResolveBatches(request, metadata=[("x-operator", "maria")])
    return response.resolved, response.left


def excluded(plan: queue_pb2.PreviewResolutionResponse) -> dict[str, int]:
    names = {each.exclusion: queue_pb2.ResolutionExclusion.Name(each.exclusion) for each in plan.excluded}
    return {names[each.exclusion].removeprefix("RESOLUTION_EXCLUSION_"): each.batches for each in plan.excluded}


async def test_batches_of_a_campaign_are_counted_then_resolved_as_not_sent_and_nobody_in_them_is_sent_again(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, database: Database
) -> None:
    head = await ambiguous(dispatcher, simulator, database, "500", 3, first=306_900_000_000)
    await ambiguous(dispatcher, simulator, database, "500", first=447_700_900_000)
    await let_hours_pass(database)
    plan = await preview(dispatcher, NOT_SENT, campaign_id=head.campaign_id)
    assert (plan.batches, plan.recipients, excluded(plan), plan.has_more) == (3, 30, {}, False)
    assert await dispatcher.states() == {"AMBIGUOUS": 4}, "counting changes nothing"

    request_id = str(uuid.uuid4())
    for _ in range(2):
        assert await carry_out(dispatcher, plan.token, request_id) == (3, 0)
    assert await dispatcher.states() == {"REJECTED": 3, "AMBIGUOUS": 1}
    resolved = await dispatcher.batches(campaign_id=head.campaign_id)
    assert {why(batch) for batch in resolved} == {"OPERATOR"}
    await eventually(lambda: peers.campaign.outcomes == {"FAILED": 30, "AMBIGUOUS": 10})
    assert simulator.stats().requests == 4, "nobody was sent anything again"
    async with database.connect() as connection:
        rows = await connection.execute(text("SELECT kind, reason, operator FROM operator_actions ORDER BY kind"))
        kept = [(row.kind, row.reason, row.operator.split()[0]) for row in rows]
    assert (
        kept
        == [("RESOLVE_BATCHES", "Mitto ticket 4711", "maria")]
        + [("RESOLVE_NOT_SENT", "Mitto ticket 4711", "maria")] * 3
    )


async def test_not_sent_is_not_said_of_what_is_recent_has_evidence_or_may_get_some(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, database: Database
) -> None:
    await ambiguous(dispatcher, simulator, database, "accept-then-reset", first=306_900_000_000)
    await let_hours_pass(database)
    await ambiguous(dispatcher, simulator, database, "500", 2, first=447_700_900_000)
    plan = await preview(dispatcher, NOT_SENT, tenant_id=TENANT)
    assert (plan.batches, excluded(plan)) == (1, {"TOO_RECENT": 2})
    accepted = await preview(dispatcher, ACCEPTED, tenant_id=TENANT)
    assert (accepted.batches, excluded(accepted)) == (3, {})

    report = text("INSERT INTO evidence (provider_message_id, raw_status, next_attempt_at) VALUES ('x', 'Sent', :at)")
    async with database.begin() as connection:
        tomorrow = (await connection.execute(text("SELECT now() + interval '1 day'"))).scalar_one()
        await connection.execute(report, {"at": tomorrow})
    later = await preview(dispatcher, NOT_SENT, tenant_id=TENANT)
    assert (later.batches, excluded(later)) == (0, {"TOO_RECENT": 2, "EVIDENCE_OPEN": 1})
    async with database.begin() as connection:
        await connection.execute(text("DELETE FROM evidence"))
        await connection.execute(
            text("UPDATE batches SET evidenced = 1 WHERE first_phone BETWEEN 306900000000 AND 306900000009")
        )
    evidenced = await preview(dispatcher, NOT_SENT, tenant_id=TENANT)
    assert excluded(evidenced) == {"TOO_RECENT": 2, "PARTIAL_EVIDENCE": 1}
    # What was counted before the evidence came is left as it is.
    assert await carry_out(dispatcher, plan.token) == (0, 1)
    assert await dispatcher.states() == {"AMBIGUOUS": 3}


async def test_a_selection_narrows_by_tenant_window_status_and_account(
    dispatcher: Dispatcher, simulator: Provider, database: Database
) -> None:
    await ambiguous(dispatcher, simulator, database, "500", first=306_900_000_000)
    await let_hours_pass(database, 48)
    await ambiguous(dispatcher, simulator, database, "503", first=447_700_900_000)
    await ambiguous(dispatcher, simulator, database, "503", first=491_510_000_000, tenant_id="other")
    await let_hours_pass(database)
    since, until = Timestamp(), Timestamp()
    until.GetCurrentTime()
    since.FromSeconds(until.seconds - 24 * 3600)

    async def found(**selection: Any) -> int:
        return (await preview(dispatcher, NOT_SENT, **selection)).batches

    assert await found(tenant_id=TENANT) == 2
    assert await found(armed_from=since, armed_until=until) == 2
    assert await found(tenant_id=TENANT, armed_from=since) == 1
    assert await found(tenant_id=TENANT, http_status=500) == 1
    assert await found(armed_from=since, armed_until=until, http_status=503) == 2
    assert await found(tenant_id=TENANT, traffic_account_id=ACCOUNT) == 2
    assert await found(tenant_id=TENANT, traffic_account_id="another") == 0
    for wrong in ({}, {"armed_from": since}, {"http_status": 503}, {"tenant_id": "*"}):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await found(**wrong)
        assert reason_of(refused.value) == "INVALID_ARGUMENT"


async def test_a_plan_is_good_for_a_quarter_of_an_hour_and_one_request_id_for_one_plan(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, database: Database
) -> None:
    await ambiguous(dispatcher, simulator, database, "500", first=306_900_000_000)
    old = await preview(dispatcher, ACCEPTED, tenant_id=TENANT)
    async with database.begin() as connection:
        await connection.execute(text("UPDATE resolution_plans SET created_at = created_at - interval '16 minutes'"))
    for token in (old.token, str(uuid.uuid4())):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await carry_out(dispatcher, token)
        assert reason_of(refused.value) == "PLAN_NOT_FOUND"
    plan = await preview(dispatcher, ACCEPTED, tenant_id=TENANT)
    request_id = str(uuid.uuid4())
    assert await carry_out(dispatcher, plan.token, request_id) == (1, 0)
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 10})
    await eventually(lambda: peers.ledger.captured == 10)
    another = await preview(dispatcher, ACCEPTED, tenant_id=TENANT)
    with pytest.raises(grpc.aio.AioRpcError) as reused:
        await carry_out(dispatcher, another.token, request_id)
    assert reason_of(reused.value) == "REQUEST_ID_REUSED"
