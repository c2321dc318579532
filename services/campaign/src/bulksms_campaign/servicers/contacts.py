"""ContactService: imports, contacts, opt-outs."""

# ruff: noqa: ARG002 - names and arguments are the contract's

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc

from bulksms.campaign.v1 import contacts_pb2 as pb
from bulksms.campaign.v1.contacts_pb2_grpc import ContactServiceServicer
from bulksms_campaign.domain.arguments import groups_from, phone_from, region_from
from bulksms_campaign.domain.contacts import CONTENT_FIELDS, MAX_NAME, ContactContent, clean_name
from bulksms_campaign.servicers.messages import audience_from, contact_message, import_line_message
from bulksms_campaign.servicers.references import contact_reference, find_contact, masked_fields, phone_of
from bulksms_campaign.use_cases.contacts import Contacts
from bulksms_campaign.use_cases.imports import ImportHeader, Imports
from servicekit.arguments import ArgumentCheck, invalid_field
from servicekit.database import Database
from servicekit.paging import Listing, position

Context = grpc.aio.ServicerContext[Any, Any]
MAX_PIECE = 1 << 20
DRAIN_BOUND = timedelta(seconds=30)


class ContactServicer(ContactServiceServicer):
    """Requests to operations and back; errors are raised, the interceptor renders them."""

    def __init__(self, database: Database, contacts: Contacts, imports: Imports) -> None:
        self._database = database
        self._contacts = contacts
        self._imports = imports

    async def ImportContacts(
        self, request_iterator: AsyncIterator[pb.ImportContactsRequest], context: Context
    ) -> pb.ImportContactsResponse:
        requests = aiter(request_iterator)
        first = await anext(requests, None)
        if first is None or first.WhichOneof("part") != "header":
            raise invalid_field("header", "must be the first message of the stream")
        try:
            header = _import_header(first.header)
            report = await self._imports.run(header, _pieces(requests))
        finally:
            await _drain(requests)
        counts = report.counts
        return pb.ImportContactsResponse(
            import_id=str(header.import_id),
            lines=counts.lines,
            imported=counts.created + counts.updated,
            created=counts.created,
            updated=counts.updated,
            duplicates=counts.duplicates,
            rejected=counts.rejected,
            lines_not_imported=[import_line_message(row) for row in report.first_lines],
            replayed=report.replayed,
        )

    async def ListImportLines(self, request: pb.ListImportLinesRequest, context: Context) -> pb.ListImportLinesResponse:
        check = ArgumentCheck()
        tenant_id = check.tenant_id(request.tenant_id)
        import_id = check.uuid("import_id", request.import_id)
        size = check.page_size(request.page_size)
        listing = Listing("import lines", tenant_id, import_id)
        after = listing.after(check, request.page_token, position) or 0
        check.finish()
        rows = await self._imports.lines(tenant_id, import_id, after, size + 1)
        return pb.ListImportLinesResponse(
            lines=[import_line_message(row) for row in rows[:size]],
            next_page_token=listing.next_token(rows, size, lambda row: row.line_number),
        )

    async def UpsertContact(self, request: pb.UpsertContactRequest, context: Context) -> pb.UpsertContactResponse:
        check = ArgumentCheck()
        check.request_id(request.request_id)
        tenant_id = check.tenant_id(request.tenant_id)
        reference = _upserted(check, request)
        content = _content(check, request.contact)
        names = masked_fields(check, request.update_mask, CONTENT_FIELDS, set(CONTENT_FIELDS))
        check.finish()
        phone = await phone_of(self._database, tenant_id, reference)
        upserted = await self._contacts.upsert(tenant_id, phone, content, names, request.etag)
        return pb.UpsertContactResponse(contact=contact_message(upserted.contact), created=upserted.created)

    async def GetContact(self, request: pb.GetContactRequest, context: Context) -> pb.GetContactResponse:
        tenant_id, phone = await self._named(ArgumentCheck(), request)
        return pb.GetContactResponse(contact=contact_message(await self._contacts.get(tenant_id, phone)))

    async def ListContacts(self, request: pb.ListContactsRequest, context: Context) -> pb.ListContactsResponse:
        check = ArgumentCheck()
        tenant_id = check.tenant_id(request.tenant_id)
        groups = groups_from(check, "group", [request.group] if request.group else [])
        size = check.page_size(request.page_size)
        listing = Listing("contacts", tenant_id, request.group)
        after = listing.after(check, request.page_token, position) or 0
        check.finish()
        found = await self._contacts.list(tenant_id, groups[0] if groups else "", after, size + 1)
        return pb.ListContactsResponse(
            contacts=[contact_message(contact) for contact in found[:size]],
            next_page_token=listing.next_token(found, size, lambda contact: contact.phone),
        )

    async def DeleteContact(self, request: pb.DeleteContactRequest, context: Context) -> pb.DeleteContactResponse:
        check = ArgumentCheck()
        check.request_id(request.request_id)
        tenant_id, reference = check.tenant_id(request.tenant_id), contact_reference(check, request)
        check.finish()
        phone = await find_contact(self._database, tenant_id, reference)
        deleted = phone is not None and await self._contacts.delete(tenant_id, phone)
        return pb.DeleteContactResponse(deleted=deleted)

    async def CountContacts(self, request: pb.CountContactsRequest, context: Context) -> pb.CountContactsResponse:
        check = ArgumentCheck()
        tenant_id = check.tenant_id(request.tenant_id)
        audience = audience_from(check, request.audience)
        check.finish()
        size = await self._contacts.count(tenant_id, audience)
        return pb.CountContactsResponse(reachable=size.reachable, opted_out=size.opted_out)

    async def OptOut(self, request: pb.OptOutRequest, context: Context) -> pb.OptOutResponse:
        tenant_id, phone = await self._opting(request)
        new = await self._contacts.opt_out(tenant_id, phone, request.source)
        return pb.OptOutResponse(already_opted_out=not new)

    async def OptIn(self, request: pb.OptInRequest, context: Context) -> pb.OptInResponse:
        tenant_id, phone = await self._opting(request)
        return pb.OptInResponse(was_opted_out=await self._contacts.opt_in(tenant_id, phone))

    async def _opting(self, request: pb.OptOutRequest | pb.OptInRequest) -> tuple[str, int]:
        check = ArgumentCheck()
        check.request_id(request.request_id)
        check.text("source", request.source, maximum=64)
        return await self._named(check, request)

    async def _named(self, check: ArgumentCheck, request: Any) -> tuple[str, int]:
        """The tenant and the number of the contact a request names; raises what is wrong with it, CONTACT_NOT_FOUND."""
        tenant_id, reference = check.tenant_id(request.tenant_id), contact_reference(check, request)
        check.finish()
        return tenant_id, await phone_of(self._database, tenant_id, reference)


def _import_header(header: pb.ImportHeader) -> ImportHeader:
    check = ArgumentCheck()
    parsed = ImportHeader(
        check.request_id(header.request_id),
        check.tenant_id(header.tenant_id),
        region_from(check, "default_region", header.default_region),
        groups_from(check, "groups", list(header.groups)),
    )
    check.finish()
    return parsed


async def _drain(requests: AsyncIterator[pb.ImportContactsRequest]) -> None:
    """Read what is still coming before answering early, be it a refusal or a repeat's report.

    A call that ends while its client is still sending often reaches the client as a broken stream, without the
    reason (seen with grpcio 1.85 in three of five refusals of a 10 MB line).
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_BOUND.total_seconds()):
            async for _ in requests:
                pass


async def _pieces(requests: AsyncIterator[pb.ImportContactsRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "data":
            raise invalid_field("data", "every message after the first must carry data")
        if len(request.data) > MAX_PIECE:
            raise invalid_field("data", f"has {len(request.data)} bytes: send at most {MAX_PIECE} a message")
        yield request.data


def _upserted(check: ArgumentCheck, request: pb.UpsertContactRequest) -> int | str:
    """The contact to create or replace: its number, or where there is none the caller's own id."""
    region = region_from(check, "default_region", request.default_region)
    if not request.contact.phone and request.contact.external_id:
        return request.contact.external_id
    return phone_from(check, "contact.phone", request.contact.phone, region)


def _content(check: ArgumentCheck, contact: pb.Contact) -> ContactContent:
    return ContactContent(
        external_id=check.optional_external_id(contact.external_id, "contact.external_id"),
        first_name=_name(check, "contact.first_name", contact.first_name),
        last_name=_name(check, "contact.last_name", contact.last_name),
        groups=groups_from(check, "contact.groups", list(contact.groups)),
    )


def _name(check: ArgumentCheck, field: str, raw: str) -> str:
    name = clean_name(raw)
    if name is None:
        check.wrong(field, "has control characters: remove them")
        return ""
    return check.text(field, name, maximum=MAX_NAME)
