"""The command every service has: serve, migrate, check."""

from __future__ import annotations

import argparse
import asyncio
import importlib.resources
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from servicekit import logs
from servicekit import migrations as schema
from servicekit.errors import DomainError
from servicekit.lifecycle import Build, run_service
from servicekit.settings import ServiceSettings, SettingsError, load, old_names_in_use

__all__ = ["main"]

S = TypeVar("S", bound=ServiceSettings)

_log = logs.get_logger("bulksms.servicekit.cli")


def main(
    package: str,
    settings_type: type[S],
    build: Build[S],
    *,
    migrations: str | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """Run `python -m <package> …` and return the exit code; 2 is a wrong usage or environment.

    `migrations` is the folder, inside the package, of its Alembic scripts.
    """
    arguments = _parser(package, settings_type).parse_args(argv)
    logs.configure()
    try:
        folder = _folder(package, migrations)
        if arguments.command == "migrate":
            # A migration needs the database and nothing else: the service's own settings are not asked for.
            _migrate(_configured(ServiceSettings), folder, sql_only=arguments.sql)
            return 0
        settings = _configured(settings_type)
        if arguments.command == "check":
            asyncio.run(_check(settings, folder))
            return 0
        if folder is not None:
            asyncio.run(_require_schema(settings, folder))
        return run_service(settings, build)
    except SettingsError as error:
        _log.critical("cannot start", error=str(error))
        return 2
    except DomainError as error:
        _log.critical("cannot start", error=str(error))
        return 1
    except KeyboardInterrupt:
        return 130


def _configured(settings_type: type[S]) -> S:
    settings = load(settings_type)
    logs.configure(settings.log_level, settings.log_format)
    if old_names := old_names_in_use(settings_type):
        _log.warning("settings go by their old names", names="; ".join(old_names))
    return settings


def _parser(package: str, settings_type: type[ServiceSettings]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {package}",
        description=f"The {settings_type.service_name} service. It is configured by environment variables.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="run until SIGTERM")
    migrate = commands.add_parser("migrate", help="bring the database's schema up to date")
    migrate.add_argument("--sql", action="store_true", help="print the SQL, touch nothing")
    commands.add_parser("check", help="check the environment, the database and its schema, then exit")
    return parser


def _folder(package: str, migrations: str | None) -> Path | None:
    return Path(str(importlib.resources.files(package))) / migrations if migrations else None


def _migrate(settings: ServiceSettings, folder: Path | None, *, sql_only: bool) -> None:
    if folder is None:
        _log.info("nothing to migrate: this service has no schema", service=settings.name)
    elif sql_only:
        sys.stdout.write(schema.upgrade_sql(folder))
    else:
        asyncio.run(schema.upgrade(_database_url(settings), folder))


async def _check(settings: ServiceSettings, folder: Path | None) -> None:
    if folder is not None:
        await _require_schema(settings, folder)
    _log.info("all is well", service=settings.name, version=settings.service_version)


async def _require_schema(settings: ServiceSettings, folder: Path) -> None:
    missing = await schema.pending(_database_url(settings), folder)
    if missing:
        raise SettingsError(
            f"the database lacks {len(missing)} migration(s), first {missing[0]}: run the migrate command first"
        )


def _database_url(settings: ServiceSettings) -> str:
    if settings.database_url is None:
        raise SettingsError("DATABASE_URL is not set: set it to postgresql://user:password@host:port/database")
    return settings.database_url.get_secret_value()
