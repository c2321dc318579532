"""What a Markdown page holds: quoted code, shell lines, headings, links, table cells."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

__all__ = ["anchors", "links", "quoted", "sections", "shell_commands", "table_rows"]

_QUOTED = re.compile(r"`([^`\n]+)`")
_FENCE = re.compile(r"^ *```([a-z]*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_blocks(text: str) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", text)


def quoted(text: str) -> list[str]:
    """What stands between backticks outside of blocks."""
    return _QUOTED.findall(without_blocks(text))


def shell_commands(text: str) -> Iterator[list[str]]:
    """Words of each command of the blocks marked `sh`; every part of `a && b`, `a; b` and `a | b` is one."""
    for language, block in _FENCE.findall(text):
        if language == "sh":
            for line in block.replace("\\\n", " ").splitlines():
                yield from split_commands(line)


def split_commands(line: str) -> Iterator[list[str]]:
    """Words of each command of one line; a comment ends it."""
    for part in re.split(r"&&|\||;|(?:^|\s)#.*", line):
        try:
            words = shlex.split(part)
        except ValueError:  # an apostrophe: prose, or a line that is no shell
            continue
        if words:
            yield words


def anchors(text: str) -> set[str]:
    """What a link to a heading of this page may name."""
    found: set[str] = set()
    for _, heading in _HEADING.findall(without_blocks(text)):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w -]", "", plain).strip().lower().replace(" ", "-")
        copies = sum(1 for known in found if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", known))
        found.add(f"{slug}-{copies}" if copies else slug)
    return found


def links(text: str) -> list[str]:
    """Targets of the page's links."""
    return _LINK.findall(without_blocks(text))


def sections(text: str) -> Iterator[tuple[str, str]]:
    """Each heading with the text below it, up to the next heading of whatever level."""
    parts = _HEADING.split(text)
    yield from zip(parts[2::3], parts[3::3], strict=True)


def table_rows(text: str) -> Iterator[list[str]]:
    """Cells of each row of the page's tables, rules and heads included."""
    for line in without_blocks(text).splitlines():
        if line.lstrip().startswith("|"):
            yield [cell.strip() for cell in line.strip().strip("|").split("|")]
