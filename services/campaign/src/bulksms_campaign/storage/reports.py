"""Delivery reports: facts about recipients of whatever enqueue, found by the provider's message ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.counters import Transition
from bulksms_campaign.domain.enqueues import EnqueueKey
from bulksms_campaign.domain.recipients import Fact
from bulksms_campaign.domain.results import MessageReport
from bulksms_campaign.storage.folding import status_sql
from servicekit.bulk import raw

# Of whatever tenant: a report says no more than the provider's message id. LATERAL with OFFSET 0 is a fence: one look
# into the hash index per id, never a join with the whole table. Results recorded at the same moment may both have been
# given an id that neither could see with the other: its reports are about one of two people, and nobody knows which.
_FIND = """
    SELECT i.now, r.tenant_id, r.campaign_id, r.enqueue_number, r.launched_on,
        array_agg(r.phone) FILTER (WHERE r.holders = 1), array_agg(r.provider_message_id) FILTER (WHERE r.holders > 1)
    FROM (SELECT clock_timestamp() AS now) i LEFT JOIN (
        SELECT h.*, t.provider_message_id, count(*) OVER (PARTITION BY t.provider_message_id) AS holders
        FROM unnest($1::text[]) AS t (provider_message_id)
        CROSS JOIN LATERAL (
            SELECT tenant_id, campaign_id, enqueue_number, launched_on, phone FROM recipients
            WHERE provider_message_id = t.provider_message_id OFFSET 0
        ) h
    ) r ON true
    GROUP BY 1, 2, 3, 4, 5 ORDER BY 2, 3, 4, 5
"""

# Read again under the lock: that is what counts. Here and below one table and an array of its key: there is no join to
# plan wrongly.
_LOCK = """
    SELECT phone, facts, provider_message_id, report_description, units, superseded FROM recipients
    WHERE tenant_id = $1 AND campaign_id = $2 AND enqueue_number = $3 AND launched_on = $4 AND phone = ANY($5::bigint[])
    ORDER BY phone FOR NO KEY UPDATE
"""

_RECORD = f"""
    UPDATE recipients SET
        facts = facts | $6::smallint, status = {status_sql("(facts | $6::smallint)")},
        report_description = greatest(report_description, $7::text), updated_at = $8
    WHERE tenant_id = $1 AND campaign_id = $2 AND enqueue_number = $3 AND launched_on = $4 AND phone = ANY($5::bigint[])
"""


class RecordedReports(NamedTuple):
    """What reports did: which message ids are known, and by enqueue the changes and the phones that changed."""

    known: set[str]
    mixed_up: set[str]
    """Known ids that more than one recipient has: nothing was recorded of them."""
    transitions: dict[EnqueueKey, list[Transition]]
    changed: dict[EnqueueKey, list[int]]
    now: datetime

    @property
    def number_changed(self) -> int:
        """How many recipients changed."""
        return sum(len(phones) for phones in self.changed.values())


async def record_reports(
    connection: AsyncConnection, reports: Mapping[str, MessageReport], tenant_id: str = ""
) -> RecordedReports:
    """Record delivery reports by message id; with a tenant, other tenants' messages are as good as unknown."""
    driver = await raw(connection)
    found = await driver.fetch(_FIND, list(reports))
    recorded = RecordedReports(set(), set(), {}, {}, found[0]["now"])
    for _, *key, phones, mixed_up in found:
        enqueue = EnqueueKey(*key)
        if enqueue.launched_on is None or tenant_id not in {"", enqueue.tenant_id}:
            continue
        recorded.mixed_up.update(mixed_up or ())
        recorded.known.update(mixed_up or ())
        rows = await driver.fetch(_LOCK, *enqueue, phones or [])
        transitions, writes = _fold(rows, reports, recorded.known)
        for (fact, description), written in writes.items():
            await driver.execute(_RECORD, *enqueue, written, fact, description, recorded.now)
            recorded.changed.setdefault(enqueue, []).extend(written)
        if transitions:
            recorded.transitions[enqueue] = transitions
    return recorded


_Write = tuple[int, str | None]
"""(facts to add, description of a failure)"""


def _fold(
    rows: Sequence[Any], reports: Mapping[str, MessageReport], known: set[str]
) -> tuple[list[Transition], dict[_Write, list[int]]]:
    """How recipients' facts change, and which rows are to be written with what."""
    moves: dict[tuple[int, int, bool], list[int]] = {}
    writes: dict[_Write, list[int]] = {}
    for phone, facts, message_id, stored_description, units, superseded in rows:
        report = reports.get(message_id)
        if report is None:  # another attempt's message took its place between the look and the lock
            continue
        known.add(message_id)
        added = int(report.facts)
        if facts | added != facts or report.description > (stored_description or ""):
            writes.setdefault((added, report.description or None), []).append(phone)
            moved = moves.setdefault((facts, facts | added, superseded), [0, 0])
            moved[0] += 1
            moved[1] += units
    transitions = [
        Transition(Fact(before), Fact(after), recipients, units, superseded)
        for (before, after, superseded), (recipients, units) in moves.items()
    ]
    return transitions, writes
