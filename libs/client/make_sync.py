"""Makes the blocking client from the asyncio one: `python make_sync.py` writes, `--check` only compares.

Everything above the transport is the same but for `async` and `await`, so it is written once, in `aio/`, and copied
word by word. The transports differ in more than words and are written by hand.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent / "src" / "bulksms_client"
COPIED = ("__init__", "resource", "campaigns", "contacts", "credits", "messages", "queue", "client")
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
    "bulksms_client.aio": "bulksms_client.sync",
    "The client for asyncio programs; `sync` is made from it.": "The blocking client, made from `aio`.",
}


def main() -> int:
    """Write or compare every copied module; with `--check`, 1 when one was out of date."""
    made = {PACKAGE / "sync" / f"{name}.py": made_from_aio(name) for name in COPIED}
    outdated = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in outdated:
        sys.stderr.write(f"sync/{path.name} was out of date\n")
    if "--check" in sys.argv[1:]:
        return 1 if outdated else 0
    for path in outdated:
        path.write_text(made[path], encoding="utf-8")
    return 0


def made_from_aio(name: str) -> str:
    """The blocking twin of a module of `aio/`, imports sorted and lines joined where they now fit."""
    source = (PACKAGE / "aio" / f"{name}.py").read_text(encoding="utf-8")
    copied = re.sub("|".join(map(re.escape, WORDS)), lambda found: WORDS[found.group()], source)
    docstring, rest = copied.split("\n", 1)
    noted = f"{docstring}\n\n# Made by make_sync.py from aio/{name}.py: change that one.\n{rest}"
    return _ruff(_ruff(noted, name, "check", "--fix", "--exit-zero", "--quiet"), name, "format", "--quiet")


def _ruff(text: str, name: str, *command: str) -> str:
    beside = Path(sys.executable).parent / "ruff"
    ruff = str(beside) if beside.exists() else shutil.which("ruff")
    if ruff is None:
        raise SystemExit("ruff not found: install the development group")
    arguments = [ruff, *command, f"--stdin-filename={PACKAGE / 'sync' / f'{name}.py'}", "-"]
    ran = subprocess.run(arguments, input=text, capture_output=True, text=True, check=False, timeout=60)
    if ran.returncode != 0:
        raise SystemExit(f"ruff refused sync/{name}.py:\n{ran.stderr}{ran.stdout}")
    return ran.stdout


if __name__ == "__main__":
    raise SystemExit(main())
