"""Batches: requests about many accounts, each account's decided and committed for themselves."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from bulksms_ledger.domain.operations import Decision, Request
from bulksms_ledger.engine.group_commit import GroupCommit


async def decide_all(group_commit: GroupCommit, requests: Sequence[Request]) -> list[Decision]:
    """Decide all; the decisions are in the order of the requests.

    All accounts are waited for, whatever becomes of the others: one that cannot be decided now fails the call, and
    hides nothing. Its caller repeats captures as a whole, and voids attempts as a whole.
    """
    by_tenant: defaultdict[str, list[int]] = defaultdict(list)
    for position, request in enumerate(requests):
        by_tenant[request.tenant_id].append(position)
    decided: dict[int, Decision] = {}

    async def decide(tenant_id: str, positions: Sequence[int]) -> None:
        decisions = await group_commit.decide(tenant_id, [requests[position] for position in positions])
        decided.update(zip(positions, decisions, strict=True))

    outcomes = await asyncio.gather(
        *(decide(tenant_id, positions) for tenant_id, positions in sorted(by_tenant.items())), return_exceptions=True
    )
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
    return [decided[position] for position in range(len(requests))]
