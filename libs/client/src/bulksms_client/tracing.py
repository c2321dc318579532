"""Carries the caller's trace over: the current OpenTelemetry context, as call metadata."""

from __future__ import annotations

from opentelemetry import propagate

__all__ = ["trace_metadata"]


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Metadata by the propagators the application chose (W3C by default); empty when it traces nothing."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple((key.lower(), value) for key, value in carrier.items())
