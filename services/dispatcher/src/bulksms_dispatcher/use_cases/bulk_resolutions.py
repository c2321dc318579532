"""Bulk resolutions: an operator's statement about many ambiguous batches: first what it would do, then doing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

from bulksms_dispatcher.domain.batches import BatchKey
from bulksms_dispatcher.domain.resolution_plans import (
    MAX_BATCHES,
    BatchSelection,
    ExclusionCount,
    PlanCounts,
    Resolution,
    ResolutionPlan,
    exclusion_of,
)
from bulksms_dispatcher.storage import operator_actions, resolution_plans
from bulksms_dispatcher.storage.operator_actions import OperatorAction
from bulksms_dispatcher.use_cases.resolutions import OperatorResolution, Resolutions
from servicekit import errors, logs
from servicekit.database import Database
from servicekit.ids import derived_id

__all__ = ["BulkResolution", "BulkResolutions", "ResolutionCounts"]

_KIND = "RESOLVE_BATCHES"
# What was counted is decided about soon, or counted again.
_PLAN_LASTS = timedelta(minutes=15)
_log = logs.get_logger("bulksms.dispatcher.bulk_resolutions")


@dataclass(frozen=True, slots=True)
class BulkResolution:
    """Who carries out which plan, and where it is known from."""

    request_id: UUID
    token: UUID
    known_from: str
    operator: str

    def of(self, batch: BatchKey, resolution: Resolution) -> OperatorResolution:
        """About one of its batches, under a request id that a repeat derives again."""
        request_id = derived_id(self.request_id, batch.tenant_id, batch.batch_id)
        return OperatorResolution(request_id, batch.batch_id, resolution, self.known_from, self.operator)


@dataclass(frozen=True, slots=True)
class ResolutionCounts:
    """What became of a plan's batches."""

    resolved: int
    left: int
    """Left as they are: something was learnt of them since they were counted."""


class BulkResolutions:
    """A plan names its batches one by one: nothing is resolved that was not counted before."""

    def __init__(
        self,
        database: Database,
        resolutions: Resolutions,
        *,
        traffic_account_id: str,
        evidence_window: timedelta,
        draw_token: Callable[[], UUID] = uuid4,
    ) -> None:
        self._database = database
        self._resolutions = resolutions
        self._account = traffic_account_id
        self._window = evidence_window
        self._draw_token = draw_token

    async def preview(self, selection: BatchSelection, resolution: Resolution) -> tuple[PlanCounts, UUID]:
        """What the resolution would concern, and the token of the plan; nothing is resolved."""
        async with self._database.begin() as connection:
            now = await resolution_plans.read_now(connection)
            found = await resolution_plans.select(
                connection, selection, evidence_window=self._window, limit=MAX_BATCHES + 1
            )
            if selection.traffic_account_id not in ("", self._account):
                found = []  # all batches of a database are of one traffic account
            judged = [(batch, exclusion_of(batch, resolution, now)) for batch in found[:MAX_BATCHES]]
            included = [batch for batch, exclusion in judged if exclusion is None]
            plan = ResolutionPlan(self._draw_token(), resolution, [batch.key for batch in included])
            await resolution_plans.save(connection, plan, lasts=_PLAN_LASTS)
        excluded = Counter(exclusion for _, exclusion in judged if exclusion is not None)
        counts = PlanCounts(
            len(included),
            sum(batch.recipients for batch in included),
            [ExclusionCount(exclusion, batches) for exclusion, batches in excluded.items()],
            has_more=len(found) > MAX_BATCHES,
        )
        return counts, plan.token

    async def resolve(self, wanted: BulkResolution) -> ResolutionCounts:
        """Carry a plan out, batch by batch; repeated, it goes on where it was broken off.

        Errors: PLAN_NOT_FOUND, REQUEST_ID_REUSED.
        """
        plan = await self._begin(wanted)
        resolved = 0
        for batch in plan.batches:
            resolved += await self._resolve_one(wanted, batch, plan.resolution)
        _log.warning(
            "batches resolved by an operator",
            resolution=plan.resolution.name,
            batches=resolved,
            planned=len(plan.batches),
        )
        return ResolutionCounts(resolved, len(plan.batches) - resolved)

    async def _begin(self, wanted: BulkResolution) -> ResolutionPlan:
        subject = f"plan {wanted.token}"
        async with self._database.begin() as connection:
            done = await operator_actions.find(connection, wanted.request_id)
            if done is not None and (done.kind, done.subject) != (_KIND, subject):
                raise errors.already_exists(
                    "REQUEST_ID_REUSED", "This request id was used for another action: use a new one.", differs="token"
                )
            plan = await resolution_plans.find(connection, wanted.token, lasts=_PLAN_LASTS)
            if plan is None:
                raise errors.not_found(
                    "PLAN_NOT_FOUND",
                    "There is no plan of this token, or it is too old: ask PreviewResolution again, and look at it.",
                )
            action = OperatorAction(wanted.request_id, _KIND, wanted.known_from, wanted.operator, subject=subject)
            await operator_actions.save(connection, action)
        return plan

    async def _resolve_one(self, wanted: BulkResolution, batch: BatchKey, resolution: Resolution) -> bool:
        one = wanted.of(batch, resolution)
        async with self._database.connect() as connection:
            if await operator_actions.find(connection, one.request_id) is not None:
                return True  # before this was repeated
            found = await resolution_plans.find_selected(connection, batch, evidence_window=self._window)
            now = await resolution_plans.read_now(connection)
        if found is None or exclusion_of(found, resolution, now) is not None:
            return False
        try:
            await self._resolutions.resolve(one)
        except errors.DomainError as error:
            if error.reason != "BATCH_STATE":
                raise
            return False  # evidence came in between
        return True
