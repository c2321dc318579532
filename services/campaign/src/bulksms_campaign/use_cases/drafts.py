"""Drafts: campaigns before they are enqueued."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.audiences import Audience
from bulksms_campaign.domain.campaigns import (
    Campaign,
    CampaignContent,
    CampaignPriority,
    CampaignState,
    MessageClass,
    Step,
    campaign_not_found,
    external_id_used,
)
from bulksms_campaign.domain.events import EventKind
from bulksms_campaign.storage.campaign_holds import delete_hold
from bulksms_campaign.storage.campaigns import (
    LockedCampaign,
    change_campaign,
    change_content,
    delete_campaign,
    find_campaign_id,
    insert_campaign,
    lock_campaign,
    read_campaign,
)
from bulksms_campaign.storage.events import append_event
from bulksms_campaign.storage.instants import read_instant
from bulksms_campaign.storage.requests import MutationKey, claim_request, find_result
from bulksms_campaign.storage.tasks import TaskKind, ask_for_task, withdraw_task
from bulksms_campaign.use_cases.counting import prepare_count
from bulksms_campaign.use_cases.signals import Signals
from servicekit.arguments import invalid_field
from servicekit.clock import Clock
from servicekit.database import Database
from servicekit.ids import derived_id

_NAMESPACE = UUID("c1c8a2f4-5f83-4a8b-9a53-6d2f0c9a7b1e")
FARTHEST_SCHEDULE = timedelta(days=366)


class Created(NamedTuple):
    """A campaign, and whether an earlier call had made it."""

    campaign: Campaign
    replayed: bool


class Replaced(NamedTuple):
    """The new end of a campaign; None: it gets none."""

    not_after: datetime | None


class ContentChange(NamedTuple):
    """What an update replaces; None stays as it is."""

    name: str | None
    text: str | None
    sender: str | None
    audience: Audience | None
    priority: CampaignPriority | None
    message_class: MessageClass | None
    not_after: Replaced | None

    def applied_to(self, content: CampaignContent) -> CampaignContent:
        """The new content."""
        return CampaignContent(
            name=content.name if self.name is None else self.name,
            text=content.text if self.text is None else self.text,
            sender=content.sender if self.sender is None else self.sender,
            audience=self.audience or content.audience,
            priority=self.priority or content.priority,
            message_class=self.message_class or content.message_class,
            not_after=content.not_after if self.not_after is None else self.not_after.not_after,
        )


class Drafts:
    """Creating, changing, scheduling and deleting campaigns that have not been enqueued."""

    def __init__(self, database: Database, signals: Signals, clock: Clock) -> None:
        self._database = database
        self._signals = signals
        self._clock = clock

    async def create(self, key: MutationKey, external_id: str, content: CampaignContent) -> Created:
        """Make a DRAFT; a repeat finds it as it is now. EXTERNAL_ID_USED."""
        campaign_id = derived_id(_NAMESPACE, key.tenant_id, key.request_id)

        async def body(connection: AsyncConnection) -> Created:
            now = await read_instant(connection)
            if await claim_request(connection, key, campaign_id, now) is None:
                self._check_end(content.not_after, None)
                inserted = await insert_campaign(connection, key.tenant_id, campaign_id, external_id, content, now)
                if inserted is None:
                    raise external_id_used(await find_campaign_id(connection, key.tenant_id, external_id) or "")
                await append_event(connection, inserted, EventKind.CREATED, "")
                await prepare_count(connection, key.tenant_id, content.audience, now)
                return Created(inserted.campaign, replayed=False)
            campaign = await read_campaign(connection, key.tenant_id, campaign_id)
            if campaign is None:  # made by this request id once, and deleted since
                raise campaign_not_found(campaign_id)
            return Created(campaign, replayed=True)

        created = await self._database.run_transaction(body)
        self._notify(content.audience)
        return created

    async def update(self, key: MutationKey, campaign_id: UUID, change: ContentChange, etag: str) -> Campaign:
        """Replace some of the content of a DRAFT or SCHEDULED campaign. ETAG_MISMATCH, unless `etag` is empty."""

        async def body(connection: AsyncConnection) -> Campaign:
            locked = await lock(connection, key.tenant_id, campaign_id)
            campaign, now = locked
            if await find_result(connection, key) is not None:
                return campaign
            campaign.require(Step.UPDATE)
            campaign.require_etag(etag)
            await claim_request(connection, key, campaign_id, now)
            await append_event(connection, locked, EventKind.UPDATED, "")
            content = change.applied_to(campaign.content)
            if change.not_after is not None:
                self._check_end(content.not_after, campaign.scheduled_at)
            await prepare_count(connection, key.tenant_id, content.audience, now)
            return await change_content(connection, locked, content)

        campaign = await self._database.run_transaction(body)
        self._notify(campaign.content.audience)
        return campaign

    async def delete(self, tenant_id: str, campaign_id: UUID, etag: str) -> bool:
        """Delete a DRAFT; False when there is none. ETAG_MISMATCH, unless `etag` is empty."""

        async def body(connection: AsyncConnection) -> bool:
            locked = await lock_campaign(connection, tenant_id, campaign_id)
            if locked is None:
                return False
            locked.campaign.require(Step.DELETE)
            locked.campaign.require_etag(etag)
            await delete_campaign(connection, tenant_id, campaign_id)
            return True

        return await self._database.run_transaction(body)

    async def schedule(self, key: MutationKey, campaign_id: UUID, at: datetime | None) -> Campaign:
        """Set when a campaign is enqueued by itself, or, without a time, take that back."""

        async def body(connection: AsyncConnection) -> Campaign:
            locked = await lock(connection, key.tenant_id, campaign_id)
            campaign, now = locked
            if await find_result(connection, key) is not None:
                return campaign
            campaign.require(Step.SCHEDULE)
            self._check_time(at, campaign.content.not_after)
            await claim_request(connection, key, campaign_id, now)
            await delete_hold(connection, key.tenant_id, campaign_id)
            if at is None:
                await withdraw_task(connection, TaskKind.START_SCHEDULED, key.tenant_id, campaign_id)
                await append_event(connection, locked, EventKind.SCHEDULED, "schedule taken back")
                return await change_campaign(connection, locked, state=CampaignState.DRAFT, scheduled_at=None)
            await ask_for_task(connection, TaskKind.START_SCHEDULED, key.tenant_id, campaign_id, at)
            await append_event(
                connection, locked, EventKind.SCHEDULED, at.astimezone(UTC).isoformat(timespec="seconds")
            )
            return await change_campaign(connection, locked, state=CampaignState.SCHEDULED, scheduled_at=at)

        return await self._database.run_transaction(body)

    def _notify(self, audience: Audience) -> None:
        if audience.is_counted:
            self._signals.count.notify()

    def _check_time(self, at: datetime | None, not_after: datetime | None) -> None:
        now = self._clock.now()
        if at is not None and not now < at <= now + FARTHEST_SCHEDULE:
            raise invalid_field(
                "scheduled_at", "must be in the future, at most 366 days ahead; unset it to take it back"
            )
        if at is not None and not_after is not None and at >= not_after:
            raise invalid_field("scheduled_at", "must be before the campaign's not_after: schedule it earlier")

    def _check_end(self, not_after: datetime | None, scheduled_at: datetime | None) -> None:
        now = self._clock.now()
        if not_after is not None and not now < not_after <= now + FARTHEST_SCHEDULE:
            raise invalid_field("not_after", "must be in the future, at most 366 days ahead; unset it for no end")
        if not_after is not None and scheduled_at is not None and not_after <= scheduled_at:
            raise invalid_field("not_after", "must be after scheduled_at: choose a later one, or schedule it earlier")


async def lock(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> LockedCampaign:
    """The campaign, locked, or CAMPAIGN_NOT_FOUND."""
    locked = await lock_campaign(connection, tenant_id, campaign_id)
    if locked is None:
        raise campaign_not_found(campaign_id)
    return locked
