"""Which message ids are not believed: those a process that starts knows of, and those made at another time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import text

from bulksms_dispatcher.domain.known_ids import KnownIds
from bulksms_dispatcher.settings import Settings
from bulksms_dispatcher.workers.id_recall import IdRecall
from devstack.eventually import eventually
from servicekit.database import Database

from .dispatcher_support import Dispatcher, Peers, Provider, phones, serving, submit


async def batch_of_ten(dispatcher: Dispatcher, simulator: Provider, peers: Peers, first: int) -> Sequence[str]:
    """The ids it was given."""
    before = len(list(simulator.accepted()))
    await submit(dispatcher, phones(10, first=first))
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": before + 10})
    return [message.message_id for message in simulator.accepted()][before:]


async def recalled(database: Database, capacity: int = 50_000) -> KnownIds:
    known = KnownIds(capacity)
    await IdRecall(database, known).start()
    return known


async def test_every_id_of_the_last_hour_is_known_and_of_too_many_the_latest(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, database: Database
) -> None:
    assert not (await recalled(database)).includes_any(["whatever"]), "nothing was given out yet"
    earlier = await batch_of_ten(dispatcher, simulator, peers, 306_900_000_000)
    later = await batch_of_ten(dispatcher, simulator, peers, 447_700_900_000)
    known = await recalled(database)
    assert all(known.includes_any([message_id]) for message_id in (*earlier, *later))
    few = await recalled(database, 10)
    assert few.includes_any(later[-1:])
    assert not few.includes_any(earlier)

    an_hour_passes = "UPDATE provider_responses SET received_at = received_at - interval '61 minutes'"
    async with database.begin() as connection:
        await connection.execute(text(an_hour_passes))
    assert not (await recalled(database)).includes_any([*earlier, *later]), "that is too long ago"


async def test_ids_that_were_made_now_are_believed_where_ids_carry_their_time(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    async with serving(configure(provider_ids_carry_time=True)) as dispatcher:
        await batch_of_ten(dispatcher, simulator, peers, 306_900_000_000)
