"""Batches, rate limits, calls to Mitto, single messages."""
