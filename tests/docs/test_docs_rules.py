"""The rules of the send protocol: each that is cited is listed, and each that is listed has a file and a test."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest

from tests.docs.markdown import links, quoted, sections
from tests.docs.tree import ROOT, pages, prose_of_code, read

PAGE = PurePosixPath("docs/send-protocol.md")
RULES = {int(match[1]): body for heading, body in sections(read(PAGE)) if (match := re.match(r"Rule (\d+): ", heading))}
_CITED = re.compile(r"\b[Rr]ules? (\d+(?:(?:, | and )\d+)*)")


def cited(text: str) -> set[int]:
    """Numbers of "rule 3" and of "rules 3, 4 and 8"."""
    return {int(number) for numbers in _CITED.findall(text) for number in re.findall(r"\d+", numbers)}


def test_every_rule_that_is_cited_is_listed() -> None:
    texts = [*prose_of_code(), *((page, read(page)) for page in pages())]
    missing = [f"{path}: rule {number}" for path, text in texts for number in cited(text) - RULES.keys()]
    assert missing == []
    assert cited("Rules 3, 40 and 8") == {3, 40, 8}


def test_the_rules_are_numbered_without_a_gap() -> None:
    assert sorted(RULES) == list(range(1, len(RULES) + 1))
    assert len(RULES) == 8


@pytest.mark.parametrize("number", sorted(RULES))
def test_each_rule_names_what_enforces_it_and_the_tests_that_fail_when_it_is_broken(number: int) -> None:
    enforced, fails = RULES[number].partition("- **Enforced by**")[2].split("- **Fails when broken:**")
    files = [ROOT / PAGE.parent / link for link in links(enforced) if link.endswith(".py")]
    assert files, "no file that enforces it"
    suites = [ROOT / PAGE.parent / link for link in links(fails) if link.endswith(".py")]
    tests = "\n".join(path.read_text(encoding="utf-8") for path in suites)
    named = [code for code in quoted(fails) if re.fullmatch(r"test_\w+", code)]
    assert named, "no test that fails when it is broken"
    assert [name for name in named if not re.search(rf"def {name}\(", tests)] == [], "not in the files linked"
