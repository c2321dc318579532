"""Structured logs, JSON or for a terminal, with trace ids and with anything that looks private masked."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog
from opentelemetry import trace

from servicekit.privacy import MASK, mask_for_logs

__all__ = ["configure", "get_logger", "redact"]

_PRIVATE_WORDS = frozenset(
    {"phone", "phones", "msisdn", "destination", "text", "body", "secret", "secrets", "token", "authorization"}
    | {"password", "dsn", "apikey"}
)
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+")
_UNTOUCHED = frozenset({"timestamp", "level", "logger", "trace_id", "span_id"})
_MAX_DEPTH = 6


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose keyword arguments become fields: `log.info("batch sent", batch_id=…, attempt=…)`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def configure(
    level: str = "INFO", log_format: Literal["json", "console"] = "json", *, stream: TextIO | None = None
) -> None:
    """Send structlog's and the standard library's records, one line each, to standard error (or `stream`)."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=(stream or sys.stderr).isatty())
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
    ]
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # Tracebacks as plain text: the structured form would show local variables.
                structlog.processors.format_exc_info,
                redact,
                renderer,
            ],
        )
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    # Chatty at INFO and below: each request of httpx with its URL, each SQL statement with its parameters.
    for name in ("httpx", "httpcore", "sqlalchemy.engine", "hpack", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: the last line of defence, not a licence to log private things."""
    for key, value in event.items():
        if key not in _UNTOUCHED:
            event[key] = _masked(key, value, 0)
    return event


def _masked(key: str, value: Any, depth: int) -> Any:
    if key != "event" and value is not None and _is_private(key):
        return MASK
    if isinstance(value, bool | int | float) or value is None:
        return value
    if depth >= _MAX_DEPTH:
        return MASK
    if isinstance(value, Mapping):
        return {str(k): _masked(str(k), v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked("", item, depth + 1) for item in value]
    return mask_for_logs(str(value))


def _is_private(key: str) -> bool:
    words = [word.lower() for word in _WORD.findall(key)]
    return not _PRIVATE_WORDS.isdisjoint(words) or "apikey" in "".join(words)


def _add_trace(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event
