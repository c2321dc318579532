"""Results: what the dispatcher and the gateway report of recipients, as facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bulksms_campaign.domain.recipients import Fact

MAX_DESCRIPTION = 200


class OutcomeGroup(NamedTuple):
    """One fact for some recipients of a batch; `provider_message_ids` is empty or one per phone."""

    fact: Fact
    reason: str
    description: str
    phones: Sequence[int]
    provider_message_ids: Sequence[str]


class MessageReport(NamedTuple):
    """What was reported of one message; `description` only of a failure."""

    provider_message_id: str
    facts: Fact
    description: str

    @classmethod
    def of(cls, provider_message_id: str, fact: Fact, description: str) -> MessageReport:
        """One report as it came."""
        failed = fact & (Fact.NOT_DELIVERED | Fact.EXPIRED)
        return cls(provider_message_id, fact, clean_description(description) if failed else "")


def fold_reports(reports: Iterable[MessageReport]) -> dict[str, MessageReport]:
    """All reports of one message as one: facts together, the greatest description of a failure."""
    folded: dict[str, MessageReport] = {}
    for report in reports:
        key, facts, description = report
        before = folded.get(key)
        if before is not None:
            facts, description = facts | before.facts, max(description, before.description)
        folded[key] = MessageReport(key, facts, description)
    return folded


def clean_description(text: str) -> str:
    """The provider's words as they can be stored: bounded, and without the NUL that PostgreSQL refuses."""
    return text[:MAX_DESCRIPTION].replace("\0", "�")
