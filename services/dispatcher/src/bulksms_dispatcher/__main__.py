"""`python -m bulksms_dispatcher serve | migrate | check`."""

from __future__ import annotations

from bulksms_dispatcher.app import build
from bulksms_dispatcher.settings import Settings
from servicekit.cli import main

if __name__ == "__main__":
    raise SystemExit(main("bulksms_dispatcher", Settings, build, migrations="migrations"))
