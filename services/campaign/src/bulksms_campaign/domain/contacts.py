"""Contacts: people a tenant can write to, named by their phone number."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

MAX_NAME = 100


@dataclass(frozen=True, slots=True)
class Contact:
    """A contact as stored; `phone` is the E.164 number's digits."""

    phone: int
    first_name: str
    last_name: str
    groups: tuple[str, ...]
    opted_out: bool
    created_at: datetime
    updated_at: datetime


def clean_name(raw: str) -> str | None:
    """A name with every run of white space as one space; None when it holds control characters."""
    if raw.isascii() and raw.isprintable() and "  " not in raw:
        return raw.strip()
    name = " ".join(raw.split())
    # Joiners (U+200C, U+200D) belong to names in several scripts; they are not "printable" to Python.
    if any(not character.isprintable() and character not in "\u200c\u200d" for character in name):
        return None
    return name
