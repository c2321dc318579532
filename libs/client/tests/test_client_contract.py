"""The client and the contract agree, and so do its two halves."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from bulksms.campaign.v1 import campaign_pb2, contacts_pb2
from bulksms.dispatcher.v1 import dispatch_pb2, messages_pb2, queue_pb2
from bulksms.ledger.v1 import ledger_pb2
from bulksms_client import AsyncClient, Client
from bulksms_client.calls import call_for
from bulksms_client.channels import service_config

LIBRARY = Path(__file__).resolve().parent.parent
PUBLIC = [campaign_pb2, contacts_pb2, ledger_pb2, messages_pb2, queue_pb2]
# Called by services only.
INTERNAL = {"RecordDeliveryEvidence", "BatchCapture", "BatchAuthorize", "BatchWithdraw", "BatchVoid"}
GROUPS = ["campaigns", "contacts", "credits", "messages", "queue"]


def rpcs() -> list[Any]:
    services = [service for file in PUBLIC for service in file.DESCRIPTOR.services_by_name.values()]
    return [method for service in services for method in service.methods if method.name not in INTERNAL]


@pytest.mark.parametrize("rpc", rpcs(), ids=lambda rpc: rpc.name)
def test_every_public_rpc_can_be_called(rpc: Any) -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (LIBRARY / "src/bulksms_client/aio").glob("*.py"))
    assert re.search(rf"\bpb\.{rpc.name}Response\b", source), f"no method of the client calls {rpc.full_name}"


@pytest.mark.parametrize("group", GROUPS)
def test_both_clients_have_the_same_methods(group: str) -> None:
    with Client(tenant_id="acme") as blocking:
        one, other = getattr(blocking, group), getattr(AsyncClient(tenant_id="acme"), group)
    names = [name for name in dir(one) if not name.startswith("_")]
    assert names == [name for name in dir(other) if not name.startswith("_")]
    for name in names:
        blocking_parameters = inspect.signature(getattr(one, name)).parameters
        assert blocking_parameters.keys() == inspect.signature(getattr(other, name)).parameters.keys()


@pytest.mark.parametrize("group", GROUPS)
def test_every_mutation_can_be_given_a_request_id(group: str) -> None:
    source = (LIBRARY / f"src/bulksms_client/aio/{group}.py").read_text(encoding="utf-8")
    mutations = {rpc.name for rpc in rpcs() if "request_id" in rpc.input_type.fields_by_name} | {"ImportContacts"}
    for method in source.split("async def ")[1:]:
        if mutations & set(re.findall(r"pb\.(\w+)Request\b", method)):
            assert "new_request_id(request_id)" in method, method


def test_calls_are_found_from_their_request() -> None:
    call = call_for(queue_pb2.GetBatchRequest, queue_pb2.GetBatchResponse, None, 7.0)
    assert (call.peer, call.path) == ("dispatcher", "/bulksms.dispatcher.v1.QueueService/GetBatch")
    assert call.timeout_seconds == 7.0
    assert call_for(dispatch_pb2.CancelCampaignRequest, dispatch_pb2.CancelCampaignResponse, 1.0, 7.0).path == (
        "/bulksms.dispatcher.v1.DispatchService/CancelCampaign"
    )


def test_an_answer_of_another_type_is_noticed() -> None:
    with pytest.raises(TypeError, match="GetBatch answers with GetBatchResponse"):
        call_for(queue_pb2.GetBatchRequest, queue_pb2.ListBatchesResponse, None, 7.0)
    with pytest.raises(TypeError, match="no RPC"):
        call_for(queue_pb2.Batch, queue_pb2.GetBatchResponse, None, 7.0)


def test_every_unary_rpc_is_repeated_and_no_stream() -> None:
    repeated, streams = service_config()["methodConfig"]
    assert "retryPolicy" in repeated
    assert "retryPolicy" not in streams
    assert {one["method"] for one in streams["name"]} == {"WatchCampaign", "ImportContacts"}
    assert {one["service"] for one in repeated["name"]} >= {rpc.containing_service.full_name for rpc in rpcs()}
