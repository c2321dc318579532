"""Campaigns by the caller's own id, and updates that say what they change and which state they know."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms.campaign.v1.campaign_pb2_grpc import CampaignServiceStub
from bulksms.types.v1 import types_pb2
from devstack.eventually import eventually
from servicekit.errors import Category, DomainError

from .campaign_support import TENANT, Service, audience, refused

OWN = "shop/42#spring"
NAMING = [
    rpc
    for rpc in pb.DESCRIPTOR.services_by_name["CampaignService"].methods
    if "campaign" in rpc.input_type.oneofs_by_name
]


async def call(stub: CampaignServiceStub, rpc: str, **arguments: Any) -> Any:
    """An RPC of the service; of a stream, the first message."""
    request_type = getattr(pb, f"{rpc}Request")
    if "request_id" in request_type.DESCRIPTOR.fields_by_name:
        arguments.setdefault("request_id", str(uuid4()))
    begun = getattr(stub, rpc)(request_type(**{"tenant_id": TENANT, **arguments}))
    if isinstance(begun, grpc.aio.UnaryStreamCall):
        first = await begun.read()
        begun.cancel()
        return first
    return await begun


async def refusal(stub: CampaignServiceStub, rpc: str, **arguments: Any) -> DomainError:
    return await refused(call(stub, rpc, **arguments))


def test_every_request_that_names_a_campaign_takes_the_caller_s_own_id() -> None:
    named = {rpc.name for rpc in pb.DESCRIPTOR.services_by_name["CampaignService"].methods}
    assert named - {rpc.name for rpc in NAMING} == {"CreateCampaign", "ListCampaigns"}
    for rpc in NAMING:
        fields = rpc.input_type.oneofs_by_name["campaign"].fields
        assert [field.name for field in fields] == ["campaign_id", "external_id"]


async def test_a_campaign_answers_to_the_id_its_caller_gave_it_as_to_ours(service: Service) -> None:
    await service.import_phones([306940000001])
    made = await service.create(external_id=OWN)
    assert made.external_id == OWN
    campaigns = service.campaigns
    assert (await call(campaigns, "GetCampaign", external_id=OWN)).campaign == made
    assert (await call(campaigns, "GetCampaign", campaign_id=made.campaign_id)).campaign == made
    assert (await call(campaigns, "PreviewCampaign", external_id=OWN)).recipients == 1
    assert (await call(campaigns, "UpdateCampaign", external_id=OWN, name="Summer")).campaign.name == "Summer"
    assert (await call(campaigns, "EnqueueCampaign", external_id=OWN)).campaign.campaign_id == made.campaign_id
    await eventually(lambda: service.has_event(made.campaign_id, "SUBMITTED"))
    assert (await call(campaigns, "PauseCampaign", external_id=OWN)).campaign.state == pb.CAMPAIGN_STATE_PAUSED
    assert (await call(campaigns, "ResumeCampaign", external_id=OWN)).campaign.state == pb.CAMPAIGN_STATE_SENDING
    assert (await call(campaigns, "GetCampaignStatus", external_id=OWN)).status.campaign_id == made.campaign_id
    assert (await call(campaigns, "WatchCampaign", external_id=OWN)).status.campaign_id == made.campaign_id
    assert len((await call(campaigns, "ListRecipients", external_id=OWN)).recipients) == 1
    assert (await call(campaigns, "ListEvents", external_id=OWN)).events[0].kind == pb.CAMPAIGN_EVENT_KIND_CREATED
    assert (await call(campaigns, "RecountCampaign", external_id=OWN)).consistent
    assert (await call(campaigns, "CancelCampaign", external_id=OWN)).campaign.state == pb.CAMPAIGN_STATE_CANCELLING


async def test_a_page_goes_on_under_either_id(service: Service) -> None:
    made = await service.create(external_id=OWN)
    await call(service.campaigns, "UpdateCampaign", external_id=OWN, name="Summer")
    first = await call(service.campaigns, "ListEvents", external_id=OWN, page_size=1)
    token = first.next_page_token
    second = await call(service.campaigns, "ListEvents", campaign_id=made.campaign_id, page_size=1, page_token=token)
    assert [event.sequence for event in second.events] == [2]


@pytest.mark.parametrize("rpc", [rpc.name for rpc in NAMING if rpc.name != "DeleteCampaign"])
async def test_an_unknown_external_id_is_not_found(service: Service, rpc: str) -> None:
    error = await refusal(service.campaigns, rpc, external_id="nobody's")
    assert (error.reason, error.metadata["external_id"]) == ("CAMPAIGN_NOT_FOUND", "nobody's")
    await service.create(tenant_id="other", external_id=OWN)
    assert (await refusal(service.campaigns, rpc, external_id=OWN)).reason == "CAMPAIGN_NOT_FOUND"


@pytest.mark.parametrize(
    ("reference", "field"),
    [
        ({}, "campaign_id"),
        ({"campaign_id": "42"}, "campaign_id"),
        ({"external_id": ""}, "external_id"),
        ({"external_id": "two words"}, "external_id"),
        ({"external_id": "é"}, "external_id"),
        ({"external_id": "x" * 65}, "external_id"),
    ],
)
async def test_a_wrong_reference_is_named(service: Service, reference: dict[str, str], field: str) -> None:
    for rpc in ("GetCampaign", "EnqueueCampaign"):
        error = await refusal(service.campaigns, rpc, **reference)
        assert [violation.field for violation in error.field_violations] == [field]


async def test_an_external_id_is_used_once_per_tenant_and_is_free_again_after_a_delete(service: Service) -> None:
    first = await service.create(external_id=OWN)
    error = await refused(service.create(external_id=OWN))
    assert (error.category, error.reason) == (Category.ALREADY_EXISTS, "EXTERNAL_ID_USED")
    assert error.metadata["campaign_id"] == first.campaign_id
    listed = await service.campaigns.ListCampaigns(pb.ListCampaignsRequest(tenant_id=TENANT))
    assert [campaign.campaign_id for campaign in listed.campaigns] == [first.campaign_id], "nothing was made"
    assert (await service.create(tenant_id="other", external_id=OWN)).external_id == OWN
    assert {(await service.create()).external_id for _ in range(2)} == {""}, "any number has none"
    assert (await call(service.campaigns, "DeleteCampaign", external_id=OWN)).deleted
    assert not (await call(service.campaigns, "DeleteCampaign", external_id=OWN)).deleted
    assert (await service.create(external_id=OWN)).campaign_id != first.campaign_id


async def test_of_many_who_use_an_external_id_at_once_one_gets_it(service: Service) -> None:
    made = await asyncio.gather(*(service.create(external_id=OWN) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(one, pb.Campaign) for one in made) == 1
    assert sum(isinstance(one, grpc.aio.AioRpcError) for one in made) == 4


async def test_creating_again_under_the_same_request_id_is_no_reuse_of_its_external_id(service: Service) -> None:
    request_id = str(uuid4())
    first = await service.create(request_id=request_id, external_id=OWN)
    assert (await service.create(request_id=request_id, external_id=OWN)).campaign_id == first.campaign_id
    other = await refused(service.create(request_id=request_id, external_id="another"))
    assert other.reason == "REQUEST_ID_REUSED"


async def test_a_campaign_is_marketing_unless_it_says_otherwise(service: Service) -> None:
    assert (await service.create()).message_class == types_pb2.MESSAGE_CLASS_MARKETING
    service_message = await service.create(message_class=types_pb2.MESSAGE_CLASS_SERVICE)
    assert service_message.message_class == types_pb2.MESSAGE_CLASS_SERVICE
    unknown = await refused(service.create(message_class=9))
    assert [violation.field for violation in unknown.field_violations] == ["message_class"]


@pytest.fixture
async def draft(service: Service) -> pb.Campaign:
    return await service.create(
        priority=types_pb2.PRIORITY_URGENT, message_class=types_pb2.MESSAGE_CLASS_SERVICE, audience=audience("a")
    )


async def test_an_update_changes_what_its_mask_names_whatever_else_is_set(service: Service, draft: pb.Campaign) -> None:
    changed = await call(
        service.campaigns, "UpdateCampaign", campaign_id=draft.campaign_id, update_mask=FieldMask(paths=["name"]),
        name="Summer", text="not meant", priority=types_pb2.PRIORITY_LOW,
    )  # fmt: skip
    expected = pb.Campaign(name="Summer", etag=changed.campaign.etag)
    expected.updated_at.CopyFrom(changed.campaign.updated_at)
    whole = pb.Campaign()
    whole.CopyFrom(draft)
    whole.MergeFrom(expected)
    assert changed.campaign == whole


async def test_a_field_that_a_mask_names_and_that_is_not_set_gets_its_default(
    service: Service, draft: pb.Campaign
) -> None:
    mask = FieldMask(paths=["priority", "message_class"])
    changed = await call(service.campaigns, "UpdateCampaign", campaign_id=draft.campaign_id, update_mask=mask)
    assert changed.campaign.priority == types_pb2.PRIORITY_NORMAL
    assert changed.campaign.message_class == types_pb2.MESSAGE_CLASS_MARKETING
    assert changed.campaign.text == draft.text
    mask = FieldMask(paths=["name", "audience"])
    error = await refusal(service.campaigns, "UpdateCampaign", campaign_id=draft.campaign_id, update_mask=mask)
    assert {violation.field for violation in error.field_violations} == {"name", "audience"}


async def test_a_star_replaces_all_of_the_content(service: Service, draft: pb.Campaign) -> None:
    changed = await call(
        service.campaigns, "UpdateCampaign", campaign_id=draft.campaign_id, update_mask=FieldMask(paths=["*"]),
        name="Summer", text="Sun!", sender="Shop", audience=audience(),
    )  # fmt: skip
    campaign = changed.campaign
    assert (campaign.name, campaign.text, campaign.sender) == ("Summer", "Sun!", "Shop")
    assert campaign.audience.all_contacts
    assert campaign.priority == types_pb2.PRIORITY_NORMAL
    error = await refusal(
        service.campaigns, "UpdateCampaign", campaign_id=draft.campaign_id, update_mask=FieldMask(paths=["*"]), name="N"
    )
    assert {violation.field for violation in error.field_violations} == {"text", "sender", "audience"}


@pytest.mark.parametrize("paths", [["state"], ["name", "external_id"], ["*", "name"], ["audience.groups"]])
async def test_a_mask_that_names_another_field_is_refused(
    service: Service, draft: pb.Campaign, paths: list[str]
) -> None:
    error = await refusal(
        service.campaigns, "UpdateCampaign", campaign_id=draft.campaign_id, update_mask=FieldMask(paths=paths), name="N"
    )
    assert [violation.field for violation in error.field_violations] == ["update_mask"]
    assert await service.get(draft.campaign_id) == draft


async def test_an_etag_of_before_somebody_else_s_change_refuses_update_and_delete(
    service: Service, draft: pb.Campaign
) -> None:
    campaigns = service.campaigns
    known = {"campaign_id": draft.campaign_id, "etag": draft.etag}
    request_id = str(uuid4())
    mine = (await call(campaigns, "UpdateCampaign", name="Mine", request_id=request_id, **known)).campaign
    assert mine.etag not in ("", draft.etag)
    for rpc, change in (("UpdateCampaign", {"name": "Theirs"}), ("DeleteCampaign", {})):
        error = await refusal(campaigns, rpc, **known, **change)
        assert (error.category, error.reason) == (Category.CONFLICT, "ETAG_MISMATCH")
        assert error.metadata["etag"] == mine.etag
    assert await service.get(draft.campaign_id) == mine
    repeated = await call(campaigns, "UpdateCampaign", name="Mine", request_id=request_id, **known)
    assert repeated.campaign == mine, "a repeat is answered, not compared"
    assert (await call(campaigns, "UpdateCampaign", campaign_id=draft.campaign_id, name="Whoever")).campaign.name
    current = (await service.get(draft.campaign_id)).etag
    assert (await call(campaigns, "DeleteCampaign", campaign_id=draft.campaign_id, etag=current)).deleted


async def test_an_etag_changes_with_the_state_and_not_with_the_counters(service: Service) -> None:
    campaign_id = await service.started([306940000001, 306940000002])
    before = await service.get(campaign_id)
    await call(service.campaigns, "PauseCampaign", campaign_id=campaign_id)
    paused = await service.get(campaign_id)
    assert paused.etag != before.etag
    await service.report(("unknown", 1))
    assert (await service.get(campaign_id)).etag == paused.etag
