"""Batch sizes: fixed, or following the provider: growing while it responds well, halved when it does not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.protocol import OutcomeKind
from bulksms_dispatcher.domain.provider_outcomes import Verdict
from bulksms_dispatcher.storage import batch_sizes
from servicekit import logs
from servicekit.database import Database, DatabaseUnavailable

__all__ = ["BatchSizeRange", "BatchSizes"]

# Reasons that a smaller request may not meet again.
_TOO_MUCH = frozenset({"BATCH_TOO_LARGE", "RATE_LIMITED", "READ_TIMEOUT", "WRITE_TIMEOUT"})
_WRITE_SECONDS = 2.0
_log = logs.get_logger("bulksms.dispatcher.batch_sizes")


@dataclass(frozen=True, slots=True)
class BatchSizeRange:
    """From where to where a size may go; fixed when both are the same."""

    min_size: int
    max_size: int
    start: int
    step: int
    quick: timedelta = timedelta(seconds=5)
    """A response within this is a good one."""

    @classmethod
    def fixed(cls, size: int) -> BatchSizeRange:
        """Always this size."""
        return cls(size, size, size, 0)

    @property
    def is_fixed(self) -> bool:
        """True when nothing is learnt."""
        return self.min_size == self.max_size


class BatchSizes:
    """The size in force for one traffic account, kept in memory and read again by a worker."""

    def __init__(self, database: Database, traffic_account_id: str, sizes: BatchSizeRange) -> None:
        self._database = database
        self._account = traffic_account_id
        self._range = sizes
        self._size = sizes.start

    @property
    def current(self) -> int:
        """Recipients of a request that is sent now."""
        return self._size

    @property
    def maximum(self) -> int:
        """Recipients of a batch when it is stored: how many of them go out at once is decided when it is sent."""
        return self._range.max_size

    def can_be_cut(self, batch: LeasedBatch) -> bool:
        """True when a smaller part of it could be sent instead."""
        return not self._range.is_fixed and batch.recipients > self._range.min_size

    def is_too_large(self, batch: LeasedBatch) -> bool:
        """True for a batch larger than what is sent at once just now."""
        return self.can_be_cut(batch) and batch.recipients > self._size

    async def refresh_once(self) -> None:
        """One round of the worker."""
        if self._range.is_fixed:
            return
        async with self._database.connect() as connection:
            self._set(await batch_sizes.read(connection, self._account))

    async def observe(self, batch: LeasedBatch, verdict: Verdict, seconds: float) -> None:
        """Learn from an attempt; a database that is away does not matter here."""
        if self._range.is_fixed or batch.is_single_message:
            return
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                await self._observe(batch.recipients, verdict, seconds)
        except (SQLAlchemyError, DatabaseUnavailable, OSError, TimeoutError) as error:
            _log.warning("batch size not learnt", error_type=type(error).__name__)

    async def _observe(self, recipients: int, verdict: Verdict, seconds: float) -> None:
        went_well = verdict.kind is OutcomeKind.ACCEPTED and seconds <= self._range.quick.total_seconds()
        if went_well and self._size <= recipients < self._range.max_size:
            async with self._database.begin() as connection:
                self._set(
                    await batch_sizes.grow(
                        connection,
                        self._account,
                        recipients,
                        start=self._range.start,
                        step=self._range.step,
                        max_size=self._range.max_size,
                    )
                )
        elif verdict.reason in _TOO_MUCH and recipients > self._range.min_size:
            target = max(self._range.min_size, recipients // 2)
            async with self._database.begin() as connection:
                shrunk = await batch_sizes.shrink(connection, self._account, target, start=self._range.start)
            if shrunk is not None:
                _log.warning("batches are cut smaller", size=shrunk, reason=verdict.reason)
            self._set(shrunk)

    def _set(self, size: int | None) -> None:
        if size is not None:
            self._size = min(max(size, self._range.min_size), self._range.max_size)
