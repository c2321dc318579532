"""Files, settings, metrics and tests that the pages and comments name are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import PurePosixPath

import pytest

from servicekit.settings import ServiceSettings
from tests.deploy.manifests import SERVICES, settings_type
from tests.docs.instruments import is_metric
from tests.docs.markdown import quoted, sections, table_rows, without_blocks
from tests.docs.tree import ROOT, exists, matching, pages, prose_of_code, read, text_files

_FILE = re.compile(r"[\w./{},*-]+\.(?:py|md|lua|proto|toml|yaml|mako)")
_FOLDER = re.compile(r"(?:services|libs|docs|tests|deploy|protos|benchmarks|examples)/[\w./{},*-]+|[\w/-]+/")
_METRIC = re.compile(r"(?:campaign|dispatcher|dlr|ledger|rpc|worker)(?:\.[a-z_]+)+")
_WORD = re.compile(r"(?<![\w…])[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+\b")
_TEST = re.compile(r"test_[a-z0-9_]+")
# What a reader puts something of his own for.
_PLACEHOLDERS = {"BATCH_ID", "CAMPAIGN_ID", "IMPORT_ID", "MESSAGE_ID"}


def named_files(text: str) -> Iterator[str]:
    """Files and folders that stand between backticks; `a/{b,c}.py` is two."""
    for code in quoted(text):
        if not code.startswith("/") and (_FILE.fullmatch(code) or _FOLDER.fullmatch(code)):
            yield from _expanded(code)


def _expanded(name: str) -> Iterator[str]:
    if match := re.search(r"\{([^{}]*)\}", name):
        for choice in match[1].split(","):
            yield from _expanded(name[: match.start()] + choice + name[match.end() :])
    else:
        yield name


def named_metrics(text: str) -> Iterator[str]:
    """Metrics between backticks, without attributes and bounds; `a.b|c` is `a.b` and `a.c`."""
    for code in quoted(text):
        first, *others = re.sub(r"\{.*?\}| .*", "", code).split("|")
        if _METRIC.fullmatch(first) and not _FILE.fullmatch(first):
            yield first
            yield from (f"{first.rpartition('.')[0]}.{other}" for other in others)


def variables(cell: str) -> Iterator[str]:
    """Settings of one cell: `RATE_LIMIT_TENANT_MAX`, `…_WINDOW_MS` are two of the same beginning."""
    first = ""
    for code in quoted(cell):
        yield f"{first.rpartition('_')[0]}{code[1:]}" if code.startswith("…") else code
        first = first or code


@cache
def words_of_the_code() -> frozenset[str]:
    """Every word in capitals that the code, its tests or the manifests use, and every setting's variable."""
    words: set[str] = set()
    for path in text_files():
        if path.suffix != ".md":
            words.update(re.findall(r"\b[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+\b", read(path)))
            words.update(name.upper() for name in re.findall(r"^    ([a-z0-9_]+):", read(path), re.MULTILINE))
            # The contract's enums repeat their type in every value; people leave it out.
            words.update(re.findall(r"^\s+\w+?_([A-Z0-9_]+) = \d+", read(path), re.MULTILINE))
    return frozenset(words)


@pytest.mark.parametrize("page", pages(), ids=str)
def test_every_file_a_page_names_exists(page: PurePosixPath) -> None:
    built = ROOT / page.parent  # `protos/stubs` is there and not in the project
    named = set(named_files(read(page)))
    assert sorted(name for name in named if not exists(name) and not (built / name).exists()) == []


def test_every_file_a_comment_names_exists() -> None:
    missing = [
        f"{path}: {name}"
        for path, prose in prose_of_code()
        for name in re.findall(r"(?<![\w./<-])[\w./-]*\w\.(?:md|py|lua)\b", prose)
        if not exists(name)
    ]
    assert missing == []


@pytest.mark.parametrize("page", pages(), ids=str)
def test_every_metric_a_page_names_exists(page: PurePosixPath) -> None:
    assert [name for name in named_metrics(read(page)) if not is_metric(name)] == []


@pytest.mark.parametrize("page", pages(), ids=str)
def test_every_setting_reason_and_state_a_page_names_is_a_word_of_the_code(page: PurePosixPath) -> None:
    named = set(_WORD.findall(without_blocks(read(page)))) - _PLACEHOLDERS
    assert sorted(named - words_of_the_code()) == []


@pytest.mark.parametrize("service", SERVICES)
def test_the_readme_of_a_service_has_exactly_its_settings(service: str) -> None:
    page = read(PurePosixPath("services") / service / "README.md")
    (settings,) = [text for heading, text in sections(page) if heading == "Settings"]
    named = {name for cells in table_rows(settings) for name in variables(cells[0])}
    own = {name.upper() for name in settings_type(service).model_fields}
    common = {name.upper() for name in ServiceSettings.model_fields}
    assert named <= own, "not settings of this service"
    assert own - common <= named, "settings the table leaves out"


@pytest.mark.parametrize("page", pages(), ids=str)
def test_every_test_a_page_names_exists(page: PurePosixPath) -> None:
    named = [code for code in quoted(read(page)) if _TEST.fullmatch(code)]
    assert [name for name in named if name not in functions_of_tests() and not matching(f"{name}.py")] == []


@cache
def functions_of_tests() -> frozenset[str]:
    """Names of all tests."""
    return frozenset(
        name
        for path in text_files()
        if path.name.startswith("test_")
        for name in re.findall(r"^\s*(?:async )?def (test_\w+)", read(path), re.MULTILINE)
    )


def test_the_pages_name_enough_to_be_worth_checking() -> None:
    text = "\n".join(read(page) for page in pages())
    assert len(set(named_files(text))) > 60
    assert len(set(named_metrics(text))) > 30
    assert len(set(_WORD.findall(text))) > 100


def test_a_name_that_does_not_exist_is_noticed() -> None:
    assert list(named_files("`storage/{claims,nothing}.py`")) == ["storage/claims.py", "storage/nothing.py"]
    assert exists("storage/claims.py")
    assert not exists("storage/nothing.py")
    assert not is_metric("dispatcher.queue.length")
    assert list(named_metrics('`dlr.reports.received|lost{reason="X"}`')) == [
        "dlr.reports.received",
        "dlr.reports.lost",
    ]
