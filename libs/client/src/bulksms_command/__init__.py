"""The `bulksms` script. A package of its own, because of what must happen before gRPC is imported."""

from __future__ import annotations

import os

__all__ = ["main"]


def main() -> None:
    """Run the command, with gRPC's core quiet.

    It writes notes of its own to standard error, e.g. when a service goes away during a watch, and reads how loud to
    be when it is imported; importing any module of `bulksms_client` imports it.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from bulksms_client.cli import main as run

    run()
