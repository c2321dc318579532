"""Errors: what a service says arrives as an exception with its reason, fields and figures."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
import pytest

import bulksms_client
from bulksms_client import AsyncClient, BulkSmsError, Client, FieldViolation

CASES = [
    (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "400", "InvalidArgument"),
    (grpc.StatusCode.NOT_FOUND, "CAMPAIGN_NOT_FOUND", "404", "NotFound"),
    (grpc.StatusCode.FAILED_PRECONDITION, "CAMPAIGN_STATE", "409", "WrongState"),
    (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_CREDITS", "402", "InsufficientCredits"),
    (grpc.StatusCode.FAILED_PRECONDITION, "SUBSCRIPTION_INACTIVE", "403", "SubscriptionInactive"),
    (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", "409", "Conflict"),
    (grpc.StatusCode.ABORTED, "LOST_RACE", "409", "Conflict"),
    (grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN", "403", "PermissionDenied"),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "BACKLOG_FULL", "429", "Overloaded"),
    (grpc.StatusCode.UNAVAILABLE, "LEDGER_UNAVAILABLE", "503", "Unavailable"),
    (grpc.StatusCode.UNIMPLEMENTED, "NOT_BUILT", "501", "Unimplemented"),
    (grpc.StatusCode.INTERNAL, "INTERNAL", "500", "Internal"),
    (grpc.StatusCode.DATA_LOSS, "INTERNAL", "500", "Internal"),
]


@pytest.mark.parametrize(("code", "reason", "http_status", "kind"), CASES)
def test_each_status_is_an_exception_of_its_own(
    services: Any, client: Client, refuse: Any, code: grpc.StatusCode, reason: str, http_status: str, kind: str
) -> None:
    services.on("EnqueueCampaign", refuse(code, reason, "says why", http_status=http_status, required="5"))
    with pytest.raises(BulkSmsError) as caught:
        client.campaigns.enqueue("c1")
    error = caught.value
    assert type(error) is getattr(bulksms_client, kind)
    assert (error.reason, error.message, error.code) == (reason, "says why", code)
    assert error.http_status == int(http_status)
    assert error.metadata["required"] == "5"
    assert str(error) == f"says why [{reason}]"


@pytest.mark.parametrize(
    ("code", "retryable"),
    [
        (grpc.StatusCode.UNAVAILABLE, True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, True),
        (grpc.StatusCode.ABORTED, True),
        (grpc.StatusCode.ALREADY_EXISTS, False),
        (grpc.StatusCode.INVALID_ARGUMENT, False),
        (grpc.StatusCode.INTERNAL, False),
    ],
)
def test_an_error_says_whether_to_try_again(
    services: Any, client: Client, refuse: Any, code: grpc.StatusCode, retryable: bool
) -> None:
    services.on("EnqueueCampaign", refuse(code, "SOME", "no"))
    with pytest.raises(BulkSmsError) as caught:
        client.campaigns.enqueue("c1")
    assert caught.value.retryable is retryable


def test_field_violations_name_field_and_cure(services: Any, client: Client, refuse: Any) -> None:
    cures = {"text": "must not be empty", "sender": "3 to 11 letters"}
    services.on("CreateCampaign", refuse(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "bad", fields=cures))
    with pytest.raises(bulksms_client.InvalidArgument) as caught:
        client.campaigns.create(name="n", text="", sender="!", all_contacts=True)
    assert caught.value.field_violations == tuple(FieldViolation(*one) for one in cures.items())
    assert str(caught.value) == "bad (text: must not be empty; sender: 3 to 11 letters) [INVALID_ARGUMENT]"


def test_an_overloaded_service_says_when_to_come_back(services: Any, client: Client, refuse: Any) -> None:
    services.on("GetAccount", refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "BUSY", "busy", retry_after=1.5))
    with pytest.raises(bulksms_client.Overloaded) as caught:
        client.credits.account()
    assert caught.value.retry_after == timedelta(seconds=1.5)


def test_details_that_cannot_be_read_do_not_hide_the_error(services: Any, client: Client) -> None:
    def garbled(_request: Any, context: grpc.ServicerContext) -> Any:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    services.on("GetCampaign", garbled)
    with pytest.raises(bulksms_client.NotFound) as caught:
        client.campaigns.get("c1")
    assert caught.value.reason == "NOT_FOUND"
    assert caught.value.http_status == 404
    assert "gone" in caught.value.message


def test_details_whose_insides_cannot_be_read_do_not_hide_the_error(services: Any, client: Client) -> None:
    from google.protobuf import any_pb2
    from google.rpc import status_pb2

    broken = any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff\xff")
    status = status_pb2.Status(code=5, details=[broken])

    def garbled(_request: Any, context: grpc.ServicerContext) -> Any:
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    services.on("GetCampaign", garbled)
    with pytest.raises(bulksms_client.NotFound, match="gone"):
        client.campaigns.get("c1")


def test_a_method_that_is_not_built_is_named(services: Any, client: Client) -> None:
    with pytest.raises(bulksms_client.Unimplemented, match=r"CampaignService\.RecountCampaign"):
        client.campaigns.recount("c1")
    assert services.calls[0].method == "RecountCampaign"


async def test_asyncio_errors_are_the_same(services: Any, addresses: dict[str, Any], refuse: Any) -> None:
    services.on(
        "EnqueueCampaign",
        refuse(
            grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_CREDITS", "too few", http_status="402", available="3"
        ),
    )
    async with AsyncClient(**addresses, tenant_id="acme", timeout=5) as client:
        with pytest.raises(bulksms_client.InsufficientCredits) as caught:
            await client.campaigns.enqueue("c1")
    assert caught.value.metadata["available"] == "3"
