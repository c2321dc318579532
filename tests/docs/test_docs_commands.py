"""Every command on a page is one that its program takes, with these options and arguments."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from tests.docs.commands import complaint
from tests.docs.markdown import quoted, shell_commands, split_commands
from tests.docs.tree import pages, prose_of_code, read

pytestmark = pytest.mark.xdist_group("commands")  # in one process: each program is asked for its options once


@pytest.mark.parametrize("page", pages(), ids=str)
def test_every_command_of_a_page_exists_with_its_options_and_arguments(page: PurePosixPath) -> None:
    wrong = [complaint(words, page) for words in shell_commands(read(page))]
    wrong += [complaint(words, page, mentioned=True) for code in quoted(read(page)) for words in split_commands(code)]
    assert [text for text in wrong if text] == []


def test_every_command_named_in_a_comment_exists() -> None:
    wrong = [
        f"{path}: {text}"
        for path, prose in prose_of_code()
        for code in quoted(prose)
        if code.startswith(("make ", "bulksms ", "python -m "))
        for words in split_commands(code)
        if (text := complaint(words, path, mentioned=True))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bulksms campaign launch X", "launch is no command of campaign"),
        ("bulksms campaign status", "status takes 1 to 1 arguments, not 0"),
        ("bulksms campaign status X --external-id Y Z", "status takes 0 to 1 arguments, not 2"),
        ("bulksms campaign status X --quickly", "status has no option --quickly"),
        ("make everything", "make has no target everything"),
        ("make bench FASTER=1", "make knows no variable FASTER"),
        ("python -m bulksms_nothing serve", "there is no module bulksms_nothing"),
        ("python -m bulksms_ledger rebuild --repair", "bulksms_ledger has no option --repair"),
        ("pytest services/nothing/tests", "there is no services/nothing/tests"),
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line: str, said: str) -> None:
    (words,) = split_commands(line)
    assert complaint(words, PurePosixPath("README.md")) == said
