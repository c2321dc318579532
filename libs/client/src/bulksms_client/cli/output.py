"""Where every command's output goes: tables for people, or one JSON document (or JSON lines) on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from google.protobuf.message import Message
from rich import box
from rich.console import Console
from rich.table import Table

from bulksms_client.cli.plain import Document, plain

__all__ = ["Column", "Output", "cell", "console"]

# Rows whose widths decide the columns' widths, and that are printed at once.
CHUNK_ROWS = 500
# Nothing is cut or wrapped when the output is a file or a pipe.
PIPE_WIDTH = 1_000


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a document: its heading, and the key it stands under ("counters.sent") or how it is found."""

    heading: str
    source: str | Callable[[Document], object]

    def value(self, document: Document) -> object:
        """The figure in a document; None when something on the way to it is unset."""
        if callable(self.source):
            return self.source(document)
        found: Any = document
        for key in self.source.split("."):
            found = None if found is None else found[key]
        return found


class Output:
    """The one presentation layer. Everything is turned into plain values first; both forms show the same ones."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._console = console(stderr=False)

    def record(self, content: Message | Document, columns: Sequence[Column], *, title: str = "") -> None:
        """One thing: a line per figure."""
        document = _document(content)
        if self.as_json:
            self._json(document)
            return
        self.heading(title)
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for column in columns:
            table.add_row(column.heading, cell(column.value(document)))
        self._print(table)

    def rows(self, contents: Iterable[Message | Document], columns: Sequence[Column], *, empty: str) -> None:
        """Many things: a line each, printed as they come, however many there are. In JSON: one array."""
        documents = map(_document, contents)
        if self.as_json:
            self._json_array(documents)
        elif not self._table(documents, columns):
            self.note(empty)

    def table(self, documents: Iterable[Document], columns: Sequence[Column], *, title: str = "") -> None:
        """A part of a document that people see as a table; in JSON it is there already."""
        if not self.as_json:
            self.heading(title)
            self._table(iter(documents), columns)

    def line(self, content: Message | Document) -> None:
        """One step of a stream: a JSON line. People are shown steps by `watching`."""
        if self.as_json:
            sys.stdout.write(json.dumps(_document(content), ensure_ascii=False) + "\n")
            sys.stdout.flush()

    def sentence(self, content: Document, text: str) -> None:
        """A small result: a sentence for people, a document for programs."""
        if self.as_json:
            self._json(content)
        else:
            self.note(text)

    def heading(self, text: str) -> None:
        """A heading for people."""
        if text and not self.as_json:
            self._console.print()
            self._console.print(text, style="bold")

    def note(self, text: str) -> None:
        """A sentence for people."""
        if not self.as_json:
            self._console.print(text, soft_wrap=True)

    @property
    def people(self) -> Console:
        """Where people read; only for live displays."""
        return self._console

    def _table(self, documents: Iterator[Document], columns: Sequence[Column]) -> int:
        printed, widths = 0, [len(column.heading) for column in columns]
        while chunk := [[column.value(document) for column in columns] for document in islice(documents, CHUNK_ROWS)]:
            texts = [[cell(value) for value in row] for row in chunk]
            widths = [max(width, *(len(row[at]) for row in texts)) for at, width in enumerate(widths)]
            table = Table(
                box=box.SIMPLE_HEAD, show_edge=False, show_header=printed == 0, pad_edge=False, padding=(0, 2, 0, 0)
            )
            for at, column in enumerate(columns):
                number = isinstance(chunk[0][at], (int, float)) and not isinstance(chunk[0][at], bool)
                width = None if self._console.is_terminal else widths[at]
                table.add_column(
                    column.heading, justify="right" if number else "left", min_width=width, overflow="fold"
                )
            for row in texts:
                table.add_row(*row)
            self._print(table)
            printed += len(chunk)
        return printed

    def _print(self, table: Table) -> None:
        if self._console.is_terminal:
            self._console.print(table)
            return
        with self._console.capture() as captured:
            self._console.print(table)
        lines = (line.rstrip() for line in captured.get().splitlines())
        sys.stdout.write("".join(f"{line}\n" for line in lines if line))

    def _json(self, document: Document) -> None:
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")

    def _json_array(self, documents: Iterator[Document]) -> None:
        first = next(documents, None)
        if first is None:
            sys.stdout.write("[]\n")
            return
        separator = "[\n  "
        for document in chain([first], documents):
            sys.stdout.write(separator + json.dumps(document, ensure_ascii=False))
            separator = ",\n  "
        sys.stdout.write("\n]\n")


def console(*, stderr: bool) -> Console:
    """A console that prints texts as they are: no markup, no guessed colours, no cutting in pipes."""
    made = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not made.is_terminal:
        made.width = PIPE_WIDTH
    return made


def cell(value: object) -> str:
    """A value as people read it. Whatever could steer a terminal is made visible instead."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, list):
        return ", ".join(cell(one) for one in value) or "-"
    return "".join(one if one.isprintable() else "⏎" if one == "\n" else "�" for one in str(value))


def _document(content: Message | Document) -> Document:
    return plain(content) if isinstance(content, Message) else content
