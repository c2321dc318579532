"""Lines: a stream of bytes as decoded lines without their ends, in bounded memory."""

from __future__ import annotations

import codecs

from bulksms_campaign.domain.contact_file.refusals import MAX_RECORD_CHARACTERS, line_too_long, not_utf8

_BOM = "\ufeff"


class LineReader:
    """Takes pieces of a file, cut anywhere, and gives whole lines; CRLF, LF and CR all end a line."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._tail = ""
        self._ends_with_return = False
        self._at_start = True
        self._lines = 0
        self._bytes_before = 0

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes. Raises CSV_NOT_UTF8 and CSV_LINE_TOO_LONG."""
        lines = self._take(self._decode(data, final=False))
        if len(self._tail) > MAX_RECORD_CHARACTERS:
            raise line_too_long(self._lines + 1)
        return lines

    def finish(self) -> list[str]:
        """What remains: a last line without an end."""
        lines = self._take(self._decode(b"", final=True))
        if self._tail:
            lines.append(self._tail)
            self._tail = ""
        return lines

    def _take(self, text: str) -> list[str]:
        if self._at_start and text:
            text = text.removeprefix(_BOM)
            self._at_start = False
        if text:
            cut_in_two = self._ends_with_return and text.startswith("\n")
            self._ends_with_return = text.endswith("\r")
            text = text[1:] if cut_in_two else text
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        if "\n" not in text:
            self._tail += text
            return []
        lines = (self._tail + text).split("\n")
        self._tail = lines.pop()
        self._refuse_long(lines)
        self._lines += len(lines)
        return lines

    def _refuse_long(self, lines: list[str]) -> None:
        for number, line in enumerate(lines, self._lines + 1):
            if len(line) > MAX_RECORD_CHARACTERS:
                raise line_too_long(number)

    def _decode(self, data: bytes, *, final: bool) -> str:
        pending: bytes = self._decoder.getstate()[0]
        try:
            text = self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            whole = pending + data
            good = whole[: error.start].decode("utf-8")
            line = self._lines + 1 + good.replace("\r\n", "\n").replace("\r", "\n").count("\n")
            if self._ends_with_return and good.startswith("\n"):
                line -= 1
            raise not_utf8(line, self._bytes_before - len(pending) + error.start) from None
        self._bytes_before += len(data)
        return text
