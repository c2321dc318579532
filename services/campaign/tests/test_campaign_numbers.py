"""What is numbered in the domain and in the tables is numbered so in the contract."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import pytest

from bulksms.campaign.v1 import campaign_pb2, contacts_pb2
from bulksms.types.v1 import types_pb2
from bulksms_campaign.domain.blockers import EnqueueBlocker
from bulksms_campaign.domain.campaigns import CampaignPriority, CampaignState, MessageClass
from bulksms_campaign.domain.contact_file.reasons import LineReason
from bulksms_campaign.domain.events import EventKind
from bulksms_campaign.domain.holds import HoldReason
from bulksms_campaign.domain.recipients import RecipientStatus
from smstext.phone import PhoneProblem


def names(contract: Any) -> dict[str, int]:
    """The contract's values without the prefix they share, and without the unspecified one."""
    shared = next(name for name, number in contract.items() if number == 0).removesuffix("UNSPECIFIED")
    return {name.removeprefix(shared): number for name, number in contract.items() if number}


@pytest.mark.parametrize(
    ("domain", "contract"),
    [
        (CampaignState, campaign_pb2.CampaignState),
        (CampaignPriority, types_pb2.Priority),
        (MessageClass, types_pb2.MessageClass),
        (RecipientStatus, campaign_pb2.RecipientStatus),
        (EventKind, campaign_pb2.CampaignEventKind),
        (EnqueueBlocker, campaign_pb2.EnqueueBlocker),
        (HoldReason, types_pb2.HoldReason),
    ],
    ids=lambda enum: getattr(enum, "__name__", ""),
)
def test_the_domain_numbers_as_the_contract_does(domain: type[IntEnum], contract: Any) -> None:
    assert {member.name: member.value for member in domain} == names(contract)


def test_reasons_of_lines_are_named_as_in_the_contract_and_what_can_be_wrong_with_a_number_is_among_them() -> None:
    assert {reason.value for reason in LineReason} == names(contacts_pb2.ImportLineReason).keys()
    assert {problem.name for problem in PhoneProblem} <= {reason.value for reason in LineReason}
