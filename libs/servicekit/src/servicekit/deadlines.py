"""How much time is left of what is being done: set by the server for each call, obeyed by outgoing calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta

__all__ = ["lifted", "remaining", "within"]

_deadline: ContextVar[float | None] = ContextVar("servicekit_deadline", default=None)


def remaining() -> timedelta | None:
    """What is left, negative when it has passed; None when nothing limits us."""
    deadline = _deadline.get()
    return None if deadline is None else timedelta(seconds=deadline - time.monotonic())


@contextmanager
def within(duration: timedelta | None) -> Iterator[None]:
    """Limit what is done inside; an outer, shorter limit stays in force. None adds no limit."""
    if duration is None:
        yield
        return
    outer = _deadline.get()
    mine = time.monotonic() + duration.total_seconds()
    token = _deadline.set(mine if outer is None else min(outer, mine))
    try:
        yield
    finally:
        _deadline.reset(token)


@contextmanager
def lifted() -> Iterator[None]:
    """No limit inside: for starting a task that is to outlive the call in which it is started."""
    token = _deadline.set(None)
    try:
        yield
    finally:
        _deadline.reset(token)
