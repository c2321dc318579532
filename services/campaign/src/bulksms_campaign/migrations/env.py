"""Where Alembic enters; everything is in servicekit."""

from servicekit.migrations import run_environment

run_environment()
