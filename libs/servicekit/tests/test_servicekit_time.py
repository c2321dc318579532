"""Clocks, ids, deadlines and trace context as text."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import get_current_span

from servicekit import deadlines, telemetry
from servicekit.clock import ManualClock, SystemClock
from servicekit.ids import derived_id, uuid7

NAMESPACE = uuid.UUID(int=7)


def test_a_manual_clock_moves_only_forward_and_only_when_advanced() -> None:
    clock = ManualClock(datetime(2026, 11, 22, tzinfo=UTC))
    clock.advance(timedelta(seconds=90))
    assert clock.now() == datetime(2026, 11, 22, 0, 1, 30, tzinfo=UTC)
    assert clock.monotonic() == 90
    with pytest.raises(ValueError, match="go back"):
        clock.advance(timedelta(seconds=-1))
    with pytest.raises(ValueError, match="aware"):
        ManualClock(datetime(2026, 1, 1))  # noqa: DTZ001
    assert SystemClock().now().utcoffset() == timedelta(0)


@given(st.lists(st.integers(1, 10**9), min_size=2, max_size=20))
def test_ids_of_later_moments_are_greater(microseconds: list[int]) -> None:
    clock, random = ManualClock(), Random(1)
    ids = []
    for step in microseconds:
        ids.append(uuid7(clock, random))
        clock.advance(timedelta(microseconds=step))
    assert ids == sorted(ids)
    assert {(one.version, one.variant) for one in ids} == {(7, uuid.RFC_4122)}
    assert ids[0].int >> 80 == int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)


def test_derived_ids_depend_on_every_part_and_its_bounds() -> None:
    assert derived_id(NAMESPACE, "a", 1) == derived_id(NAMESPACE, "a", 1)
    assert len({derived_id(NAMESPACE, *parts) for parts in [("a", "bc"), ("ab", "c"), ("abc",), ("a", "b", "c")]}) == 4


def test_an_inner_deadline_can_only_be_nearer() -> None:
    assert deadlines.remaining() is None
    with deadlines.within(timedelta(seconds=10)):
        with deadlines.within(timedelta(minutes=10)), deadlines.within(None):
            left = deadlines.remaining()
            assert left is not None
            assert left <= timedelta(seconds=10)
        with deadlines.lifted():
            assert deadlines.remaining() is None
        with deadlines.within(timedelta(seconds=-1)):
            left = deadlines.remaining()
            assert left is not None
            assert left < timedelta(0)
    assert deadlines.remaining() is None


def test_a_traceparent_leads_back_to_its_span() -> None:
    tracer = TracerProvider().get_tracer("test")
    assert telemetry.current_traceparent() == ""
    with tracer.start_as_current_span("sender") as sender:
        traceparent = telemetry.current_traceparent()
    expected = sender.get_span_context()
    found = get_current_span(telemetry.context_from_traceparent(traceparent)).get_span_context()
    assert (found.trace_id, found.span_id) == (expected.trace_id, expected.span_id)
    link = telemetry.link_from_traceparent(traceparent, {"why": "sent by"})
    assert link is not None
    assert link.context.span_id == expected.span_id


@pytest.mark.parametrize("text", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "00-12-34-01"])
def test_a_malformed_traceparent_leads_nowhere(text: str) -> None:
    assert telemetry.link_from_traceparent(text) is None
    assert not get_current_span(telemetry.context_from_traceparent(text)).get_span_context().is_valid
