"""`python -m devstack.mitto`: run the simulator."""

from __future__ import annotations

import asyncio
import os
import sys

import uvloop

from devstack.mitto.app import serve
from devstack.mitto.settings import SettingsError, SimulatorSettings


def main() -> int:
    """Run until stopped; returns the exit code (2: bad settings)."""
    try:
        settings = SimulatorSettings.from_environment(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(settings))


if __name__ == "__main__":
    sys.exit(main())
