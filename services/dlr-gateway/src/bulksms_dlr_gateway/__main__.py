"""`python -m bulksms_dlr_gateway serve | migrate | check | quarantine …`."""

from __future__ import annotations

import sys

from bulksms_dlr_gateway import quarantine
from bulksms_dlr_gateway.app import build
from bulksms_dlr_gateway.settings import Settings
from servicekit.cli import main

if __name__ == "__main__":
    if sys.argv[1:2] == ["quarantine"]:
        raise SystemExit(quarantine.main(sys.argv[2:]))
    raise SystemExit(main("bulksms_dlr_gateway", Settings, build))
