"""The privacy rule: telephone numbers, and passwords in URLs, do not get into texts that others read."""

from __future__ import annotations

import re

__all__ = ["MASK", "clean_text", "mask_for_logs", "mask_numbers"]

MASK = "[masked]"
_NUMBER_MASK = "***"

# Six digits or more, however grouped: in foreign words no id, time or count is worth the risk of a number shown.
_NUMBER = re.compile(r"\+?\d(?:[ ().\-/]{0,2}\d){5,}")

# Log lines are full of ids, times and counts, so they lose less: a plus and eight digits or more, however grouped;
# without a plus 10 to 15 digits standing alone, as PostgreSQL's error details show a bigint key. Digits joined to
# letters, hyphens or points are parts of ids, versions and timestamps.
_PLUS_NUMBER = re.compile(r"\+\d(?:[ ().\-]?\d){7,}")
_BARE_NUMBER = re.compile(r"(?<![\w.:\-])\d{10,15}(?![\w:\-]|\.\d)")
_URL_PASSWORD = re.compile(r"(?<=://)([^\s:/@]*):[^\s@/]+@")


def mask_numbers(text: str) -> str:
    """Foreign words with everything masked that could be a telephone number: six digits or more, however grouped."""
    return _NUMBER.sub(_NUMBER_MASK, text)


def clean_text(text: str, limit: int) -> str:
    """Foreign words as they may be kept and shown: one printable line, numbers masked, at most `limit` characters."""
    text = text[: limit * 10]  # what is beyond is cut anyway; a hostile megabyte is not worth looking at
    if not text.isprintable():
        text = "".join(character if character.isprintable() else " " for character in text)
    return mask_numbers(" ".join(text.split()))[:limit]


def mask_for_logs(text: str) -> str:
    """A text of ours with telephone numbers, and passwords in URLs, masked; ids, times and counts stay."""
    if not any(character.isdigit() for character in text) and "://" not in text:
        return text
    text = _PLUS_NUMBER.sub(MASK, text)
    text = _BARE_NUMBER.sub(MASK, text)
    return _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
