"""Connections: what the ledger asks of PostgreSQL besides what every service does."""

from __future__ import annotations

from typing import Final

from servicekit.database import Database
from servicekit.settings import ServiceSettings

# Every statement here has an index that gives its rows one by one, in the order asked for. A plan made while a table
# was small reads all of it, and is kept until the table is analyzed again, up to a minute later: a young ledger took
# 5 ms, then 14, then more for a group of 25 captures. A bitmap reads all of a tenant's rows to sort a page of them.
_ROW_BY_ROW: Final = {"enable_seqscan": "off", "enable_bitmapscan": "off"}


def open_database(settings: ServiceSettings, application_name: str = "ledger") -> Database:
    """The ledger's database, not yet connected to."""
    return Database.from_settings(settings, application_name=application_name, server_settings=_ROW_BY_ROW)
