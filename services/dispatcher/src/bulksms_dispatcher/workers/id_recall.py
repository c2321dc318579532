"""Id recall: a process that starts knows the message ids that were given out before it, by whichever process."""

from __future__ import annotations

from bulksms_dispatcher.domain.known_ids import REMEMBERED, KnownIds
from bulksms_dispatcher.storage import provider_responses
from servicekit import logs
from servicekit.database import Database

__all__ = ["IdRecall"]

_log = logs.get_logger("bulksms.dispatcher.id_recall")


class IdRecall:
    """Reads the ids of the last hour's responses, the latest ones if they are too many, before anything is sent."""

    def __init__(self, database: Database, known: KnownIds) -> None:
        self._database = database
        self._known = known

    async def start(self) -> None:
        """Read them."""
        async with self._database.connect() as connection:
            latest = await provider_responses.read_recent_ids(connection, REMEMBERED, self._known.capacity)
        for message_ids in reversed(latest):
            self._known.add(message_ids)
        _log.info("recent message ids read", responses=len(latest))

    async def stop(self) -> None:
        """Nothing is under way."""
