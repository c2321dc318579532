"""Gathered calls: what many senders ask of a peer at once goes in one call."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

__all__ = ["GatheredCalls"]

T = TypeVar("T")
R = TypeVar("R")

_MAX_ITEMS = 500


class GatheredCalls(Generic[T, R]):
    """While a call for a tenant is under way the next one's items gather; who comes alone is sent at once.

    One call a tenant: a tenant whose account is slow to decide holds up nobody else. `call` answers item by item, in
    order; when it fails, all of its items fail. An item whose caller has gone before its call begins is not sent.
    """

    def __init__(self, call: Callable[[Sequence[T]], Awaitable[Sequence[R]]], name: str) -> None:
        self._call = call
        self._name = name
        self._waiting: defaultdict[str, list[tuple[T, asyncio.Future[R]]]] = defaultdict(list)
        self._serving: dict[str, asyncio.Task[None]] = {}

    async def ask(self, tenant_id: str, item: T) -> R:
        """The peer's answer about one item; raises what the call raised."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting[tenant_id].append((item, answer))
        if tenant_id not in self._serving:
            # A context of its own: it outlives the caller that began it, with its deadline and span.
            self._serving[tenant_id] = asyncio.create_task(self._serve(tenant_id), name=self._name, context=Context())
        return await answer

    async def _serve(self, tenant_id: str) -> None:
        try:
            while waiting := [one for one in self._waiting.pop(tenant_id, ()) if not one[1].done()]:
                for start in range(0, len(waiting), _MAX_ITEMS):
                    await self._send(waiting[start : start + _MAX_ITEMS])
        finally:
            del self._serving[tenant_id]

    async def _send(self, together: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            answers = await self._call([item for item, _ in together])
            for (_, answer), given in zip(together, answers, strict=True):
                if not answer.done():
                    answer.set_result(given)
        except Exception as error:  # noqa: BLE001 - the task's boundary: its callers get it
            for _, answer in together:
                if not answer.done():
                    answer.set_exception(error)
        except asyncio.CancelledError:
            for _, answer in together:
                answer.cancel()
            raise
