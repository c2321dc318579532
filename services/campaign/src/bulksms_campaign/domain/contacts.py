"""Contacts: people a tenant can write to, named by their phone number."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from datetime import datetime

from servicekit.errors import DomainError, already_exists, conflict, not_found

MAX_NAME = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactContent:
    """What a caller writes of a contact; the groups sorted."""

    external_id: str = ""
    first_name: str = ""
    last_name: str = ""
    groups: tuple[str, ...] = ()

    def replaced(self, other: ContactContent, names: Collection[str]) -> ContactContent:
        """This one with some fields of another."""
        return replace(self, **{name: getattr(other, name) for name in names})

    @property
    def etag(self) -> str:
        """Another for every other content."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


CONTENT_FIELDS = tuple(field.name for field in fields(ContactContent))


@dataclass(frozen=True, slots=True)
class Contact:
    """A contact as stored; `phone` is the E.164 number's digits."""

    phone: int
    content: ContactContent
    opted_out: bool
    created_at: datetime
    updated_at: datetime


def contact_not_found() -> DomainError:
    """There is no such contact, or it is another tenant's: callers must not learn which."""
    return not_found(
        "CONTACT_NOT_FOUND",
        "This tenant has no contact with this number or external id: import it, or upsert it with its number.",
    )


def contact_changed() -> DomainError:
    """A contact is not as its caller read it."""
    return conflict("ETAG_MISMATCH", "The contact was changed since it was read: read it again and decide anew.")


def external_id_used() -> DomainError:
    """A contact was to get the external id of another."""
    return already_exists(
        "EXTERNAL_ID_USED", "Another contact of this tenant has this external id: give it another one, or none."
    )


def clean_name(raw: str) -> str | None:
    """A name with every run of white space as one space; None when it holds control characters."""
    if raw.isascii() and raw.isprintable() and "  " not in raw:
        return raw.strip()
    name = " ".join(raw.split())
    # Joiners (U+200C, U+200D) belong to names in several scripts; they are not "printable" to Python.
    if any(not character.isprintable() and character not in "\u200c\u200d" for character in name):
        return None
    return name
