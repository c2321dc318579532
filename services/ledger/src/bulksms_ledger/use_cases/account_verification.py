"""Account verification: everything stored of one account, read in one snapshot and compared with its entries."""

from __future__ import annotations

from bulksms_ledger.domain.verification import Verification
from bulksms_ledger.storage.snapshot import PAGE, open_snapshot
from servicekit.database import Database


async def verify_account(database: Database, tenant_id: str) -> Verification | None:
    """Verify an account, page by page, while others go on writing; None when there is no account."""
    async with open_snapshot(database, tenant_id) as snapshot:
        account = await snapshot.account()
        if account is None:
            return None
        verification = Verification(tenant_id)
        async for page in snapshot.pages():
            for entry, stored, on_record in page:
                verification.read(entry, stored, on_record=on_record)
            if closed := verification.take_closed():
                matching = verification.forget_matching(await snapshot.reservations(closed))
                verification.compare_attempts(matching, await snapshot.attempt_totals(matching))
        remaining = verification.remaining
        for start in range(0, len(remaining), PAGE):
            some = remaining[start : start + PAGE]
            found = await snapshot.reservations(some)
            verification.compare_reservations(some, found)
            verification.compare_attempts(found, await snapshot.attempt_totals(found))
        verification.compare(account, await snapshot.lots(), await snapshot.count_reservations())
        return verification
