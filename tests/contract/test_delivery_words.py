"""What the provider's words mean is known in two services that may not import each other: they must agree."""

from __future__ import annotations

from bulksms.campaign.v1 import results_pb2
from bulksms_dispatcher.domain import lookup_results
from bulksms_dispatcher.domain.lookup_results import DeliveryStatus
from bulksms_dlr_gateway.domain.reports import _STATUS_BY_WORD, Status, status_of


def test_the_gateway_and_the_dispatcher_read_every_word_alike() -> None:
    assert {word: status.name for word, status in _STATUS_BY_WORD.items()} == {
        word: delivery.name for word, delivery in lookup_results._STATUS_BY_WORD.items()
    }
    assert status_of("Something new") is Status.OTHER


def test_both_use_the_statuses_of_the_contract() -> None:
    contract = {
        name.removeprefix("DELIVERY_STATUS_").replace("UNSPECIFIED", "OTHER"): number
        for name, number in results_pb2.DeliveryStatus.items()
    }
    assert {word.name: int(word) for word in DeliveryStatus} == contract
    assert {status.name for status in Status} == contract.keys()
