"""What a log line shows, and what it must never show."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from servicekit import logs


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("INFO", "json", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def last(stream: io.StringIO) -> dict[str, Any]:
    return json.loads(stream.getvalue().splitlines()[-1])


def test_a_line_is_json_with_the_current_trace(lines: io.StringIO) -> None:
    with TracerProvider().get_tracer("test").start_as_current_span("work") as span:
        logs.get_logger("test").info("batch sent", batch_id="b1", attempt=2)
    line = last(lines)
    assert (line["event"], line["batch_id"], line["attempt"], line["level"]) == ("batch sent", "b1", 2, "info")
    assert line["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert line["timestamp"].endswith("Z")


def test_records_of_the_standard_library_come_out_the_same_way(lines: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").warning("lost %s to %s", "connection", "+306912345678", extra={"token": "x"})
    line = last(lines)
    assert line["event"] == "lost connection to [masked]"
    assert (line["logger"], line["level"], line["token"]) == ("uvicorn.error", "warning", "[masked]")


def test_an_exception_is_one_line_without_local_variables_or_numbers(lines: io.StringIO) -> None:
    private = "words of a message"
    try:
        raise ValueError("Key (phone)=(306912345678) exists", len(private))  # noqa: TRY301
    except ValueError:
        logs.get_logger("test").exception("failed")
    line = last(lines)
    assert "ValueError: ('Key (phone)=([masked]) exists'" in line["exception"]
    assert "306912345678" not in lines.getvalue()
    assert "words of a message" not in lines.getvalue()


def test_private_keys_are_masked_at_any_depth(lines: io.StringIO) -> None:
    logs.get_logger("test").info(
        "sent",
        phone=306912345678,
        message={"text": "hi", "destination": "x", "parts": 2},
        headers=[{"X-Mitto-API-Key": "k", "Authorization": "a", "Accept": "json"}],
        dlr_secret="s",
        apiKey="k",
        context="kept",
        texts_rendered=3,
    )
    line = last(lines)
    assert line["phone"] == line["dlr_secret"] == line["apiKey"] == "[masked]"
    assert line["message"] == {"text": "[masked]", "destination": "[masked]", "parts": 2}
    assert line["headers"] == [{"X-Mitto-API-Key": "[masked]", "Authorization": "[masked]", "Accept": "json"}]
    assert (line["context"], line["texts_rendered"]) == ("kept", 3)
