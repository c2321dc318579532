"""`python -m bulksms_ledger serve | migrate | check | rebuild --check`."""

from __future__ import annotations

import sys

from bulksms_ledger import rebuild
from bulksms_ledger.app import build
from bulksms_ledger.settings import Settings
from servicekit.cli import main

if __name__ == "__main__":
    if sys.argv[1:2] == ["rebuild"]:
        raise SystemExit(rebuild.main(sys.argv[2:]))
    raise SystemExit(main("bulksms_ledger", Settings, build, migrations="migrations"))
