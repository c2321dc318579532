"""Batch capture: captures of many accounts, each account's decided and committed for themselves."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from bulksms_ledger.domain.operations import Capture, Decision
from bulksms_ledger.engine.group_commit import GroupCommit


async def capture_all(group_commit: GroupCommit, captures: Sequence[Capture]) -> list[Decision]:
    """Decide all; the decisions are in the order of the captures.

    All accounts are waited for, whatever becomes of the others: one that cannot be decided now fails the call, which
    its caller repeats as a whole, and hides nothing.
    """
    by_tenant: defaultdict[str, list[int]] = defaultdict(list)
    for position, capture in enumerate(captures):
        by_tenant[capture.tenant_id].append(position)
    decided: dict[int, Decision] = {}

    async def decide(tenant_id: str, positions: Sequence[int]) -> None:
        decisions = await group_commit.decide(tenant_id, [captures[position] for position in positions])
        decided.update(zip(positions, decisions, strict=True))

    outcomes = await asyncio.gather(
        *(decide(tenant_id, positions) for tenant_id, positions in sorted(by_tenant.items())), return_exceptions=True
    )
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
    return [decided[position] for position in range(len(captures))]
