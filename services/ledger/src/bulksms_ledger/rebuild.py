"""`python -m bulksms_ledger rebuild --check`: everything recomputed from the entries alone, and compared to the bit."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from bulksms_ledger.settings import Settings
from bulksms_ledger.storage.reading import Reader
from bulksms_ledger.use_cases.account_verification import verify_account
from servicekit import errors, logs
from servicekit.database import Database
from servicekit.errors import DomainError
from servicekit.settings import ServiceSettings, SettingsError, load

EXIT_DIFFERS: Final = 1
EXIT_USAGE: Final = 2
_ACCOUNTS_PAGE: Final = 500


def main(argv: Sequence[str] | None = None) -> int:
    """Check every account, or one; 0 when nothing differs, 1 with every difference on standard output."""
    arguments = _parser().parse_args(argv)
    logs.configure("WARNING")
    try:
        settings = load(ServiceSettings)
        logs.configure("WARNING", settings.log_format)
        database = Database.from_settings(settings, application_name=f"{Settings.service_name} rebuild")
        return asyncio.run(check(database, arguments.tenant, sys.stdout.write))
    except (SettingsError, DomainError) as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USAGE


async def check(database: Database, tenant_id: str, write: Callable[[str], object]) -> int:
    """Recompute one account, or all for an empty name; writes a line per difference and returns the exit code."""
    accounts = entries = different = 0
    try:
        await database.start()
        async for name in _tenants(database, tenant_id):
            verification = await verify_account(database, name)
            if verification is None:
                raise errors.not_found("ACCOUNT_NOT_FOUND", f"Tenant {name} has no account.")
            accounts, entries = accounts + 1, entries + verification.entries_read
            different += bool(verification.differences)
            for difference in verification.differences:
                write(f"{name}: {difference}\n")
    finally:
        await database.stop()
    said = f"{different} differ" if different else "all balances, reservations and lots are what the entries say"
    write(f"{accounts} accounts, {entries} entries: {said}\n")
    return EXIT_DIFFERS if different else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bulksms_ledger rebuild", description=__doc__)
    # Nothing is ever written: what differs from the entries is for people to look into, not to be painted over.
    parser.add_argument("--check", action="store_true", required=True, help="compare, change nothing")
    parser.add_argument("--tenant", default="", help="only this tenant's account")
    return parser


async def _tenants(database: Database, tenant_id: str) -> AsyncIterator[str]:
    if tenant_id:
        yield tenant_id
        return
    reader, after = Reader(database), None
    while page := await reader.accounts(after=after, limit=_ACCOUNTS_PAGE):
        for account in page:
            yield account.tenant_id
        after = page[-1].tenant_id
