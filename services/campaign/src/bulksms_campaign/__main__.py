"""`python -m bulksms_campaign serve | migrate | check`."""

from __future__ import annotations

from bulksms_campaign.app import build
from bulksms_campaign.settings import Settings
from servicekit.cli import main

if __name__ == "__main__":
    raise SystemExit(main("bulksms_campaign", Settings, build, migrations="migrations"))
