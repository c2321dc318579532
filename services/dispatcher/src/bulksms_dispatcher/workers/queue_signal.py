"""The queue's signal: a batch stored by one replica is claimed by another at once, not at the next poll."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from redis.asyncio import Redis
from redis.exceptions import RedisError

from servicekit import logs

__all__ = ["QueueSignal"]

_log = logs.get_logger("bulksms.dispatcher.queue_signal")
# Below redis-py's socket timeout: a blocking read that is longer would look like a dead server.
_LISTEN_SECONDS = 1.0
_RETRY_SECONDS = 1.0
# Storing a batch takes less; the replicas need to hear of many at once only.
_SEND_EVERY_SECONDS = 0.05


class QueueSignal:
    """A component that listens; losing a signal costs at most one poll, so nothing here is retried or kept."""

    name = "queue signal"

    def __init__(self, redis: Redis, key_prefix: str, on_signal: Callable[[], None]) -> None:
        self._redis = redis
        self._channel = f"{key_prefix}queue-signal"
        self._on_signal = on_signal
        self._stopping = asyncio.Event()
        self._unsent = asyncio.Event()
        self._heard = True

    async def start(self) -> None:
        """Nothing to prepare: Redis may be away."""

    async def stop(self) -> None:
        """Listen no more."""
        self._stopping.set()

    def notify(self) -> None:
        """Notify the senders of all replicas; our own at once."""
        self._on_signal()
        self._unsent.set()

    async def run(self) -> None:
        """Listen and send until stopped, through any outage."""
        tasks = {
            asyncio.create_task(self._listen_for_ever(), name="queue-signal.listen"),
            asyncio.create_task(self._send_for_ever(), name="queue-signal.send"),
        }
        await self._stopping.wait()
        # A blocking read would hold up the end for as long as it waits.
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _send_for_ever(self) -> None:
        while True:
            await self._unsent.wait()
            self._unsent.clear()
            with suppress(RedisError, OSError, TimeoutError):  # then they poll
                await self._redis.publish(self._channel, b"")
            await asyncio.sleep(_SEND_EVERY_SECONDS)

    async def _listen_for_ever(self) -> None:
        while True:
            try:
                await self._listen()
            except (RedisError, OSError, TimeoutError) as error:
                if self._heard:
                    _log.warning("no signals: polling", error_type=type(error).__name__)
                self._heard = False
            await asyncio.sleep(_RETRY_SECONDS)

    async def _listen(self) -> None:
        async with self._redis.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(self._channel)
            self._on_signal()  # what was missed while we did not listen
            while True:
                message = await subscription.get_message(timeout=_LISTEN_SECONDS)
                self._heard = True
                if message is not None:
                    self._on_signal()
