"""References: our id or the caller's own for what a request is about, and the fields that an update changes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import UUID

from google.protobuf.field_mask_pb2 import FieldMask

from bulksms_campaign.domain.arguments import phone_from
from bulksms_campaign.domain.campaigns import external_id_unknown
from bulksms_campaign.domain.contacts import contact_not_found
from bulksms_campaign.storage.campaigns import find_campaign_id
from bulksms_campaign.storage.contacts import find_phone
from servicekit.arguments import ArgumentCheck
from servicekit.database import Database

ALL_FIELDS = "*"


def campaign_reference(check: ArgumentCheck, request: Any) -> UUID | str:
    """The campaign a request names: our id, or the caller's own as a text."""
    if request.WhichOneof("campaign") == "external_id":
        return check.external_id(request.external_id)
    return check.uuid("campaign_id", request.campaign_id)


async def find_campaign(database: Database, tenant_id: str, reference: UUID | str) -> UUID | None:
    """Our id of a campaign; None when the caller's own is unknown. One of ours is not looked for."""
    if isinstance(reference, UUID):
        return reference
    async with database.connect() as connection:
        return await find_campaign_id(connection, tenant_id, reference)


async def campaign_id_of(database: Database, tenant_id: str, reference: UUID | str) -> UUID:
    """Our id of a campaign; CAMPAIGN_NOT_FOUND when the caller's own is unknown."""
    campaign_id = await find_campaign(database, tenant_id, reference)
    if campaign_id is None:
        raise external_id_unknown(str(reference))
    return campaign_id


def contact_reference(check: ArgumentCheck, request: Any) -> int | str:
    """The contact a request names: its number, or the caller's own id as a text."""
    if request.WhichOneof("contact") == "external_id":
        return check.external_id(request.external_id)
    return phone_from(check, "phone", request.phone)


async def find_contact(database: Database, tenant_id: str, reference: int | str) -> int | None:
    """The number of a contact; None when the caller's own id is unknown. A number is not looked for."""
    if isinstance(reference, int):
        return reference
    async with database.connect() as connection:
        return await find_phone(connection, tenant_id, reference)


async def phone_of(database: Database, tenant_id: str, reference: int | str) -> int:
    """The number of a contact; CONTACT_NOT_FOUND when the caller's own id is unknown."""
    phone = await find_contact(database, tenant_id, reference)
    if phone is None:
        raise contact_not_found()
    return phone


def masked_fields(check: ArgumentCheck, mask: FieldMask, fields: Collection[str], unmasked: set[str]) -> set[str]:
    """Which of `fields` an update replaces: those its mask names, or all for "*"; without a mask `unmasked`."""
    named = set(mask.paths)
    if not named:
        return unmasked
    if named == {ALL_FIELDS}:
        return set(fields)
    if unknown := sorted(named - set(fields)):
        known = ", ".join(fields)
        check.wrong("update_mask", f'names {", ".join(unknown)}: it may name {known}, or be "{ALL_FIELDS}" alone')
    return named & set(fields)
