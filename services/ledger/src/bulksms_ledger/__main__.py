"""`python -m bulksms_ledger serve | migrate | check`."""

from __future__ import annotations

from bulksms_ledger.app import build
from bulksms_ledger.settings import Settings
from servicekit.cli import main

if __name__ == "__main__":
    raise SystemExit(main("bulksms_ledger", Settings, build, migrations="migrations"))
