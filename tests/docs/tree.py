"""The project's own text files: pages, code, and what is cited in them."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path, PurePosixPath

__all__ = ["ROOT", "exists", "matching", "pages", "prose_of_code", "read", "text_files"]

ROOT = Path(__file__).resolve().parents[2]

_CODE = {".py", ".pyi", ".lua", ".sql", ".proto", ".toml", ".yaml", ".yml", ".env", ".mako", ".txt", ""}
_COMMENT = re.compile(r"(?:#|--|//).*")
# Docstrings, with them longer pieces of SQL, and comments.
_PYTHON_PROSE = re.compile(r'"""(?s:.*?)"""|(?:^|\s)#.*', re.MULTILINE)


@cache
def tracked() -> tuple[PurePosixPath, ...]:
    """Every file of the project, new ones included, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return tuple(PurePosixPath(name) for name in listed.split("\0") if name and (ROOT / name).is_file())


@cache
def folders() -> frozenset[str]:
    """Every folder with a file of the project in it."""
    return frozenset(str(parent) for path in tracked() for parent in path.parents)


@cache
def read(path: PurePosixPath) -> str:
    """A file's text."""
    return (ROOT / path).read_text(encoding="utf-8")


def pages() -> list[PurePosixPath]:
    """The pages people read."""
    return [path for path in tracked() if path.suffix == ".md"]


@cache
def text_files() -> tuple[PurePosixPath, ...]:
    """Pages and code; data and pictures are not among them."""
    return tuple(path for path in tracked() if path.suffix in _CODE | {".md"})


@cache
def prose_of_code() -> tuple[tuple[PurePosixPath, str], ...]:
    """Comments and docstrings of each file of code."""
    files = [path for path in text_files() if path.suffix != ".md"]
    return tuple((path, "\n".join(_prose(path))) for path in files)


def _prose(path: PurePosixPath) -> list[str]:
    return (_PYTHON_PROSE if path.suffix == ".py" else _COMMENT).findall(read(path))


def matching(name: str) -> list[PurePosixPath]:
    """Files of this name: `storage/claims.py` is found wherever a service has it; `*` stands for any text."""
    return [path for path in tracked() if path.match(name)]


@cache
def exists(name: str) -> bool:
    """True when there is such a file, or such a folder (which may end with a slash)."""
    if matching(name):
        return True
    return any(PurePosixPath(folder).match(name.rstrip("/")) for folder in folders() - {"."})
