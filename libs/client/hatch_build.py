"""Builds the blocking client from the asyncio one, as hatchling's build hook or as a script.

Everything above the transport is the same but for `async` and `await`, so it is written once, in `aio/`, and copied
word by word into `sync/`. The two transports differ in more than words and are written by hand.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent
WORDS = {
    "async def": "def",
    "async for": "for",
    "async with": "with",
    "await ": "",
    "aclosing": "closing",
    ", None]:": ", None, None]:",
    "AsyncGenerator": "Generator",
    "AsyncIterator": "Iterator",
    "AsyncClient": "Client",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "asyncio_transport": "blocking_transport",
    "bulksms_client.aio": "bulksms_client.sync",
    "The client for asyncio programs.": "The blocking client.",
}


class SyncClientBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Writes `sync/` before hatchling collects the files of a wheel or an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        del version, build_data
        build_sync(Path(self.root))


def build_sync(root: Path) -> None:
    """Write `src/bulksms_client/sync/*.py` below `root`, its `__init__.py` last."""
    package = root / "src" / "bulksms_client"
    shutil.rmtree(package / "sync", ignore_errors=True)
    (package / "sync").mkdir()
    for source in sorted((package / "aio").glob("*.py"), reverse=True):
        (package / "sync" / source.name).write_text(blocking(source), encoding="utf-8")


def blocking(source: Path) -> str:
    """The blocking twin of a module of `aio/`: line numbers differ by the two lines that say where it comes from."""
    copied = re.sub("|".join(map(re.escape, WORDS)), lambda found: WORDS[found.group()], source.read_text("utf-8"))
    docstring, rest = copied.split("\n", 1)
    return f"{docstring}\n\n# Built by hatch_build.py from aio/{source.name}: change that one.\n{rest}"


if __name__ == "__main__":
    build_sync(HERE)
