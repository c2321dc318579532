"""Results: what the dispatcher and the gateway report of recipients, as facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
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


def repeated_ids(groups: Iterable[OutcomeGroup]) -> set[str]:
    """Ids that these groups give to more than one recipient."""
    times = Counter(message_id for group in groups for message_id in group.provider_message_ids)
    return {message_id for message_id, number in times.items() if number > 1}


def with_refused_ids(groups: Iterable[OutcomeGroup], refused: Collection[str]) -> list[OutcomeGroup]:
    """The groups, but whoever was given a refused id in groups of their own: accepted, nobody knows under which id."""
    parted: list[OutcomeGroup] = []
    for group in groups:
        if not any(message_id in refused for message_id in group.provider_message_ids):
            parted.append(group)
            continue
        pairs = list(zip(group.phones, group.provider_message_ids, strict=True))
        kept = [pair for pair in pairs if pair[1] not in refused]
        others = [phone for phone, message_id in pairs if message_id in refused]
        phones, ids = [phone for phone, _ in kept], [message_id for _, message_id in kept]
        parted.append(group._replace(phones=phones, provider_message_ids=ids))
        parted.append(group._replace(fact=group.fact | Fact.ID_REFUSED, phones=others, provider_message_ids=[]))
    return parted


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
