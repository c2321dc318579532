"""Preview: what a campaign would send now, and what would keep it from being enqueued."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from uuid import UUID

from bulksms_campaign.domain.audiences import AudienceSize
from bulksms_campaign.domain.blockers import EnqueueBlocker
from bulksms_campaign.domain.campaigns import ALLOWED_STATES, Campaign, Step, campaign_not_found
from bulksms_campaign.peers.ledger import LedgerPeer, subscription_is_active
from bulksms_campaign.storage.audiences import read_audience
from bulksms_campaign.storage.campaigns import read_campaign
from bulksms_campaign.use_cases.counting import count_audience
from servicekit.bulk import raw
from servicekit.clock import Clock
from servicekit.database import Database
from servicekit.errors import DomainError
from smstext.parts import Encoding, TextSize, measure
from smstext.phone import mask_phone
from smstext.template import Template

CHUNK = 1000
"""Rows rendered between two looks at the rest of the world: a few milliseconds."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One rendered message, its number masked."""

    masked_phone: str
    text: str
    size: TextSize


@dataclass(frozen=True, slots=True)
class Preview:
    """See PreviewCampaignResponse."""

    size: AudienceSize
    parts: int
    parts_counted: int
    ucs2_recipients: int
    credits: int
    credits_available: int | None
    batches: int
    samples: tuple[Sample, ...]
    blockers: tuple[EnqueueBlocker, ...]


@dataclass(slots=True)
class _Measured:
    recipients: int = 0
    parts: int = 0
    ucs2: int = 0

    def add(self, size: TextSize, times: int = 1) -> None:
        self.recipients += times
        self.parts += size.parts * times
        self.ucs2 += times if size.encoding is Encoding.UCS2 else 0


class Previews:
    """Reads only; a size that had to be counted is cached."""

    def __init__(
        self, database: Database, ledger: LedgerPeer, clock: Clock, *, batch_size: int, render_limit: int
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._clock = clock
        self._batch_size = batch_size
        self._render_limit = render_limit

    async def preview(self, tenant_id: str, campaign_id: UUID, samples: int) -> Preview:
        """Count, render, ask the ledger; CAMPAIGN_NOT_FOUND."""
        async with self._database.connect() as connection:
            campaign = await read_campaign(connection, tenant_id, campaign_id)
        if campaign is None:
            raise campaign_not_found(campaign_id)
        audience = campaign.content.audience
        size = await count_audience(self._database, tenant_id, audience)
        measured, shown = await self._render(campaign, size, samples)
        blockers, available = await self._blockers(campaign, size)
        counted = max(measured.recipients, 1)
        return Preview(
            size=size,
            parts=round(measured.parts * size.reachable / counted),
            parts_counted=min(measured.recipients, size.reachable),
            ucs2_recipients=measured.ucs2,
            credits=size.reachable,
            credits_available=available,
            batches=-(-size.reachable // self._batch_size),
            samples=shown,
            blockers=blockers,
        )

    async def _render(
        self, campaign: Campaign, size: AudienceSize, samples: int
    ) -> tuple[_Measured, tuple[Sample, ...]]:
        template = Template.parse(campaign.content.text)
        # Without variables all messages are the same: a few rows, for the samples, are enough.
        limit = self._render_limit if template.variable_names else samples
        measured, shown = _Measured(), list[Sample]()
        async with self._database.connect() as connection:
            driver = await raw(connection)
            read = read_audience(driver, campaign.tenant_id, campaign.content.audience, limit=limit, at_once=CHUNK)
            async for rows in read:
                for phone, text in _rendered(template, rows):
                    measured.add(size_of := measure(text))
                    if len(shown) < samples:
                        shown.append(Sample(mask_phone(phone), text, size_of))
        if not template.variable_names and size.reachable:
            measured = _Measured()
            measured.add(measure(template.render(())), size.reachable)
        return measured, tuple(islice(shown, samples))

    async def _blockers(self, campaign: Campaign, size: AudienceSize) -> tuple[tuple[EnqueueBlocker, ...], int | None]:
        """What EnqueueCampaign would refuse with, and the credits available; None when the ledger does not answer."""
        blockers: list[EnqueueBlocker] = []
        if campaign.state not in ALLOWED_STATES[Step.ENQUEUE]:
            blockers.append(EnqueueBlocker.CAMPAIGN_STATE)
        if campaign.content.is_too_late(self._clock.now()):
            blockers.append(EnqueueBlocker.TOO_LATE)
        if size.reachable == 0:
            blockers.append(EnqueueBlocker.EMPTY_AUDIENCE)
        try:
            account = await self._ledger.account(campaign.tenant_id)
        except DomainError as error:
            if error.reason == EnqueueBlocker.ACCOUNT_NOT_FOUND.name:
                return (*blockers, EnqueueBlocker.ACCOUNT_NOT_FOUND), 0
            return (*blockers, EnqueueBlocker.LEDGER_UNAVAILABLE), None
        if not subscription_is_active(account, self._clock.now().timestamp()):
            blockers.append(EnqueueBlocker.SUBSCRIPTION_INACTIVE)
        if account.balance.available < size.reachable:
            blockers.append(EnqueueBlocker.INSUFFICIENT_CREDITS)
        return tuple(blockers), account.balance.available


def _rendered(template: Template, rows: Sequence[tuple[int, str, str]]) -> Iterator[tuple[int, str]]:
    columns = [{"first_name": 1, "last_name": 2}[name] for name in template.variable_names]
    for row in rows:
        yield row[0], template.render([str(row[column]) for column in columns])
