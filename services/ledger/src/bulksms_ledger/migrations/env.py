"""Entry point of alembic."""

from __future__ import annotations

from servicekit.migrations import run_environment

run_environment()
