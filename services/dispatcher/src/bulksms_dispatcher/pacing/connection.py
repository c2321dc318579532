"""The connection to Redis: without retries, for who asks decides what it means that Redis is away."""

from __future__ import annotations

from pydantic import SecretStr
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

__all__ = ["open_redis"]

_TIMEOUT_SECONDS = 2.0


def open_redis(url: SecretStr, *, connections: int) -> Redis:
    """A client of at most so many connections."""
    pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
        url.get_secret_value(),
        max_connections=connections,
        timeout=_TIMEOUT_SECONDS,
        socket_timeout=_TIMEOUT_SECONDS,
        socket_connect_timeout=_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)
