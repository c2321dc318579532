"""Schema migrations without an ini file: one replica at a time, each revision its own transaction."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from alembic import command, context
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import Connection, text

from servicekit import logs
from servicekit.database import Database

__all__ = ["VERSION_TABLE", "head", "pending", "run_environment", "upgrade", "upgrade_sql"]

T = TypeVar("T")

VERSION_TABLE = "schema_version"

_log = logs.get_logger("bulksms.servicekit.migrations")
# Any number, the same in every replica: who holds it migrates, the others wait and then find nothing to do.
_LOCK = 0x73_63_68_65_6D_61
_LOCK_TIMEOUT = "120s"
_STATEMENT_LIMIT = timedelta(hours=1)  # an index on a large table takes its time
_CONNECTION = "connection"
_TABLE = "version_table"


async def upgrade(
    database_url: str | SecretStr,
    script_location: Path,
    *,
    revision: str = "head",
    version_table: str = VERSION_TABLE,
) -> None:
    """Bring the database to `revision`; does nothing when it is there. Any number may call this at the same time."""

    def migrate(connection: Connection) -> None:
        connection.execute(text(f"SET lock_timeout = '{_LOCK_TIMEOUT}'"))
        # Locked for the session, so that it outlives the transactions of the single revisions.
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
        # A revision waiting for a table lock holds up everybody who comes after it: rather fail, and be repeated.
        connection.execute(text("SET lock_timeout = '10s'"))
        connection.execute(text("SET statement_timeout = 0"))
        connection.commit()
        try:
            config = _config(script_location, version_table)
            config.attributes[_CONNECTION] = connection
            command.upgrade(config, revision)
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})
            connection.commit()

    await _run(database_url, migrate)
    _log.info("schema is up to date", revision=head(script_location) if revision == "head" else revision)


async def pending(
    database_url: str | SecretStr, script_location: Path, *, version_table: str = VERSION_TABLE
) -> list[str]:
    """Revisions this code has and the database has not, oldest first.

    Empty, too, when the database is ahead of this code: while replicas are replaced one by one the old ones run on
    the new schema, which is why a schema is expanded first and contracted in a later release.
    """

    def current(connection: Connection) -> str | None:
        return MigrationContext.configure(connection, opts={"version_table": version_table}).get_current_revision()

    revision = await _run(database_url, current)
    script = ScriptDirectory.from_config(_config(script_location, version_table))
    known = [item.revision for item in reversed(list(script.walk_revisions()))]
    if revision is None:
        return known
    return known[known.index(revision) + 1 :] if revision in known else []


def head(script_location: Path) -> str | None:
    """The newest revision in the folder."""
    return ScriptDirectory.from_config(_config(script_location, VERSION_TABLE)).get_current_head()


def upgrade_sql(script_location: Path, *, version_table: str = VERSION_TABLE) -> str:
    """The SQL from an empty database to the newest revision, for those who apply it by hand."""
    output = io.StringIO()
    config = _config(script_location, version_table)
    config.output_buffer = output
    command.upgrade(config, "head", sql=True)
    return output.getvalue()


def run_environment() -> None:
    """All that a service's `migrations/env.py` has to call."""
    options = {"version_table": context.config.attributes[_TABLE], "transaction_per_migration": True}
    if context.is_offline_mode():
        context.configure(dialect_name="postgresql", literal_binds=True, **options)
    else:
        context.configure(connection=context.config.attributes[_CONNECTION], **options)
    with context.begin_transaction():
        context.run_migrations()


def _config(script_location: Path, version_table: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(script_location).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes[_TABLE] = version_table
    return config


async def _run(database_url: str | SecretStr, function: Callable[[Connection], T]) -> T:
    database = Database(database_url, application_name="migrations", pool_size=1, command_timeout=_STATEMENT_LIMIT)
    try:
        await database.start()
        async with database.engine.connect() as connection:
            return await connection.run_sync(function)
    finally:
        await database.stop()
