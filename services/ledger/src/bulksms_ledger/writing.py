"""Writing: one write at a time in the background, while the next is prepared."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self


class Writing:
    """Runs coroutines one after the other; `begin` returns once the one before has ended and this one is on its way.

    A block: it ends when the last write has ended, and no write outlives it. A connection carries one statement at a
    time, but while the database works at it this process can prepare the next.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is None:
            return
        if error is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            return
        await self._task

    async def begin(self, write: Coroutine[Any, Any, Any]) -> None:
        """Wait for the write before, raising its error, and send this one."""
        try:
            if self._task is not None:
                await self._task
        except BaseException:
            write.close()
            raise
        self._task = asyncio.create_task(write)
        await asyncio.sleep(0)
