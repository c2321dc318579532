"""One word per thing: those that were given up are found nowhere, and lines of pages can be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from tests.docs.retired import ALLOWED, RETIRED, Retired
from tests.docs.tree import pages, read, text_files

LONGEST_LINE = 160


def occurrences(word: Retired) -> Iterator[str]:
    """Every place where a word is still used."""
    pattern = re.compile(word.pattern)
    for path in text_files():
        name = str(path)
        if name.startswith((*ALLOWED, *word.besides)) or not name.startswith(word.only or ("",)):
            continue
        if pattern.search(name):
            yield name
        for number, line in enumerate(read(path).splitlines(), 1):
            if pattern.search(line):
                yield f"{name}:{number}: {line.strip()}"


@pytest.mark.parametrize("word", RETIRED, ids=lambda word: word.pattern)
def test_a_retired_word_is_found_nowhere(word: Retired) -> None:
    assert list(occurrences(word)) == [], f"say: {word.instead}"


def test_a_retired_word_would_be_noticed() -> None:
    assert list(occurrences(Retired("def test_a_retired_word_would_be_noticed", "this test"))) != []


@pytest.mark.parametrize("page", pages(), ids=str)
def test_no_line_of_a_page_is_longer_than_a_screen(page: PurePosixPath) -> None:
    long = [f"{n}: {len(line)}" for n, line in enumerate(read(page).splitlines(), 1) if len(line) > LONGEST_LINE]
    assert long == []
