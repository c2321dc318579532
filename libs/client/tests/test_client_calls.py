"""Calls: deadlines, retries, request ids, traces; over both kinds of channel."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms.campaign.v1 import contacts_pb2
from bulksms.dispatcher.v1 import messages_pb2, queue_pb2
from bulksms.ledger.v1 import ledger_pb2
from bulksms_client import (
    AsyncClient,
    Client,
    ConfigurationError,
    DeadlineExceeded,
    InvalidArgument,
    Unavailable,
    Unimplemented,
    channels,
)

# gRPC writes a deadline of seconds in steps of 10 ms, rounded up (its timeout header).
DEADLINE_GRAIN = 0.011


def unavailable_times(times: int, answer: Any) -> Callable[[Any, grpc.ServicerContext], Any]:
    """Fails with UNAVAILABLE that often, then answers."""
    failures = iter(range(times))

    def handle(_request: Any, context: grpc.ServicerContext) -> Any:
        if next(failures, None) is not None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        return answer

    return handle


def test_a_campaign_is_created_from_plain_arguments(services: Any, client: Client) -> None:
    services.on("CreateCampaign", pb.CreateCampaignResponse(campaign=pb.Campaign(campaign_id="c1")))
    made = client.campaigns.create(name="Winter", text="Hi", sender="Acme", groups=["vip"], exclude_groups=["staff"])
    assert made.campaign_id == "c1"
    [request] = services.requests("CreateCampaign")
    assert request.tenant_id == "acme"
    assert list(request.audience.groups.names) == ["vip"]
    assert list(request.audience.exclude_groups) == ["staff"]
    assert len(request.request_id) == 36


def test_an_audience_is_all_contacts_or_groups_and_never_both(services: Any, client: Client) -> None:
    services.on("CountContacts", contacts_pb2.CountContactsResponse())
    client.contacts.count(all_contacts=True, exclude_groups=["staff"])
    client.contacts.count(groups=["vip"])
    selections = [request.audience.WhichOneof("selection") for request in services.requests("CountContacts")]
    assert selections == ["all_contacts", "groups"]
    with pytest.raises(InvalidArgument, match="groups must not be given together with all_contacts"):
        client.contacts.count(all_contacts=True, groups=["vip"])


def test_a_campaign_is_named_by_one_of_its_two_ids(services: Any, client: Client) -> None:
    services.on("GetCampaign", pb.GetCampaignResponse())
    client.campaigns.get("c1")
    client.campaigns.get(external_id="shop-42")
    assert [request.WhichOneof("campaign") for request in services.requests("GetCampaign")] == [
        "campaign_id",
        "external_id",
    ]
    for wrong in ({}, {"campaign_id": "c1", "external_id": "shop-42"}):
        with pytest.raises(InvalidArgument, match="campaign_id must be given, or external_id; not both"):
            client.campaigns.get(**wrong)
    assert len(services.calls) == 2


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("update", {"name": "n"}), ("delete", {}), ("preview", {}), ("enqueue", {}), ("unschedule", {}),
        ("schedule", {"at": datetime(2030, 1, 1, tzinfo=UTC)}), ("pause", {}), ("resume", {}), ("cancel", {}),
        ("retry_failed", {}), ("status", {}), ("watch", {}), ("recipients", {}), ("events", {}), ("recount", {}),
    ],
)  # fmt: skip
def test_every_method_of_a_campaign_takes_the_caller_s_own_id(
    services: Any, client: Client, method: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(Unimplemented):
        list(getattr(client.campaigns, method)(external_id="shop-42", **arguments) or ())
    [call] = services.calls
    assert (call.request.external_id, call.request.tenant_id) == ("shop-42", "acme")


def test_a_contact_is_named_by_its_number_or_the_caller_s_own_id(services: Any, client: Client) -> None:
    for method in ("get", "delete", "opt_out", "opt_in"):
        for reference in ({"phone": "+306912345678"}, {"external_id": "crm-7"}):
            with pytest.raises(Unimplemented):
                getattr(client.contacts, method)(**reference)
            assert services.calls[-1].request.WhichOneof("contact") == next(iter(reference))
        with pytest.raises(InvalidArgument, match="phone must be given, or external_id; not both"):
            getattr(client.contacts, method)()


def test_an_upsert_can_name_what_it_replaces_and_what_it_knows(services: Any, client: Client) -> None:
    services.on("UpsertContact", contacts_pb2.UpsertContactResponse())
    client.contacts.upsert(external_id="crm-7", first_name="Anna", update_mask=["first_name"], etag="e1")
    [request] = services.requests("UpsertContact")
    assert (request.contact.external_id, request.contact.first_name) == ("crm-7", "Anna")
    assert (list(request.update_mask.paths), request.etag) == (["first_name"], "e1")


def test_every_call_has_a_deadline_by_default(services: Any, client: Client) -> None:
    services.on("GetCampaignStatus", pb.GetCampaignStatusResponse())
    client.campaigns.status("c1")
    assert 0 < services.calls[0].seconds_left <= 5 + DEADLINE_GRAIN


def test_a_call_can_have_its_own_deadline(services: Any, client: Client) -> None:
    def late(_request: Any, context: grpc.ServicerContext) -> Any:
        time.sleep(max(0.0, context.time_remaining()) + 0.05)
        return pb.GetCampaignStatusResponse()

    services.on("GetCampaignStatus", late)
    with pytest.raises(DeadlineExceeded, match=r"did not answer CampaignService.GetCampaignStatus within 0.2 s"):
        client.campaigns.status("c1", timeout=0.2)


def test_a_single_message_may_take_as_long_as_the_provider(services: Any, client: Client) -> None:
    services.on("SendMessage", messages_pb2.SendMessageResponse())
    client.messages.send("+306912345678", "Hi", sender="Acme")
    assert services.calls[0].seconds_left > 30


def test_a_mutation_is_repeated_under_one_request_id_while_the_service_is_unavailable(
    services: Any, client: Client
) -> None:
    services.on("GrantCredits", unavailable_times(2, ledger_pb2.GrantCreditsResponse(replayed=True)))
    assert client.credits.grant(100).replayed
    requests = services.requests("GrantCredits")
    assert len(requests) == 3
    assert len({request.request_id for request in requests}) == 1


def test_two_calls_have_two_request_ids(services: Any, client: Client) -> None:
    services.on("GrantCredits", ledger_pb2.GrantCreditsResponse())
    client.credits.grant(100)
    client.credits.grant(100)
    first, second = services.requests("GrantCredits")
    assert first.request_id != second.request_id


def test_a_request_id_of_the_callers_is_kept(services: Any, client: Client) -> None:
    services.on("EnqueueCampaign", pb.EnqueueCampaignResponse())
    client.campaigns.enqueue("c1", request_id="mine")
    assert services.requests("EnqueueCampaign")[0].request_id == "mine"


def test_repeats_end_after_five_attempts(services: Any, client: Client) -> None:
    services.on("GetBalance", unavailable_times(100, None))
    with pytest.raises(Unavailable, match="restarting"):
        client.credits.balance()
    assert len(services.calls) == 5


def test_repeats_end_with_the_deadline(services: Any, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(channels._RETRY_POLICY, "initialBackoff", "0.2s")
    services.on("GetBalance", unavailable_times(100, None))
    began = time.monotonic()
    with pytest.raises((Unavailable, DeadlineExceeded)):
        client.credits.balance(timeout=0.3)
    assert time.monotonic() - began < 2
    assert len(services.calls) < 5


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED]
)
def test_nothing_else_is_repeated_by_itself(services: Any, client: Client, refuse: Any, code: grpc.StatusCode) -> None:
    services.on("GetBalance", refuse(code, "SOME_REASON", "no"))
    with pytest.raises(Exception, match="no"):
        client.credits.balance()
    assert len(services.calls) == 1


def test_the_callers_trace_is_carried_over(services: Any, client: Client) -> None:
    services.on("GetQueueStats", queue_pb2.GetQueueStatsResponse())
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
    with trace.use_span(span):
        client.queue.stats()
    client.queue.stats()
    traced, untraced = services.calls
    assert traced.metadata["traceparent"] == f"00-{0xABC:032x}-{0xDEF:016x}-01"
    assert "traceparent" not in untraced.metadata


def test_another_tenant_shares_the_channels(services: Any, client: Client) -> None:
    services.on("GetAccount", ledger_pb2.GetAccountResponse())
    client.for_tenant("other").credits.account()
    client.credits.account()
    assert [request.tenant_id for request in services.requests("GetAccount")] == ["other", "acme"]


def test_a_client_without_a_tenant_says_how_to_name_one(addresses: dict[str, Any]) -> None:
    with Client(**addresses) as nobody, pytest.raises(ConfigurationError, match="BULKSMS_TENANT"):
        nobody.credits.balance()


def test_only_addresses_in_use_are_needed(services: Any) -> None:
    services.on("GetCampaign", pb.GetCampaignResponse())
    with Client(campaign=services.address, tenant_id="acme") as partial:
        partial.campaigns.get("c1")
        with pytest.raises(ConfigurationError, match="BULKSMS_LEDGER"):
            partial.credits.balance()


def test_a_single_string_is_not_taken_for_a_list_of_groups(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="groups must be a list") as caught:
        client.campaigns.create(name="n", text="t", sender="Acme", groups="vip")
    assert caught.value.field_violations[0].field == "groups"


def test_a_service_that_is_not_there_is_named() -> None:
    unused_address = "127.0.0.1:1"  # tcpmux: nobody listens there
    with Client(campaign=unused_address, tenant_id="acme", timeout=8) as lonely, pytest.raises(Unavailable) as caught:
        lonely.campaigns.get("c1")
    assert unused_address in caught.value.message
    assert "BULKSMS_CAMPAIGN" in caught.value.message


async def test_asyncio_calls_are_the_same(services: Any, addresses: dict[str, Any]) -> None:
    services.on("EnqueueCampaign", unavailable_times(1, pb.EnqueueCampaignResponse(created=7)))
    async with AsyncClient(**addresses, tenant_id="acme", timeout=5) as client:
        assert (await client.campaigns.enqueue("c1")).created == 7
        with pytest.raises(Exception, match=r"not implemented"):
            await client.campaigns.get("c1")
    first, second = services.requests("EnqueueCampaign")
    assert first.request_id == second.request_id
    assert 0 < services.calls[0].seconds_left <= 5 + DEADLINE_GRAIN
