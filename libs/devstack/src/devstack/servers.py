"""PostgreSQL and Valkey for one stack: embedded, or the ones DATABASE_URL and REDIS_URL name."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlsplit, urlunsplit

import redis

from devstack.identity import Identity
from devstack.postgres import EmbeddedPostgres
from devstack.sql import execute, fetch, identifier, literal
from devstack.valkey import EmbeddedValkey


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where the servers live. The URLs default to the environment's; empty or None means embedded."""

    folder: Path
    ephemeral: bool = False
    """Remove at `stop` what was made: data folders, or databases, roles and keys on servers that are not ours."""
    fsync: bool = True
    database_url: str | None = field(default_factory=lambda: os.environ.get("DATABASE_URL"), repr=False)
    redis_url: str | None = field(default_factory=lambda: os.environ.get("REDIS_URL"), repr=False)


@dataclass(frozen=True, slots=True)
class OwnedDatabase:
    """A database and the role that owns it, and reaches no other."""

    name: str
    role: str
    url: str = field(repr=False)


class Servers:
    """The servers, and the databases made on them."""

    def __init__(self, options: ServerOptions, identity: Identity | None = None) -> None:
        self._options = options
        self._folder = options.folder.absolute()
        self._identity = identity or Identity(self._folder)
        self._databases: dict[str, OwnedDatabase] = {}
        external = bool(options.database_url)
        self.postgres = None if external else EmbeddedPostgres(self._folder / "postgres", fsync=options.fsync)
        """The embedded server; None when DATABASE_URL replaces it."""
        self.valkey = None if options.redis_url else EmbeddedValkey(self._folder / "valkey")
        """The embedded server; None when REDIS_URL replaces it."""

    def __enter__(self) -> Self:
        try:
            with ThreadPoolExecutor(2, thread_name_prefix="servers") as threads:
                for started in (threads.submit(self.start_postgres), threads.submit(self.start_valkey)):
                    started.result()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def admin_url(self) -> str:
        """The URL of a role that may make roles and databases."""
        return self.postgres.url if self.postgres else _plain_scheme(self._options.database_url or "")

    @property
    def redis_url(self) -> str:
        """The Valkey or Redis URL."""
        return self.valkey.url if self.valkey else (self._options.redis_url or "")

    @property
    def redis_key_prefix(self) -> str:
        """What every key of this stack begins with."""
        return "bulksms:" if self.valkey else f"bulksms:{self._identity.instance}:"

    def start_postgres(self) -> None:
        """Start PostgreSQL, or see that the one given can be reached and used."""
        if self.postgres is None:
            _check_external(self.admin_url)
            return
        self.postgres.start()
        # By default every role may connect to these two.
        execute(
            self.admin_url,
            [f"REVOKE CONNECT, TEMPORARY ON DATABASE {d} FROM PUBLIC" for d in ("postgres", "template1")],
        )

    def start_valkey(self) -> None:
        """Start Valkey, or see that the one given responds."""
        if self.valkey is not None:
            self.valkey.start()
            return
        with self.redis() as client:
            client.ping()

    def stop(self) -> None:
        """Stop what was started here; remove what was made when ephemeral."""
        if self._options.ephemeral:
            self._remove_external_traces()
        for server in (self.valkey, self.postgres):
            if server is None:
                continue
            if self._options.ephemeral:
                server.remove()
            else:
                server.stop()

    def create_database(self, name: str) -> OwnedDatabase:
        """Return the database `name` of this stack; it is made with a role of its own if it isn't there."""
        role = self._full_name(name)
        made = OwnedDatabase(role, role, self._url(role, self._identity.secret(f"database.{name}"), role))
        role_exists = fetch(self.admin_url, "SELECT FROM pg_roles WHERE rolname = $1", role)
        verb = "ALTER" if role_exists else "CREATE"
        password = literal(self._identity.secret(f"database.{name}"))
        execute(self.admin_url, [f"{verb} ROLE {identifier(role)} LOGIN PASSWORD {password}"])
        if not fetch(self.admin_url, "SELECT FROM pg_database WHERE datname = $1", role):
            self._become_able_to_give(role)
            self._create(role, role, "template0")
        self._databases[name] = made
        return made

    def clone_database(self, source: str, name: str) -> OwnedDatabase:
        """Return a copy of the database `source`, owned by the same role; nobody may be connected to `source`."""
        original = self._databases[source]
        full_name = self._full_name(name)
        # Its files as they are: a third of the work of copying through the log, which is for servers under load.
        self._create(full_name, original.role, f"{identifier(original.name)} STRATEGY FILE_COPY")
        copy = OwnedDatabase(full_name, original.role, _with_database(original.url, full_name))
        self._databases[name] = copy
        return copy

    def drop_database(self, name: str) -> None:
        """Drop one database of this stack, whoever is connected; its role too unless other databases are its own."""
        dropped = self._databases.pop(name)
        execute(self.admin_url, [f"DROP DATABASE IF EXISTS {identifier(dropped.name)} WITH (FORCE)"])
        if all(other.role != dropped.role for other in self._databases.values()):
            execute(self.admin_url, [f"DROP ROLE IF EXISTS {identifier(dropped.role)}"])

    def redis(self) -> redis.Redis:
        """Return a synchronous client."""
        return redis.Redis.from_url(self.redis_url, socket_timeout=5, socket_connect_timeout=5)

    def _full_name(self, name: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name):
            raise ValueError(f"{name!r} is no name for a database: up to 41 of a-z, 0-9 and _, a letter first")
        return name if self.postgres else f"bulksms_{self._identity.instance}_{name}"

    def _url(self, user: str, password: str, database: str) -> str:
        return _with_database(_with_user(self.admin_url, user, password), database)

    def _create(self, database: str, owner: str, template: str) -> None:
        execute(
            self.admin_url,
            [
                f"CREATE DATABASE {identifier(database)} OWNER {identifier(owner)} TEMPLATE {template}",
                f"REVOKE CONNECT, TEMPORARY ON DATABASE {identifier(database)} FROM PUBLIC",
            ],
        )

    def _become_able_to_give(self, role: str) -> None:
        """A role that isn't superuser can give a database only to a role it is a member of."""
        (is_superuser, version), *_ = fetch(
            self.admin_url,
            "SELECT rolsuper, current_setting('server_version_num')::int FROM pg_roles WHERE rolname = current_user",
        )
        if not is_superuser:
            option = " WITH SET TRUE" if version >= 160000 else ""
            execute(self.admin_url, [f"GRANT {identifier(role)} TO CURRENT_USER{option}"])

    def _remove_external_traces(self) -> None:
        if self.postgres is None:
            for name in reversed(list(self._databases)):
                self.drop_database(name)
        if self.valkey is None:
            with self.redis() as client:
                for key in client.scan_iter(match=f"{self.redis_key_prefix}*", count=1_000):
                    client.delete(key)


class ServerUnusableError(Exception):
    """The server that DATABASE_URL or REDIS_URL names can't be used; the text says why and what to change."""


def _check_external(url: str) -> None:
    try:
        rows = fetch(
            url,
            "SELECT rolsuper OR (rolcreatedb AND rolcreaterole), current_setting('server_version_num')::int / 10000 "
            "FROM pg_roles WHERE rolname = current_user",
        )
    except Exception as error:
        raise ServerUnusableError(f"DATABASE_URL cannot be used: {type(error).__name__}: {error}") from error
    allowed, major = rows[0]
    if not allowed:
        raise ServerUnusableError(
            "DATABASE_URL's role must be allowed to make databases and roles: ALTER ROLE … CREATEDB CREATEROLE"
        )
    if major < 15:
        raise ServerUnusableError(f"DATABASE_URL names a PostgreSQL {major}; 15 or newer is needed")


def _plain_scheme(url: str) -> str:
    """Return the URL as libpq and asyncpg know it, without a SQLAlchemy driver in its scheme."""
    return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url)


def _with_user(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{host}"))


def _with_database(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{quote(database, safe='')}"))
