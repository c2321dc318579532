"""The `bulksms` command."""

from bulksms_client.cli.app import app, main

__all__ = ["app", "main"]
