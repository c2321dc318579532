"""Preparation: what is done for a claimed batch before anything is promised: size, permit, recipients, body."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.provider_outcomes import BATCH_TOO_LARGE
from bulksms_dispatcher.domain.rate_limits import LimitScope
from bulksms_dispatcher.domain.recipients import Recipients, pack, unpack
from bulksms_dispatcher.domain.requests import RenderedRequest, render_alone, render_bulk, render_single
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.pacing.limiter import Limiter, PacingUnavailable
from bulksms_dispatcher.pacing.permits import Permit, Throttled
from bulksms_dispatcher.providers.mitto import BULK_PATH, SEND_PATH
from bulksms_dispatcher.storage import deferrals, opt_outs
from bulksms_dispatcher.use_cases.batch_sizes import BatchSizes
from bulksms_dispatcher.workers import send_spans
from bulksms_dispatcher.workers.deferral import Deferral
from bulksms_dispatcher.workers.recorder import Recorder
from servicekit import logs
from servicekit.database import Database

__all__ = ["Preparation", "Prepared"]

# Next to a limit slots become free every few milliseconds. Not for longer: an urgent batch must not find all senders
# waiting with others, and a pause must stop sends within a second.
_WAIT_SECONDS = 0.25

PACING_UNAVAILABLE = "PACING_UNAVAILABLE"
# What a batch that found no slot says of itself while it waits.
_WAITS_FOR = {
    None: "ACCOUNT_RESTING",
    LimitScope.TRAFFIC_ACCOUNT: "TRAFFIC_ACCOUNT_LIMIT",
    LimitScope.TENANT: "TENANT_LIMIT",
    LimitScope.GLOBAL: "GLOBAL_LIMIT",
}

_log = logs.get_logger("bulksms.dispatcher.preparation")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request ready to be sent, as of what was known of opt-outs: the arm asks whether there are newer ones."""

    path: str
    request: RenderedRequest
    opted_out: Sequence[int]
    """Positions of the batch that are not in the request."""
    opt_out_version: int


class Preparation:
    """Whatever stops a batch here, nothing was promised: it is handed back, at the latest by who is interrupted."""

    def __init__(
        self,
        database: Database,
        limiter: Limiter,
        recorder: Recorder,
        deferral: Deferral,
        sizes: BatchSizes,
        metrics: Metrics,
        *,
        worker: str,
        traffic_account_id: str,
        use_bulk: bool,
        on_cut: Callable[[], None],
    ) -> None:
        self._database = database
        self._limiter = limiter
        self._recorder = recorder
        self._deferral = deferral
        self._sizes = sizes
        self._metrics = metrics
        self._worker = worker
        self._account = traffic_account_id
        self._use_bulk = use_bulk
        self._on_cut = on_cut

    async def cut(self, batch: LeasedBatch) -> LeasedBatch | None:
        """The batch with as many recipients as are sent at once just now; the others become a READY batch of their own.

        A probe has one where its answer may be lost; what the provider has found too large is halved. None, and the
        batch is handed back, when it is not this worker's any more, or its campaign is cancelled.
        """
        size = self._size_of(batch)
        if size >= batch.recipients:
            return batch
        recipients = unpack(batch.packed)
        first, rest = recipients.only(range(size)), recipients.only(range(size, batch.recipients))
        try:
            async with self._database.begin() as connection:
                done = await deferrals.split_off(connection, batch, self._worker, first, rest, timedelta(0), reason="")
        except BaseException:
            # Whatever became of the commit: the row says who is in the batch, and is read again.
            await self._recorder.hand_back(batch)
            raise
        if not done:
            await self._recorder.hand_back(batch)
            return None
        self._on_cut()
        phones = first.phones
        return replace(batch, packed=pack(first), recipients=len(phones), first_phone=phones[0], last_phone=phones[-1])

    def _size_of(self, batch: LeasedBatch) -> int:
        if batch.probe is not None and batch.probe.of_one:
            return 1
        half = max(1, batch.recipients // 2) if batch.reason == BATCH_TOO_LARGE else batch.recipients
        return min(half, self._sizes.current) if self._sizes.is_too_large(batch) else half

    async def take_permit(self, batch: LeasedBatch) -> Permit | Throttled:
        """Throttled, or PacingUnavailable, after the batch was handed back."""
        try:
            permit = await self._ask_for_permit(batch)
        except BaseException as error:
            away = isinstance(error, PacingUnavailable)
            await self._recorder.hand_back(batch, reason=PACING_UNAVAILABLE if away else "")
            if away:
                _log.warning("batch handed back: no pacing", batch_id=str(batch.batch_id))
            raise
        if isinstance(permit, Throttled):
            self._metrics.pacing_waits.add(1, {"scope": permit.scope.name if permit.scope else "BLOCKED"})
            await self._recorder.hand_back(batch, delay=permit.wait, reason=_WAITS_FOR[permit.scope])
        return permit

    async def prepare(self, batch: LeasedBatch) -> Prepared | None:
        """The request without those who have opted out.

        None when there is nothing to send now: some must wait for the outcome of an earlier message (the batch was
        handed back without them), or everybody has opted out.
        """
        with send_spans.step("render"):
            recipients = unpack(batch.packed)
            async with self._database.autocommit() as connection:
                opted_out = await opt_outs.find(connection, batch.tenant_id, recipients.phones)
                deferred = await self._deferral.find(connection, batch, recipients)
            if deferred:
                await self._deferral.defer(batch, recipients, deferred)
                return None
            prepared = self._render(batch, recipients, opted_out)
        if not prepared.request.messages:
            await self._recorder.record_all_opted_out(batch)
            return None
        return prepared

    async def _ask_for_permit(self, batch: LeasedBatch) -> Permit | Throttled:
        """Waits for a slot that all are waiting for; where only the tenant is at its limit, others can go first."""
        give_up_at = time.monotonic() + _WAIT_SECONDS
        while True:
            reply = await self._limiter.acquire(batch.tenant_id, batch.recipients)
            if isinstance(reply, Permit) or reply.scope not in (LimitScope.TRAFFIC_ACCOUNT, LimitScope.GLOBAL):
                return reply
            if time.monotonic() + reply.wait.total_seconds() > give_up_at:
                return reply
            await asyncio.sleep(reply.wait.total_seconds())

    def _render(self, batch: LeasedBatch, recipients: Recipients, opted_out: opt_outs.OptedOut) -> Prepared:
        if batch.is_single_message:
            # Its opt-out was checked when it was asked for, and it has waited for next to nothing since.
            request = render_single(self._account, batch.sender, batch.text, recipients.phones[0])
            return Prepared(SEND_PATH, request, (), opted_out.version)
        out: Sequence[int] = ()
        if opted_out.phones:
            out = [position for position, phone in enumerate(recipients.phones) if phone in opted_out.phones]
        # What was cut before USE_BULK_SMS was switched off goes as it was cut.
        alone = not self._use_bulk and batch.recipients == 1
        render = render_alone if alone else render_bulk
        request = render(self._account, batch.sender, batch.text, batch.variable_names, recipients, frozenset(out))
        return Prepared(SEND_PATH if alone else BULK_PATH, request, out, opted_out.version)
