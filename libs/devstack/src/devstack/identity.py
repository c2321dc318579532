"""What stays the same each time one stack starts: its instance name and its secrets, made at random once."""

from __future__ import annotations

import json
import os
import secrets
import threading
import uuid
from collections.abc import Callable
from pathlib import Path


class Identity:
    """The instance name and secrets of the stack in `folder`, kept in a file only its user can read."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "identity.json"
        self._lock = threading.Lock()
        self._values: dict[str, str] = {}
        if self._path.exists():
            self._values = json.loads(self._path.read_text())

    @property
    def instance(self) -> str:
        """Eight characters that tell this stack's things from another's on a shared server."""
        return self._value("instance", lambda: secrets.token_hex(4))

    @property
    def traffic_account_id(self) -> str:
        """The id of the one traffic account at the simulated provider."""
        return self._value("traffic_account_id", lambda: str(uuid.uuid4()))

    def secret(self, name: str) -> str:
        """Return the secret of this name."""
        return self._value(f"secret.{name}", lambda: secrets.token_hex(16))

    def _value(self, name: str, make: Callable[[], str]) -> str:
        with self._lock:
            if name not in self._values:
                self._values[name] = make()
                write_private(self._path, json.dumps(self._values, indent=1))
            return self._values[name]


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    unfinished.replace(path)
