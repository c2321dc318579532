"""Parts: how a text travels (GSM 03.38 or UCS-2) and how many parts it takes.

Figures from 3GPP TS 23.038 and 23.040: 160 septets in a single GSM message, 153 a part of a longer one; 70 UTF-16
units in a single UCS-2 message, 67 a part of a longer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

GSM_SINGLE = 160
GSM_PART = 153
UCS2_SINGLE = 70
UCS2_PART = 67

GSM_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà",
)
# Sent as escape plus character: two septets, never split across parts.
GSM_EXTENSION = frozenset("^{}\\[~]|€\f")
_GSM = GSM_BASIC | GSM_EXTENSION
_GSM_BASIC_ASCII = "".join(filter(str.isascii, GSM_BASIC)).encode()
# What lies beyond takes two UTF-16 units.
_LAST_OF_ONE_UNIT = "\uffff"


class Encoding(Enum):
    """How a text travels."""

    GSM7 = "GSM7"
    UCS2 = "UCS2"


@dataclass(frozen=True, slots=True)
class TextSize:
    """A text's encoding, its parts (at least 1) and its units: septets for GSM7, UTF-16 units for UCS2."""

    encoding: Encoding
    parts: int
    units: int


def measure(text: str) -> TextSize:
    """Encoding, parts and units of a rendered text."""
    if text.isascii() and not text.encode().translate(None, _GSM_BASIC_ASCII):
        return _measure_gsm(text, has_extension=False)  # the usual case, without looking at each character
    characters = set(text)
    if characters <= _GSM:
        return _measure_gsm(text, has_extension=not characters.isdisjoint(GSM_EXTENSION))
    return _measure_ucs2(text)


def count_parts(texts: Sequence[str], shared: str, own: str) -> list[int]:
    """Parts of many texts, each made of all of `shared` and some characters of `own`, and of nothing else.

    Renderings of one template: where the characters decide the encoding for all of them, their lengths are enough
    (0.1 µs a text instead of 2).
    """
    characters = {*shared, *own}
    if characters <= GSM_BASIC:
        return [1 if len(text) <= GSM_SINGLE else -(-len(text) // GSM_PART) for text in texts]
    if not _GSM.issuperset(shared) and max(characters) <= _LAST_OF_ONE_UNIT:
        return [1 if len(text) <= UCS2_SINGLE else -(-len(text) // UCS2_PART) for text in texts]
    return [measure(text).parts for text in texts]


def _measure_gsm(text: str, *, has_extension: bool) -> TextSize:
    if not has_extension:
        units = len(text)
        return TextSize(Encoding.GSM7, 1 if units <= GSM_SINGLE else -(-units // GSM_PART), units)
    widths = [2 if character in GSM_EXTENSION else 1 for character in text]
    units = sum(widths)
    return TextSize(Encoding.GSM7, 1 if units <= GSM_SINGLE else _fill(widths, GSM_PART), units)


def _measure_ucs2(text: str) -> TextSize:
    units = len(text.encode("utf-16-be", "surrogatepass")) // 2
    if units <= UCS2_SINGLE:
        return TextSize(Encoding.UCS2, 1, units)
    if units == len(text):
        return TextSize(Encoding.UCS2, -(-units // UCS2_PART), units)
    widths = [2 if character > _LAST_OF_ONE_UNIT else 1 for character in text]
    return TextSize(Encoding.UCS2, _fill(widths, UCS2_PART), units)


def _fill(widths: list[int], room: int) -> int:
    """Parts needed when a character of width 2 may not be split across two parts."""
    parts, used = 1, 0
    for width in widths:
        if used + width > room:
            parts, used = parts + 1, 0
        used += width
    return parts
