"""Imports, contacts and opt-outs through the service's RPCs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from bulksms.campaign.v1 import contacts_pb2 as pb
from devstack.eventually import eventually

from .campaign_support import TENANT, Service, audience, refused

PHONE = "+306941234567"


async def count(service: Service, *groups: str, exclude: tuple[str, ...] = ()) -> tuple[int, int]:
    answer = await service.contacts.CountContacts(
        pb.CountContactsRequest(tenant_id=TENANT, audience=audience(*groups, exclude=exclude))
    )
    return answer.reachable, answer.opted_out


async def opt_out(service: Service, phone: str) -> bool:
    request = pb.OptOutRequest(request_id=str(uuid4()), tenant_id=TENANT, phone=phone, source="test")
    return (await service.contacts.OptOut(request)).already_opted_out


async def opt_in(service: Service, phone: str) -> bool:
    request = pb.OptInRequest(request_id=str(uuid4()), tenant_id=TENANT, phone=phone, source="test")
    return (await service.contacts.OptIn(request)).was_opted_out


async def upsert(service: Service, phone: str, **fields: Any) -> pb.UpsertContactResponse:
    request = pb.UpsertContactRequest(
        request_id=str(uuid4()), tenant_id=TENANT, contact=pb.Contact(phone=phone, **fields), default_region="GR"
    )
    return await service.contacts.UpsertContact(request)


async def cached_counts_are_true(service: Service) -> bool:
    async with service.database.connect() as connection:
        rows = await connection.execute(
            text("""
            SELECT k.contacts, k.opted_out, m.contacts, m.opted_out FROM contact_counts k
            LEFT JOIN (
                SELECT l.tenant_id, l.name, count(*) AS contacts, count(o.phone) AS opted_out FROM (
                    SELECT tenant_id, '' AS name, phone FROM contacts
                    UNION ALL SELECT tenant_id, group_name, phone FROM contact_groups
                ) l LEFT JOIN opt_outs o USING (tenant_id, phone) GROUP BY 1, 2
            ) m ON m.tenant_id = k.tenant_id AND m.name = k.group_name
            """)
        )
        return all((row[0], row[1]) == (row[2] or 0, row[3] or 0) for row in rows)


async def test_an_import_accounts_for_every_line(service: Service) -> None:
    lines = ["phone,first_name", "6941234567,Anna", "+30 694 123 4567,Again", "x,y", "", "+306941234568,Bob", "1,2,3"]
    report = await service.import_csv("\n".join(lines) + "\n", groups=["vip"])
    assert (report.lines, report.imported, report.duplicates, report.rejected) == (6, 2, 1, 3)
    assert report.lines == report.imported + report.duplicates + report.rejected
    said = [(line.line_number, line.reason, line.first_line_number) for line in report.lines_not_imported]
    assert said == [
        (3, pb.IMPORT_LINE_REASON_DUPLICATE, 2),
        (4, pb.IMPORT_LINE_REASON_PHONE_INVALID, 0),
        (5, pb.IMPORT_LINE_REASON_BLANK_LINE, 0),
        (7, pb.IMPORT_LINE_REASON_FIELD_COUNT, 0),
    ]
    assert [line.HasField("first_line_number") for line in report.lines_not_imported] == [True, False, False, False]
    listed = await service.contacts.ListImportLines(
        pb.ListImportLinesRequest(tenant_id=TENANT, import_id=report.import_id, page_size=2)
    )
    assert [line.line_number for line in listed.lines] == [3, 4]
    rest = await service.contacts.ListImportLines(
        pb.ListImportLinesRequest(
            tenant_id=TENANT, import_id=report.import_id, page_size=2, page_token=listed.next_page_token
        )
    )
    assert [line.line_number for line in rest.lines] == [5, 7]
    assert rest.next_page_token == ""
    assert await count(service) == await count(service, "vip") == (2, 0)
    contact = (await service.contacts.GetContact(pb.GetContactRequest(tenant_id=TENANT, phone=PHONE))).contact
    assert (contact.first_name, list(contact.groups)) == ("Anna", ["vip"])


async def test_importing_again_updates_and_an_empty_name_erases_nothing(service: Service) -> None:
    await service.import_csv("phone,first_name\n6941234567,Anna\n6941234568,Bob\n")
    report = await service.import_csv("phone,first_name,last_name\n6941234567,,Papa\n6941234569,,\n", groups=["new"])
    assert (report.created, report.updated) == (1, 1)
    contact = (await service.contacts.GetContact(pb.GetContactRequest(tenant_id=TENANT, phone=PHONE))).contact
    assert (contact.first_name, contact.last_name) == ("Anna", "Papa")
    assert await count(service) == (3, 0)
    assert await count(service, "new") == (2, 0)
    assert await cached_counts_are_true(service)


async def test_the_same_request_id_imports_once_even_at_the_same_moment(service: Service) -> None:
    request_id = str(uuid4())
    file = "phone\n" + "".join(f"+3069410{number:05d}\n" for number in range(500)) + "bad\n"
    reports = await asyncio.gather(*(service.import_csv(file, request_id=request_id) for _ in range(3)))
    assert sorted(report.replayed for report in reports) == [False, True, True]
    assert {(r.lines, r.created, r.updated, r.rejected, len(r.lines_not_imported)) for r in reports} == {
        (501, 500, 0, 1, 1)
    }
    error = await refused(service.import_csv(file, request_id=request_id, region="DE"))
    assert error.reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"name,city\nA,B\n", "CSV_HEADER"),
        ("phone,name\n6941234567,Άννα\n".encode("cp1253"), "CSV_NOT_UTF8"),
        (b"phone\n6941234567\n" + b"x" * 10_000_000, "CSV_LINE_TOO_LONG"),
        (b"phone\n", "IMPORT_EMPTY"),
        (b"", "IMPORT_EMPTY"),
    ],
)
async def test_a_file_that_cannot_be_read_is_refused_and_leaves_nothing(
    service: Service, file: bytes, reason: str
) -> None:
    request_id = str(uuid4())
    error = await refused(service.import_csv(file, request_id=request_id))
    assert error.reason == reason
    assert error.category.http_status == 400
    assert "line_number" in error.metadata
    assert await count(service) == (0, 0)
    lines = pb.ListImportLinesRequest(tenant_id=TENANT, import_id=request_id)
    assert (await refused(service.contacts.ListImportLines(lines))).reason == "IMPORT_NOT_FOUND"
    # The same request id is free for the corrected file, and the connection is clean for others.
    assert (await service.import_csv("phone\n6941234567\n", request_id=request_id)).created == 1


async def test_an_import_broken_off_leaves_nothing_and_frees_its_place(service: Service) -> None:
    async def parts() -> AsyncIterator[pb.ImportContactsRequest]:
        yield pb.ImportContactsRequest(
            header=pb.ImportHeader(request_id=str(uuid4()), tenant_id=TENANT, default_region="GR")
        )
        yield pb.ImportContactsRequest(data=b"phone\n6941234567\n")
        await asyncio.Event().wait()

    for _ in range(6):
        call = service.contacts.ImportContacts(parts())
        await asyncio.sleep(0.02)
        call.cancel()
    assert (await service.import_csv("phone\n6941234568\n")).created == 1
    assert await count(service) == (1, 0)


@pytest.fixture
def service_settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    return getattr(request, "param", {})


@pytest.mark.parametrize("service_settings", [{"import_concurrency": 1, "import_max_bytes": 1000}], indirect=True)
async def test_imports_are_bounded_in_number_and_size(service: Service) -> None:
    let_go = asyncio.Event()

    async def parts() -> AsyncIterator[pb.ImportContactsRequest]:
        yield pb.ImportContactsRequest(
            header=pb.ImportHeader(request_id=str(uuid4()), tenant_id=TENANT, default_region="GR")
        )
        yield pb.ImportContactsRequest(data=b"phone\n6941234567\n")
        await let_go.wait()

    async def staging() -> bool:
        async with service.database.connect() as connection:
            return bool((await connection.execute(text("SELECT 1 FROM pg_class WHERE relname = 'staged_rows'"))).all())

    call = service.contacts.ImportContacts(parts())
    await eventually(staging, 20)
    error = await refused(service.import_csv("phone\n6941234568\n"))
    assert error.reason == "IMPORT_OVERLOADED"
    assert error.retry_after is not None
    let_go.set()
    assert (await call).created == 1
    assert (await refused(service.import_csv("phone\n" + "\n" * 2000))).reason == "CSV_TOO_LARGE"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tenant_id": "UPPER"}, "tenant_id"),
        ({"request_id": "no"}, "request_id"),
        ({"default_region": "XX"}, "default_region"),
        ({"groups": ["a b"]}, "groups[0]"),
    ],
)
async def test_a_wrong_import_header_names_the_field_and_the_cure(
    service: Service, changes: dict[str, Any], field: str
) -> None:
    arguments = {"request_id": str(uuid4()), "tenant_id": TENANT, "default_region": "GR"} | changes

    async def parts() -> AsyncIterator[pb.ImportContactsRequest]:
        yield pb.ImportContactsRequest(header=pb.ImportHeader(**arguments))

    error = await refused(service.contacts.ImportContacts(parts()))
    assert [violation.field for violation in error.field_violations] == [field]


async def test_opt_outs_are_part_of_no_audience_and_delivered_to_the_dispatcher(service: Service) -> None:
    await upsert(service, PHONE, groups=["a", "b"])
    await upsert(service, "6941234568", groups=["b"])
    assert not await opt_out(service, PHONE)
    assert await opt_out(service, PHONE)
    assert await count(service) == await count(service, "b") == (1, 1)
    assert await count(service, "a") == (0, 1)
    assert await count(service, "a", "b") == (1, 1)
    assert await count(service, "b", exclude=("a",)) == (1, 0)

    async def opted_out_there(*phones: int) -> bool:
        return service.dispatcher.opted_out == set(phones)

    await eventually(lambda: opted_out_there(306941234567), 20)
    assert await opt_in(service, PHONE)
    assert not await opt_in(service, PHONE)
    await eventually(opted_out_there, 20)
    assert await count(service) == (2, 0)
    assert await cached_counts_are_true(service)


async def test_the_dispatcher_hears_of_opt_outs_when_it_is_back(service: Service) -> None:
    service.dispatcher.down = True
    await opt_out(service, PHONE)
    service.dispatcher.down = False

    async def opted_out_there() -> bool:
        return service.dispatcher.opted_out == {306941234567}

    await eventually(opted_out_there, 20)


async def test_a_number_may_opt_out_before_it_becomes_a_contact_and_after_it_was_one(service: Service) -> None:
    await opt_out(service, PHONE)
    assert await count(service) == (0, 0)
    await service.import_csv("phone\n6941234567\n6941234568\n", groups=["g"])
    assert await count(service, "g") == (1, 1)
    deleted = await service.contacts.DeleteContact(
        pb.DeleteContactRequest(request_id=str(uuid4()), tenant_id=TENANT, phone=PHONE)
    )
    assert deleted.deleted
    assert await count(service, "g") == (1, 0)
    again = await upsert(service, PHONE)
    assert again.created
    assert again.contact.opted_out
    assert await cached_counts_are_true(service)


async def test_cached_counts_stay_true_when_everything_happens_at_once(service: Service) -> None:
    phones = [f"+3069412345{number:02d}" for number in range(20)]
    await asyncio.gather(
        *(service.import_csv("phone\n" + "\n".join(phones[start:]) + "\n", groups=["g"]) for start in (0, 5)),
        *(opt_out(service, phone) for phone in phones[::2]),
        *(opt_out(service, phone) for phone in phones[::4]),
        *(upsert(service, phone, groups=["h"]) for phone in phones[::3]),
        *(opt_in(service, phone) for phone in phones[::5]),
        *(
            service.contacts.DeleteContact(
                pb.DeleteContactRequest(request_id=str(uuid4()), tenant_id=TENANT, phone=phone)
            )
            for phone in phones[::7]
        ),
    )
    assert await cached_counts_are_true(service)


async def test_contacts_are_listed_in_phone_order_page_by_page(service: Service) -> None:
    await service.import_csv("phone\n" + "\n".join(f"+3069412345{number:02d}" for number in (5, 1, 9, 3)) + "\n")
    await upsert(service, "+306941234502", groups=["g"], first_name=" Anna ")
    seen, token = [], ""
    while True:
        page = await service.contacts.ListContacts(
            pb.ListContactsRequest(tenant_id=TENANT, page_size=2, page_token=token)
        )
        seen += [contact.phone[-1] for contact in page.contacts]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["1", "2", "3", "5", "9"]
    grouped = await service.contacts.ListContacts(pb.ListContactsRequest(tenant_id=TENANT, group="g"))
    assert [contact.first_name for contact in grouped.contacts] == ["Anna"]


async def test_other_tenants_see_nothing(service: Service) -> None:
    await upsert(service, PHONE)
    error = await refused(service.contacts.GetContact(pb.GetContactRequest(tenant_id="other", phone=PHONE)))
    assert (error.reason, error.category.http_status) == ("CONTACT_NOT_FOUND", 404)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.Audience(), "audience"),
        (pb.Audience(all_contacts=False), "audience"),
        (pb.Audience(groups=pb.GroupSelection()), "audience"),
        (audience("no spaces"), "audience.groups.names[0]"),
        (audience("a", exclude=["no spaces"]), "audience.exclude_groups[0]"),
    ],
)
async def test_a_wrong_audience_is_named(service: Service, message: pb.Audience, field: str) -> None:
    request = pb.CountContactsRequest(tenant_id=TENANT, audience=message)
    error = await refused(service.contacts.CountContacts(request))
    assert [violation.field for violation in error.field_violations] == [field]
