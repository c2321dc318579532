"""Senders: what the provider accepts as the origin of a message."""

from __future__ import annotations

import re

_ALPHANUMERIC = re.compile(r"[A-Za-z0-9]{3,11}")
_DIGITS = re.compile(r"[0-9]{3,14}")
_RULE = "use 3-11 letters A-Z and digits with at least one letter, or 3-14 digits"


def check_sender(sender: str) -> str | None:
    """None when the sender may be used, else what is wrong with it and the cure (mitto.md: Errors, Sender)."""
    if not sender:
        return f"is empty: {_RULE}"
    if _DIGITS.fullmatch(sender):
        return None
    if sender.isascii() and sender.isdigit():
        return f"has {len(sender)} digits: {_RULE}"
    if not _ALPHANUMERIC.fullmatch(sender):
        return f"is not an allowed sender: {_RULE}; no spaces, accents or signs"
    return None
