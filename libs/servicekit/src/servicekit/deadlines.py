"""How much time is left of what is being done: set by the server for each call, obeyed by outgoing calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, Token
from datetime import timedelta

__all__ = ["lifted", "remaining", "within"]

_deadline: ContextVar[float | None] = ContextVar("servicekit_deadline", default=None)


def remaining() -> timedelta | None:
    """What is left, negative when it has passed; None when nothing limits us."""
    deadline = _deadline.get()
    return None if deadline is None else timedelta(seconds=deadline - time.monotonic())


def within(duration: timedelta | None) -> AbstractContextManager[None]:
    """Limit what is done inside; an outer, shorter limit stays in force. None adds no limit."""
    return _Within(duration)


@contextmanager
def lifted() -> Iterator[None]:
    """No limit inside: for starting a task that is to outlive the call in which it is started."""
    token = _deadline.set(None)
    try:
        yield
    finally:
        _deadline.reset(token)


class _Within(AbstractContextManager[None]):
    """Not a generator, as it is entered for every call: those take five times as long."""

    __slots__ = ("_duration", "_token")

    def __init__(self, duration: timedelta | None) -> None:
        self._duration = duration
        self._token: Token[float | None] | None = None

    def __enter__(self) -> None:
        if self._duration is not None:
            outer = _deadline.get()
            mine = time.monotonic() + self._duration.total_seconds()
            self._token = _deadline.set(mine if outer is None else min(outer, mine))

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _deadline.reset(self._token)
