"""Every link of a page leads to a file, and to a heading of it, that is there; nothing leads out of the project."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest

from tests.docs.markdown import anchors, links
from tests.docs.tree import ROOT, pages, prose_of_code, read

_DECISION = re.compile(r"\bdecisions? (\d+)\b", re.IGNORECASE)


@pytest.mark.parametrize("page", pages(), ids=str)
def test_every_link_leads_somewhere(page: PurePosixPath) -> None:
    wrong = []
    for link in links(read(page)):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            wrong.append(f"{link}: outside of the project")
            continue
        path = (ROOT / page.parent / target).resolve() if target else ROOT / page
        if not path.exists() or not path.is_relative_to(ROOT):
            wrong.append(f"{link}: no such file")
        elif anchor and anchor not in anchors(path.read_text(encoding="utf-8")):
            wrong.append(f"{link}: no such heading")
    assert wrong == []


def test_every_cited_decision_exists() -> None:
    numbers = {int(path.name[:4]) for path in (ROOT / "docs/decisions").glob("[0-9]*.md")}
    cited = [*prose_of_code(), *((page, read(page)) for page in pages())]
    missing = [f"{path}: {n}" for path, text in cited for n in _DECISION.findall(text) if int(n) not in numbers]
    assert missing == []


def test_the_list_of_decisions_names_each_of_them() -> None:
    listed = set(links(read(PurePosixPath("docs/decisions/README.md"))))
    assert listed == {path.name for path in (ROOT / "docs/decisions").glob("[0-9]*.md")}


@pytest.mark.parametrize("page", [page for page in pages() if page.match("services/*/README.md")], ids=str)
def test_the_readme_of_a_service_leads_to_the_words_it_uses(page: PurePosixPath) -> None:
    first_section = read(page).partition("\n## ")[0]
    assert [link for link in links(first_section) if "docs/glossary.md" in link] != []
