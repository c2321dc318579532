"""Contacts: import them, keep them, count them, and respect who does not want to be written to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from os import PathLike

from google.protobuf.field_mask_pb2 import FieldMask

from bulksms.campaign.v1 import contacts_pb2 as pb
from bulksms_client.aio.resource import PAGE_SIZE, RequestT, Resource
from bulksms_client.arguments import BinaryReader, audience, import_requests, names, new_request_id, opened

__all__ = ["Contacts"]


class Contacts(Resource):
    """Calls of ContactService. A contact is named by its phone number, or by `external_id`: the caller's own id."""

    async def import_csv(
        self,
        file: PathLike[str] | str | BinaryReader,
        *,
        region: str = "",
        groups: Iterable[str] = (),
        on_progress: Callable[[int], None] | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.ImportContactsResponse:
        """Import a CSV file, streamed; all of it or, when an error is raised, nothing.

        `region` is the country of numbers in national form ("GR"). `on_progress` gets the bytes sent so far, maybe
        in another thread. A stream that broke is not begun again by itself: repeat the call with the same
        `request_id`, and what was imported already is reported, not imported twice. The deadline is 900 seconds when
        not given.
        """
        header = pb.ImportHeader(
            request_id=new_request_id(request_id),
            tenant_id=self._tenant_id,
            default_region=region,
            groups=names("groups", groups),
        )
        with opened(file) as binary:
            requests = import_requests(header, binary, on_progress)
            return await self._transport.upload(
                requests, pb.ImportContactsRequest, pb.ImportContactsResponse, timeout=timeout
            )

    async def import_lines(
        self, import_id: str, *, page_size: int = PAGE_SIZE, timeout: float | None = None
    ) -> AsyncIterator[pb.ImportLine]:
        """The lines of an import that were rejected or duplicates, in line order; pages by itself."""
        request = pb.ListImportLinesRequest(tenant_id=self._tenant_id, import_id=import_id, page_size=page_size)
        async for page in self._pages(request, pb.ListImportLinesResponse, timeout=timeout):
            for line in page.lines:
                yield line

    async def upsert(
        self,
        phone: str = "",
        *,
        external_id: str = "",
        first_name: str = "",
        last_name: str = "",
        groups: Iterable[str] = (),
        region: str = "",
        update_mask: Iterable[str] = (),
        etag: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.UpsertContactResponse:
        """Create or replace one contact; one that exists may be named by `external_id` alone.

        Of one that exists everything is replaced, or only the fields that `update_mask` names. With the `etag` that it
        was read with, a change of somebody else's meanwhile is a Conflict.
        """
        contact = pb.Contact(
            phone=phone,
            external_id=external_id,
            first_name=first_name,
            last_name=last_name,
            groups=names("groups", groups),
        )
        request = pb.UpsertContactRequest(
            request_id=new_request_id(request_id),
            tenant_id=self._tenant_id,
            contact=contact,
            default_region=region,
            update_mask=FieldMask(paths=names("update_mask", update_mask)),
            etag=etag,
        )
        return await self._transport.unary(request, pb.UpsertContactResponse, timeout=timeout)

    async def get(
        self, phone: str | None = None, *, external_id: str | None = None, timeout: float | None = None
    ) -> pb.Contact:
        """Read one contact."""
        request = self._named(pb.GetContactRequest(), phone, external_id)
        return (await self._transport.unary(request, pb.GetContactResponse, timeout=timeout)).contact

    async def list(
        self, *, group: str = "", page_size: int = PAGE_SIZE, timeout: float | None = None
    ) -> AsyncIterator[pb.Contact]:
        """Contacts (of a group) in phone order; pages by itself."""
        request = pb.ListContactsRequest(tenant_id=self._tenant_id, group=group, page_size=page_size)
        async for page in self._pages(request, pb.ListContactsResponse, timeout=timeout):
            for contact in page.contacts:
                yield contact

    async def delete(
        self,
        phone: str | None = None,
        *,
        external_id: str | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Forget a contact; its opt-out stays. False when there was none."""
        request = self._named(pb.DeleteContactRequest(request_id=new_request_id(request_id)), phone, external_id)
        return (await self._transport.unary(request, pb.DeleteContactResponse, timeout=timeout)).deleted

    async def count(
        self,
        *,
        groups: Iterable[str] = (),
        all_contacts: bool = False,
        exclude_groups: Iterable[str] = (),
        timeout: float | None = None,
    ) -> pb.CountContactsResponse:
        """How many contacts an audience would reach now."""
        request = pb.CountContactsRequest(
            tenant_id=self._tenant_id,
            audience=audience(groups, all_contacts=all_contacts, exclude_groups=exclude_groups),
        )
        return await self._transport.unary(request, pb.CountContactsResponse, timeout=timeout)

    async def opt_out(
        self,
        phone: str | None = None,
        *,
        external_id: str | None = None,
        source: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Never write to a number again; True when it had opted out before."""
        request = self._named(
            pb.OptOutRequest(request_id=new_request_id(request_id), source=source), phone, external_id
        )
        return (await self._transport.unary(request, pb.OptOutResponse, timeout=timeout)).already_opted_out

    async def opt_in(
        self,
        phone: str | None = None,
        *,
        external_id: str | None = None,
        source: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Take an opt-out back; True when there was one."""
        request = self._named(pb.OptInRequest(request_id=new_request_id(request_id), source=source), phone, external_id)
        return (await self._transport.unary(request, pb.OptInResponse, timeout=timeout)).was_opted_out

    def _named(self, request: RequestT, phone: str | None, external_id: str | None) -> RequestT:
        return self._naming(request, phone=phone, external_id=external_id)
