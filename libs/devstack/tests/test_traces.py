from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, StatusCode
from rich.console import Console

from devstack.health import is_serving
from devstack.ports import choose_port, release_port
from devstack.processes import ManagedProcess
from devstack.span_store import Span, SpanKey, SpanReader, SpanWriter
from devstack.tracetree import read_trace
from devstack.traceview import duration, render

A, B, C = (letter * 16 for letter in (b"a", b"b", b"c"))


def span(
    trace_id: bytes, number: int, parent: int = 0, name: str = "", *, ms: float = 1.0, service: str = "campaign",
    links: tuple[SpanKey, ...] = (), failed: bool = False, **attributes: str | int,
) -> Span:  # fmt: skip
    start = 1_000_000_000 + number * 1_000_000
    return Span(
        SpanKey(trace_id, number.to_bytes(8)), parent.to_bytes(8) if parent else b"", service, name or f"span {number}",
        1, start, start + int(ms * 1e6), failed, "out of luck" if failed else "", attributes, links,
    )  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spans.sqlite3"


@pytest.fixture
def writer(path: Path) -> Iterator[SpanWriter]:
    writing = SpanWriter(path)
    yield writing
    writing.close()


def printed(path: Path, trace_id: bytes = A) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(render(read_trace(SpanReader(path), trace_id)))
    return capture.get()


def test_a_trace_is_a_tree_with_durations(path: Path, writer: SpanWriter) -> None:
    writer.append([span(A, 1, name="Enqueue", ms=12.3), span(A, 2, 1, "Reserve", ms=0.5, service="ledger", units=7)])
    text = printed(path)
    assert "2 spans, 12.3 ms, services: campaign, ledger" in text
    assert text.index("campaign Enqueue  12.3 ms") < text.index("└── ledger Reserve  500 µs  +1.0 ms  units=7")


def test_siblings_alike_are_folded_with_their_children(path: Path, writer: SpanWriter) -> None:
    writer.append([span(A, 1, name="campaign")])
    for number in range(2, 42, 2):
        writer.append(
            [span(A, number, 1, "batch", ms=number, batch=number, tenant="t"), span(A, number + 1, number, "POST")]
        )
    text = printed(path)
    assert "batch  ×20, 2.0 ms … 40.0 ms, median 21.0 ms" in text
    assert "batch=2…40, tenant=t" in text
    assert "POST  ×20, 1.0 ms … 1.0 ms, median 1.0 ms" in text
    assert len(text.splitlines()) == 4


def test_failures_are_counted_and_said(path: Path, writer: SpanWriter) -> None:
    writer.append(
        [span(A, 1), *(span(A, n, 1, "POST", failed=n == 3) for n in range(2, 6)), span(A, 9, 1, "x", failed=True)]
    )
    assert "✗ 1 of 4 failed: out of luck" in printed(path)
    assert "✗ failed: out of luck" in printed(path)


def test_a_trace_that_links_here_is_shown_below_the_span_it_links_to(path: Path, writer: SpanWriter) -> None:
    target = SpanKey(A, (2).to_bytes(8))
    writer.append([span(A, 1, name="campaign"), span(A, 2, 1, "batch")])
    writer.append(
        [span(B, 5, name="report", service="gateway", links=(target,)), span(B, 6, 5, "fold", service="gateway")]
    )
    lines = printed(path).splitlines()
    assert [line.lstrip("│├└─ ").split("  ")[0] for line in lines[1:]] == [
        "campaign campaign", "campaign batch", "↪ gateway report", "gateway fold",
    ]  # fmt: skip


def test_a_trace_linked_from_here_is_shown_too_and_the_one_behind_it(path: Path, writer: SpanWriter) -> None:
    writer.append([span(A, 1, name="campaign"), span(A, 2, 1, "reports", links=(SpanKey(B, (6).to_bytes(8)),))])
    writer.append(
        [span(B, 5, name="forward", service="gateway", links=(SpanKey(C, (8).to_bytes(8)),)), span(B, 6, 5, "call")]
    )
    writer.append([span(C, 8, name="POST", service="gateway")])
    text = printed(path)
    assert text.index("reports") < text.index("↪ gateway forward") < text.index("campaign call")
    assert "↪ gateway POST" in text


def test_many_reports_that_link_to_many_batches_stay_a_few_lines(path: Path, writer: SpanWriter) -> None:
    batches = [span(A, n, 1, "batch") for n in range(2, 52)]
    writer.append([span(A, 1, name="campaign"), *batches])
    for n in range(300):
        trace_id = (n + 1).to_bytes(16)
        writer.append(
            [span(trace_id, 1, name="forward", service="gateway", links=tuple(b.key for b in batches[n % 5 :: 5]))]
        )
    text = printed(path)
    assert "↪ gateway forward  ×3000" in text
    assert len(text.splitlines()) == 4


def test_spans_without_their_parent_and_circles_are_shown_not_lost(path: Path, writer: SpanWriter) -> None:
    writer.append(
        [span(A, 1), span(A, 2, 99, "orphan"), span(A, 3, 4, "circle"), span(A, 4, 3, "circle too"), span(A, 5, 5)]
    )
    text = printed(path)
    assert "(parent missing) campaign orphan" in text
    assert "circle" in text
    assert "circle too" in text
    assert "span 5" in text
    assert "5 spans" in text


def test_a_trace_too_large_or_too_deep_is_cut_with_a_count(path: Path, writer: SpanWriter) -> None:
    writer.append([span(A, n, n - 1, f"level {n}") for n in range(1, 101)])
    assert "more below" in printed(path)
    writer.append([span(B, 1), *(span(B, n, 1, f"name {n}") for n in range(2, 1_000))])
    text = printed(path, B)
    assert len(text.splitlines()) <= 402
    assert "599 more not shown" in text
    assert read_trace(SpanReader(path), B, span_limit=100).omitted == 899


def test_an_unknown_trace_says_so(path: Path, writer: SpanWriter) -> None:
    assert "no spans have arrived" in printed(path)


def test_a_repeated_export_changes_nothing_and_the_oldest_go_when_there_are_too_many(path: Path) -> None:
    writer = SpanWriter(path, span_limit=100)
    writer.append([span(A, 1, links=(SpanKey(B, b"12345678"),))])
    writer.append([span(A, 1, links=(SpanKey(B, b"12345678"),))])
    assert SpanReader(path).count(A) == 1
    for start in range(2, 402, 50):
        writer.append([span(B, n) for n in range(start, start + 50)])
    writer.close()
    with sqlite3.connect(path) as connection:
        count, links = connection.execute(
            "SELECT (SELECT count(*) FROM spans), (SELECT count(*) FROM links)"
        ).fetchone()
    connection.close()
    assert count <= 100
    assert links == 0


@pytest.mark.parametrize(("ms", "text"), [(0.0123, "12 µs"), (3.14, "3.1 ms"), (2500, "2.50 s")])
def test_durations_are_written_in_the_unit_that_suits_them(ms: float, text: str) -> None:
    assert duration(ms) == text


def test_spans_exported_by_opentelemetry_are_stored_also_those_taken_just_before_the_end(path: Path) -> None:
    port = choose_port()
    process = ManagedProcess(
        "spans",
        [sys.executable, "-m", "devstack.spans", f"127.0.0.1:{port}", path],
        log_path=path.with_name("spans.log"),
        ready=lambda: is_serving(port),
    )
    process.start()
    provider = TracerProvider(resource=Resource({"service.name": "ledger"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"http://127.0.0.1:{port}", insecure=True)))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("request", attributes={"campaign": "c-1", "counts": [1, 2]}) as outer:
        for number in range(2_000):
            tracer.start_span("step", attributes={"number": number}).end()
    with tracer.start_as_current_span("report", links=[Link(outer.get_span_context())]) as report:
        report.set_status(StatusCode.ERROR, "late")
    provider.shutdown()
    process.stop()
    assert process.returncode == 0
    release_port(port)
    reader = SpanReader(path)
    trace_id = outer.get_span_context().trace_id.to_bytes(16)
    tree = read_trace(reader, trace_id)
    assert tree.span_count == 2_001
    assert reader.traces_mentioning("c-1") == [(trace_id, 1, False)]
    text = printed(path, trace_id)
    assert "ledger request" in text
    assert "counts=[1, 2]" in text
    assert "step  ×2000" in text
    assert "↪ ledger report" in text
    assert "✗ failed: late" in text
