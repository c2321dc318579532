"""One bounded pool of PostgreSQL connections: every wait has an end, and a killed server is survived."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from random import Random
from typing import Any, TypeVar

import asyncpg
from pydantic import SecretStr
from sqlalchemy import event, exc, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from servicekit import logs, statement_spans
from servicekit.backoff import Backoff
from servicekit.database_errors import (
    DatabaseUnavailable,
    as_domain_error,
    is_connection_lost,
    is_rolled_back,
    is_transient,
    unavailable_from,
    violated_constraint,
)
from servicekit.settings import ServiceSettings, SettingsError

__all__ = [
    "Database",
    "DatabaseUnavailable",
    "as_domain_error",
    "is_connection_lost",
    "is_rolled_back",
    "is_transient",
    "violated_constraint",
]

T = TypeVar("T")

_log = logs.get_logger("bulksms.servicekit.database")
_CLIENT_CHECK = timedelta(seconds=1)
# Jittered: two transactions that collided must not meet again.
_BACKOFF = Backoff(timedelta(seconds=0.02), spread=0.5)
_READY_PAUSE_SECONDS = 0.2
_ROLLBACK_SECONDS = 5.0
# Wrong in a way that waiting does not mend: password, role, database, TLS demanded and not offered.
_HOPELESS = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ClientConfigurationError,
)


class Database:
    """A component: `start` waits until the server answers, `stop` closes the pool.

    `statement_timeout` is the server's limit on one statement, `command_timeout` the client's, for a server that no
    longer answers at all; the statements of `bulk` can be given more. No statement parameter is ever logged.
    """

    def __init__(
        self,
        url: str | SecretStr,
        *,
        application_name: str,
        pool_size: int = 10,
        pool_timeout: timedelta = timedelta(seconds=10),
        connect_timeout: timedelta = timedelta(seconds=5),
        statement_timeout: timedelta = timedelta(seconds=30),
        command_timeout: timedelta = timedelta(seconds=45),
        idle_in_transaction_timeout: timedelta = timedelta(seconds=60),
        start_timeout: timedelta = timedelta(seconds=30),
        server_settings: Mapping[str, str] | None = None,
    ) -> None:
        self._dsn = _plain_dsn(url)
        self._start_timeout = start_timeout
        self._random = Random()  # noqa: S311 - for jitter
        self._connect_arguments: dict[str, Any] = {
            "timeout": connect_timeout.total_seconds(),
            "command_timeout": command_timeout.total_seconds(),
            "server_settings": {
                "application_name": application_name,
                "statement_timeout": _milliseconds(statement_timeout),
                "idle_in_transaction_session_timeout": _milliseconds(idle_in_transaction_timeout),
                # What nobody waits for ends when its connection does, not at its timeout: the statement of a killed
                # process, and one whose cancel request came between its Bind and its Execute, where PostgreSQL takes
                # itself for idle and drops it (5 of 2,000 times when cancelled as soon as it is seen to run).
                "client_connection_check_interval": _milliseconds(_CLIENT_CHECK),
                # Compiling costs more than our short statements take; measured on the set-based ones, too.
                "jit": "off",
                "timezone": "UTC",
                **(server_settings or {}),
            },
        }
        self.engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._connect,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=pool_timeout.total_seconds(),
            pool_use_lifo=True,
            pool_recycle=1800,
            hide_parameters=True,
        )
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")  # of the same pool
        event.listen(self.engine.sync_engine, "checkout", _refuse_closed)
        statement_spans.install(self.engine.sync_engine)

    @classmethod
    def from_settings(
        cls,
        settings: ServiceSettings,
        *,
        application_name: str = "",
        server_settings: Mapping[str, str] | None = None,
    ) -> Database:
        """With DATABASE_URL and DATABASE_POOL_SIZE; `SettingsError` when the first is not set."""
        if settings.database_url is None:
            raise SettingsError("DATABASE_URL is not set: set it to postgresql://user:password@host:port/database")
        return cls(
            settings.database_url,
            application_name=application_name or settings.name,
            pool_size=settings.database_pool_size,
            server_settings=server_settings,
        )

    def begin(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A transaction: committed at the end of the block, rolled back when the block raises."""
        return self.engine.begin()

    def connect(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection whose transaction, begun by its first statement, is rolled back at the end: for reading."""
        return self.engine.connect()

    def autocommit(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection on which every statement is a transaction of its own, committed when its call returns.

        For one statement, or reads that need no common snapshot: saves the round trips of BEGIN and COMMIT, which cost
        more than a short statement does.
        """
        return self._autocommit.connect()

    async def run_transaction(self, body: Callable[[AsyncConnection], Awaitable[T]], *, attempts: int = 4) -> T:
        """Run `body` in a transaction, again when it provably did not commit and may do so the next time.

        That is: serialization failures and deadlocks, and connections not got or lost before COMMIT was sent. A
        connection lost while committing is raised. `body` must have no effects outside the database.
        """

        async def once(attempt: _Attempt) -> T:
            async with self.engine.connect() as connection:
                transaction = await connection.begin()
                result = await body(connection)
                attempt.committing = True
                await transaction.commit()
                return result

        return await self._repeated(once, attempts)

    async def run_raw_transaction(self, body: Callable[[Any], Awaitable[T]], *, attempts: int = 4) -> T:
        """The same with an asyncpg connection, for a service's hottest path.

        Of an empty transaction's 0.8 ms of CPU, SQLAlchemy's way to begin and to commit takes more than half. Errors
        are asyncpg's, and statements leave no spans.
        """

        async def once(attempt: _Attempt) -> T:
            async with self._driver() as driver:
                await driver.execute("BEGIN")
                result = await body(driver)
                attempt.committing = True
                await driver.execute("COMMIT")
                return result

        return await self._repeated(once, attempts)

    @asynccontextmanager
    async def _driver(self) -> AsyncIterator[Any]:
        """An asyncpg connection; when the block raises, what it had begun is undone."""
        async with self.engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            try:
                yield driver
            except BaseException as error:
                alive = await _roll_back(driver)
                if not alive and isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
                    # What asyncpg says of a connection that was cut off depends on how far it had read.
                    raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle") from error
                raise

    async def _repeated(self, once: Callable[[_Attempt], Awaitable[T]], attempts: int) -> T:
        for number in count(1):
            attempt = _Attempt()
            try:
                return await once(attempt)
            except Exception as error:
                repeatable = is_rolled_back(error) if attempt.committing else is_transient(error)
                if number >= attempts or not repeatable:
                    raise
                _log.info("transaction repeated", attempt=number, error_type=type(error).__qualname__)
            await asyncio.sleep(_BACKOFF.jittered(number, self._random.random()).total_seconds())
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def wait_ready(self, deadline: timedelta) -> None:
        """Return once the server answers; `DatabaseUnavailable` after `deadline`, `SettingsError` when hopeless."""
        last: DatabaseUnavailable | None = None
        try:
            async with asyncio.timeout(deadline.total_seconds()):
                while True:
                    try:
                        async with self.engine.connect() as connection:
                            await connection.execute(text("SELECT 1"))
                    except DatabaseUnavailable as error:
                        last = error
                    else:
                        return
                    await asyncio.sleep(_READY_PAUSE_SECONDS)
        except TimeoutError:
            reason = f" ({last.detail})" if last else ""
            raise DatabaseUnavailable(f"{_where(self._dsn)} did not answer within {deadline}{reason}") from last

    async def start(self) -> None:
        """Wait until the server answers."""
        await self.wait_ready(self._start_timeout)

    async def stop(self) -> None:
        """Close every connection."""
        await self.engine.dispose()

    async def _connect(self) -> Any:
        try:
            return await asyncpg.connect(self._dsn, **self._connect_arguments)
        except _HOPELESS as error:
            raise SettingsError(f"DATABASE_URL is wrong: {_where(self._dsn)} refuses it: {error}") from error
        except Exception as error:
            if (unavailable := unavailable_from(error, _where(self._dsn))) is not None:
                raise unavailable from error
            raise


@dataclass(slots=True)
class _Attempt:
    """How far one attempt at a transaction got."""

    committing: bool = False


async def _roll_back(driver: Any) -> bool:
    """Undo what is under way; False when the connection could not do so in time and was closed, which undoes it too."""
    done = False
    try:
        with suppress(
            TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError
        ):
            async with asyncio.timeout(_ROLLBACK_SECONDS):
                await driver.execute("ROLLBACK")
                done = True
    finally:
        if not done:
            driver.terminate()
    return done


def _refuse_closed(dbapi_connection: Any, _record: Any, _proxy: Any) -> None:
    # A killed server closes its sockets, and asyncpg knows without asking: no ping per checkout is needed.
    if dbapi_connection.driver_connection.is_closed():
        raise exc.DisconnectionError("the server has closed this connection")


def _plain_dsn(url: str | SecretStr) -> str:
    value = url.get_secret_value() if isinstance(url, SecretStr) else url
    try:
        parsed = make_url(value)
    except exc.ArgumentError:
        raise SettingsError("DATABASE_URL is wrong: must be postgresql://user:password@host:port/database") from None
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise SettingsError("DATABASE_URL is wrong: only postgresql:// is understood")
    return parsed.set(drivername="postgresql").render_as_string(hide_password=False)


def _where(dsn: str) -> str:
    url = make_url(dsn)
    return f"PostgreSQL at {url.host or 'localhost'}:{url.port or 5432}/{url.database or ''}"


def _milliseconds(duration: timedelta) -> str:
    return str(int(duration.total_seconds() * 1000))
