"""Why a campaign is not sent just now, for whoever shows it to people."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from bulksms_dispatcher.domain.account_holds import LaneKey
from bulksms_dispatcher.domain.campaign_holds import CampaignHold, WhyNobodySends, hold_of
from bulksms_dispatcher.domain.rate_limits import Limits
from bulksms_dispatcher.pacing.gate import PacingGate
from bulksms_dispatcher.storage import account_holds, campaign_holds
from servicekit.database import Database

__all__ = ["CampaignHolds"]


class CampaignHolds:
    """Puts together what the database knows of a campaign and what this process knows of everybody's sending."""

    def __init__(
        self, database: Database, gate: PacingGate, limits: Callable[[], Limits], traffic_account_id: str
    ) -> None:
        self._database = database
        self._gate = gate
        self._limits = limits
        self._account = traffic_account_id

    async def find(self, tenant_id: str, campaign_id: UUID) -> CampaignHold:
        """What holds it now; nothing holds what nobody has heard of."""
        async with self._database.connect() as connection:
            facts = await campaign_holds.read(connection, tenant_id, campaign_id, self._account)
            provider = (await account_holds.read(connection, self._account)).state
        account = next(iter(provider.concerning(LaneKey(tenant_id, campaign_id))), None)
        limit_of_none = self._limits().forbidding(self._account, tenant_id)
        return hold_of(facts, WhyNobodySends(account, self._gate.closed_at, limit_of_none))
