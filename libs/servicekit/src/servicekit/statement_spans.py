"""A span for each SQL statement, under a span that is being recorded; text yes, parameters never."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from sqlalchemy import Engine, event

__all__ = ["install", "span"]

_MAX_TEXT = 1000


def install(engine: Engine) -> None:
    """Record what this engine executes.

    Only below a recording span: a worker that polls would otherwise start a trace of one statement each time. A span
    is made when its statement has ended, from the time it began, so a cancelled one leaves none open.
    """
    event.listen(engine, "before_cursor_execute", _remember_start)
    event.listen(engine, "after_cursor_execute", _record_success)
    event.listen(engine, "handle_error", _record_failure)


@contextmanager
def span(operation: str, statement: str) -> Iterator[None]:
    """The same for statements that go round SQLAlchemy."""
    started = time.time_ns()
    try:
        yield
    except BaseException as error:
        _record(operation, statement, started, error)
        raise
    _record(operation, statement, started, None)


def _remember_start(_c: Any, _cursor: Any, _statement: str, _p: Any, context: Any, _many: bool) -> None:  # noqa: FBT001
    context.servicekit_started = time.time_ns()


def _record_success(_c: Any, _cursor: Any, statement: str, _p: Any, context: Any, _many: bool) -> None:  # noqa: FBT001
    _record(_operation(statement), statement, context.servicekit_started, None)


def _record_failure(failure: Any) -> None:
    started = getattr(failure.execution_context, "servicekit_started", None)
    if started is not None and failure.statement:
        _record(_operation(failure.statement), failure.statement, started, failure.original_exception)


def _operation(statement: str) -> str:
    words = statement.split(maxsplit=1)
    return words[0].upper() if words else "SQL"


def _record(operation: str, statement: str, started: int, error: BaseException | None) -> None:
    if not trace.get_current_span().is_recording():
        return
    recorded = trace.get_tracer("bulksms.servicekit.database").start_span(
        operation,
        kind=SpanKind.CLIENT,
        start_time=started,
        attributes={
            "db.system.name": "postgresql",
            "db.operation.name": operation,
            "db.query.text": " ".join(statement.split())[:_MAX_TEXT],
        },
    )
    if error is not None:
        kind = getattr(error, "sqlstate", None) or type(error).__qualname__
        recorded.set_attribute("error.type", kind)
        recorded.set_status(Status(StatusCode.ERROR, kind))
    recorded.end()
