"""Contacts by the caller's own id, and upserts that say what they replace and which state they know."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from bulksms.campaign.v1 import contacts_pb2 as pb
from servicekit.errors import Category, DomainError

from .campaign_support import TENANT, Service, refused

PHONE, OTHER = "+306941234567", "+306941234568"
OWN = "crm-7"
NAMING = ("GetContact", "DeleteContact", "OptOut", "OptIn")


async def call(service: Service, rpc: str, **arguments: Any) -> Any:
    request_type = getattr(pb, f"{rpc}Request")
    if "request_id" in request_type.DESCRIPTOR.fields_by_name:
        arguments.setdefault("request_id", str(uuid4()))
    return await getattr(service.contacts, rpc)(request_type(**{"tenant_id": TENANT, **arguments}))


async def refusal(service: Service, rpc: str, **arguments: Any) -> DomainError:
    return await refused(call(service, rpc, **arguments))


async def upsert(service: Service, contact: pb.Contact, *paths: str, etag: str = "") -> pb.Contact:
    mask = FieldMask(paths=paths)
    response = await call(service, "UpsertContact", contact=contact, update_mask=mask, etag=etag)
    stored: pb.Contact = response.contact
    return stored


def test_every_request_that_names_a_contact_takes_the_caller_s_own_id() -> None:
    named = {
        rpc.name: [field.name for field in rpc.input_type.oneofs_by_name["contact"].fields]
        for rpc in pb.DESCRIPTOR.services_by_name["ContactService"].methods
        if "contact" in rpc.input_type.oneofs_by_name
    }
    assert named == {rpc: ["phone", "external_id"] for rpc in NAMING}


async def test_a_contact_answers_to_the_id_its_caller_gave_it_as_to_its_number(service: Service) -> None:
    made = await upsert(service, pb.Contact(phone=PHONE, external_id=OWN, first_name="Anna", groups=["a"]))
    assert made.external_id == OWN
    assert (await call(service, "GetContact", external_id=OWN)).contact == made
    assert (await call(service, "GetContact", phone=PHONE)).contact == made
    assert not (await call(service, "OptOut", external_id=OWN)).already_opted_out
    assert (await call(service, "OptOut", phone=PHONE)).already_opted_out
    assert (await call(service, "OptIn", external_id=OWN)).was_opted_out
    renamed = await upsert(service, pb.Contact(external_id=OWN, first_name="Maria"), "first_name")
    assert (renamed.phone, renamed.first_name, list(renamed.groups)) == (PHONE, "Maria", ["a"])
    assert (await call(service, "DeleteContact", external_id=OWN)).deleted
    assert not (await call(service, "DeleteContact", external_id=OWN)).deleted


async def test_an_unknown_external_id_is_not_found(service: Service) -> None:
    await call(service, "UpsertContact", tenant_id="other", contact=pb.Contact(phone=PHONE, external_id=OWN))
    for rpc in ("GetContact", "OptOut", "OptIn"):
        assert (await refusal(service, rpc, external_id=OWN)).reason == "CONTACT_NOT_FOUND"
    error = await refusal(service, "UpsertContact", contact=pb.Contact(external_id=OWN, first_name="Anna"))
    assert error.reason == "CONTACT_NOT_FOUND"


@pytest.mark.parametrize(
    ("rpc", "reference", "field"),
    [
        ("GetContact", {}, "phone"),
        ("OptOut", {"external_id": ""}, "external_id"),
        ("OptIn", {"external_id": "two words"}, "external_id"),
        ("UpsertContact", {"contact": pb.Contact()}, "contact.phone"),
        ("UpsertContact", {"contact": pb.Contact(phone=PHONE, external_id="two words")}, "contact.external_id"),
    ],
)
async def test_a_wrong_reference_is_named(service: Service, rpc: str, reference: dict[str, Any], field: str) -> None:
    error = await refusal(service, rpc, **reference)
    assert [violation.field for violation in error.field_violations] == [field]


async def test_an_external_id_is_one_contact_s_per_tenant(service: Service) -> None:
    made = await upsert(service, pb.Contact(phone=PHONE, external_id=OWN))
    error = await refusal(service, "UpsertContact", contact=pb.Contact(phone=OTHER, external_id=OWN))
    assert (error.category, error.reason) == (Category.ALREADY_EXISTS, "EXTERNAL_ID_USED")
    assert (await refusal(service, "GetContact", phone=OTHER)).reason == "CONTACT_NOT_FOUND", "nothing was made"
    assert await upsert(service, pb.Contact(phone=PHONE, external_id=OWN)) != made, "its own it may keep"
    assert (await upsert(service, pb.Contact(phone=PHONE))).external_id == "", "a replacement replaces it, too"
    assert (await upsert(service, pb.Contact(phone=OTHER, external_id=OWN))).external_id == OWN


async def test_an_import_leaves_external_ids_alone(service: Service) -> None:
    await upsert(service, pb.Contact(phone=PHONE, external_id=OWN, first_name="Anna"))
    await service.import_csv(f"phone,first_name\n{PHONE},Maria\n{OTHER},Bob\n")
    assert (await call(service, "GetContact", external_id=OWN)).contact.first_name == "Maria"


async def test_of_many_who_give_an_external_id_at_once_one_does(service: Service) -> None:
    contacts = [pb.Contact(phone=f"+30694123450{number}", external_id=OWN) for number in range(5)]
    made = await asyncio.gather(*(upsert(service, contact) for contact in contacts), return_exceptions=True)
    assert sum(isinstance(one, pb.Contact) for one in made) == 1
    assert sum(isinstance(one, grpc.aio.AioRpcError) for one in made) == 4


async def test_an_upsert_replaces_what_its_mask_names_and_without_one_everything(service: Service) -> None:
    await upsert(service, pb.Contact(phone=PHONE, external_id=OWN, first_name="Anna", last_name="P", groups=["a"]))
    masked = await upsert(service, pb.Contact(phone=PHONE, first_name="Maria", groups=["b"]), "groups")
    assert (masked.external_id, masked.first_name, list(masked.groups)) == (OWN, "Anna", ["b"])
    emptied = await upsert(service, pb.Contact(phone=PHONE), "last_name", "groups")
    assert (emptied.external_id, emptied.last_name, list(emptied.groups)) == (OWN, "", [])
    for paths in ((), ("*",)):
        whole = await upsert(service, pb.Contact(phone=PHONE, last_name="K"), *paths)
        assert (whole.external_id, whole.first_name, whole.last_name) == ("", "", "K")
    new = await upsert(service, pb.Contact(phone=OTHER, first_name="Bob", groups=["b"]), "groups")
    assert (new.first_name, list(new.groups)) == ("Bob", ["b"]), "a new one gets all there is"


@pytest.mark.parametrize("paths", [["phone"], ["opted_out"], ["*", "groups"]])
async def test_a_mask_that_names_another_field_is_refused(service: Service, paths: list[str]) -> None:
    contact = pb.Contact(phone=PHONE)
    error = await refusal(service, "UpsertContact", contact=contact, update_mask=FieldMask(paths=paths))
    assert [violation.field for violation in error.field_violations] == ["update_mask"]
    assert (await refusal(service, "GetContact", phone=PHONE)).reason == "CONTACT_NOT_FOUND"


async def test_an_etag_of_before_somebody_else_s_change_refuses_an_upsert(service: Service) -> None:
    read = await upsert(service, pb.Contact(phone=PHONE, first_name="Anna"))
    mine = pb.Contact(phone=PHONE, first_name="Maria")
    changed = await upsert(service, mine, etag=read.etag)
    assert changed.etag not in ("", read.etag)
    assert (await upsert(service, mine, etag=read.etag)).etag == changed.etag, "a repeat finds what it asked for"
    theirs = pb.Contact(phone=PHONE, first_name="Eva")
    error = await refusal(service, "UpsertContact", contact=theirs, etag=read.etag)
    assert (error.category, error.reason) == (Category.CONFLICT, "ETAG_MISMATCH")
    assert (await call(service, "GetContact", phone=PHONE)).contact.first_name == "Maria"
    error = await refusal(service, "UpsertContact", contact=pb.Contact(phone=OTHER), etag=read.etag)
    assert error.reason == "ETAG_MISMATCH"
    assert (await refusal(service, "GetContact", phone=OTHER)).reason == "CONTACT_NOT_FOUND"
    await call(service, "OptOut", phone=PHONE)
    assert (await upsert(service, theirs, etag=changed.etag)).first_name == "Eva", "an opt-out is no change of it"
