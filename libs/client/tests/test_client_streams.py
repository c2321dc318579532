"""Lists that page by themselves, and watches that survive a broken connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms_client import AsyncClient, Client, DeadlineExceeded, Internal, NotFound, Unavailable
from bulksms_client.reconnection import Reconnection

PAGES = {"": ("2", ["a", "b"]), "2": ("3", []), "3": ("", ["c"])}


def recipients_page(request: Any, _context: grpc.ServicerContext) -> pb.ListRecipientsResponse:
    following, phones = PAGES[request.page_token]
    return pb.ListRecipientsResponse(recipients=[pb.Recipient(phone=one) for one in phones], next_page_token=following)


def update(state: pb.CampaignState.ValueType, sent: int, *, final: bool = False) -> pb.WatchCampaignResponse:
    status = pb.CampaignStatus(state=state, counters=pb.CampaignCounters(total=10, sent=sent))
    return pb.WatchCampaignResponse(status=status, final=final)


def broken_then_final(breaks: list[grpc.StatusCode | None]) -> Any:
    """Each stream sends one status and breaks as asked for (None: ends politely); the last one is final."""
    remaining = iter(breaks)

    def handle(_request: Any, context: grpc.ServicerContext) -> Iterator[pb.WatchCampaignResponse]:
        for code in remaining:
            yield update(pb.CAMPAIGN_STATE_SENDING, 1)
            if code is not None:
                context.abort(code, "going away")
            return
        yield update(pb.CAMPAIGN_STATE_SENT, 10, final=True)

    return handle


def test_a_list_goes_through_all_pages_even_empty_ones(services: Any, client: Client) -> None:
    services.on("ListRecipients", recipients_page)
    found = client.campaigns.recipients("c1", status=pb.RECIPIENT_STATUS_FAILED)
    assert [recipient.phone for recipient in found] == ["a", "b", "c"]
    assert all(request.status == pb.RECIPIENT_STATUS_FAILED for request in services.requests("ListRecipients"))


def test_pages_are_read_only_when_needed(services: Any, client: Client) -> None:
    services.on("ListRecipients", recipients_page)
    found = client.campaigns.recipients("c1")
    assert services.calls == []
    assert [next(found).phone, next(found).phone] == ["a", "b"]
    assert len(services.calls) == 1


def test_a_page_that_names_itself_as_next_is_an_error_not_a_loop(services: Any, client: Client) -> None:
    services.on("ListRecipients", pb.ListRecipientsResponse(next_page_token="again"))
    with pytest.raises(Internal, match="next page"):
        list(client.campaigns.recipients("c1"))


async def test_asyncio_lists_go_through_all_pages(services: Any, addresses: dict[str, Any]) -> None:
    services.on("ListRecipients", recipients_page)
    async with AsyncClient(**addresses, tenant_id="acme") as client:
        assert [one.phone async for one in client.campaigns.recipients("c1")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "breaks",
    [
        [],
        [grpc.StatusCode.UNAVAILABLE],
        [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED],
        [None],
        [grpc.StatusCode.DEADLINE_EXCEEDED],
    ],
)
def test_a_watch_goes_on_after_its_connection_broke(services: Any, client: Client, breaks: list[Any]) -> None:
    services.on("WatchCampaign", broken_then_final(breaks))
    states = [status.state for status in client.campaigns.watch("c1", until_delivered=True)]
    assert states == [pb.CAMPAIGN_STATE_SENDING] * len(breaks) + [pb.CAMPAIGN_STATE_SENT]
    requests = services.requests("WatchCampaign")
    assert len(requests) == len(breaks) + 1
    assert all(request.until_delivered for request in requests)


async def test_an_asyncio_watch_goes_on_after_its_connection_broke(services: Any, addresses: dict[str, Any]) -> None:
    services.on("WatchCampaign", broken_then_final([grpc.StatusCode.UNAVAILABLE, None]))
    async with AsyncClient(**addresses, tenant_id="acme") as client:
        states = [status.state async for status in client.campaigns.watch("c1")]
    assert states == [pb.CAMPAIGN_STATE_SENDING] * 2 + [pb.CAMPAIGN_STATE_SENT]


def test_a_watch_of_an_unknown_campaign_fails_at_once(services: Any, client: Client, refuse: Any) -> None:
    services.on("WatchCampaign", refuse(grpc.StatusCode.NOT_FOUND, "CAMPAIGN_NOT_FOUND", "no such campaign"))
    with pytest.raises(NotFound, match="no such campaign"):
        list(client.campaigns.watch("c1"))
    assert len(services.calls) == 1


def test_a_watch_is_given_up_when_nothing_is_heard_for_too_long(services: Any, client: Client, refuse: Any) -> None:
    services.on("WatchCampaign", refuse(grpc.StatusCode.UNAVAILABLE, "", "down"))
    with pytest.raises(Unavailable, match="down"):
        list(client.campaigns.watch("c1", patience=0.3))
    assert len(services.calls) > 1


def test_a_watch_survives_a_restart_of_the_service(serve: Any) -> None:
    services = serve()
    services.on("WatchCampaign", broken_then_final([None]))
    with Client(campaign=services.address, tenant_id="acme") as client:
        watch = client.campaigns.watch("c1")
        assert next(watch).state == pb.CAMPAIGN_STATE_SENDING
        services.stop()
        services.start()
        assert [status.state for status in watch] == [pb.CAMPAIGN_STATE_SENT]


def test_leaving_a_watch_early_ends_the_call(services: Any, client: Client) -> None:
    ended = threading.Event()

    def endless(_request: Any, context: grpc.ServicerContext) -> Iterator[pb.WatchCampaignResponse]:
        context.add_callback(ended.set)
        yield update(pb.CAMPAIGN_STATE_SENDING, 1)
        ended.wait(10)

    services.on("WatchCampaign", endless)
    watch = client.campaigns.watch("c1")
    next(watch)
    watch.close()
    assert ended.wait(5)


async def test_leaving_an_asyncio_watch_early_ends_the_call(services: Any, addresses: dict[str, Any]) -> None:
    ended = threading.Event()

    def endless(_request: Any, context: grpc.ServicerContext) -> Iterator[pb.WatchCampaignResponse]:
        context.add_callback(ended.set)
        yield update(pb.CAMPAIGN_STATE_SENDING, 1)
        ended.wait(10)

    services.on("WatchCampaign", endless)
    async with AsyncClient(**addresses, tenant_id="acme") as client:
        watch = client.campaigns.watch("c1")
        await anext(watch)
        await watch.aclose()
        assert ended.wait(5)


class Hand:
    """A clock moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def reconnection(clock: Hand, patience: float = 60.0) -> Reconnection:
    return Reconnection(patience, monotonic=clock, uniform=lambda _low, high: high)


def test_pauses_double_up_to_five_seconds_and_begin_anew_after_progress() -> None:
    reconnecting = reconnection(Hand())
    pauses = [reconnecting.pause(Unavailable("away")) for _ in range(8)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    reconnecting.progressed()
    assert reconnecting.pause(Unavailable("away")) == 0.1


def test_patience_is_counted_from_the_last_progress() -> None:
    clock = Hand()
    reconnecting = reconnection(clock, patience=10)
    clock.now = 9
    reconnecting.pause(Unavailable("away"))
    reconnecting.progressed()
    clock.now = 18
    reconnecting.pause(Unavailable("away"))
    clock.now = 19
    with pytest.raises(Unavailable, match="away"):
        reconnecting.pause(Unavailable("away"))


def test_a_streams_own_deadline_costs_no_patience() -> None:
    clock = Hand()
    reconnecting = reconnection(clock, patience=10)
    clock.now = 300
    assert reconnecting.pause(DeadlineExceeded("stream's end")) == 0.0
    assert reconnecting.pause(Unavailable("away")) == 0.1


@pytest.fixture
def impatient_services(serve: Any) -> Any:
    """Servers that send a connection away after a tenth of a second, and cut it after another one."""
    return serve(options=(("grpc.max_connection_age_ms", 100), ("grpc.max_connection_age_grace_ms", 100)))


def until_connections(peers: set[str], enough: int) -> Any:
    """A watch that ends by itself only once it was begun over this many connections."""

    def handle(_request: Any, context: grpc.ServicerContext) -> Iterator[pb.WatchCampaignResponse]:
        peers.add(context.peer())
        while context.is_active():
            yield update(pb.CAMPAIGN_STATE_SENDING, len(peers), final=len(peers) == enough)
            time.sleep(0.01)

    return handle


def test_a_watch_survives_connections_that_are_cut_for_their_age(impatient_services: Any) -> None:
    impatient_services.on("WatchCampaign", until_connections(set(), 4))
    with Client(campaign=impatient_services.address, tenant_id="acme") as client:
        seen = [status.counters.sent for status in client.campaigns.watch("c1", patience=20)]
    assert (seen, sorted(set(seen))) == (sorted(seen), [1, 2, 3, 4])


async def test_so_does_a_watch_over_asyncio(impatient_services: Any) -> None:
    impatient_services.on("WatchCampaign", until_connections(set(), 4))
    async with AsyncClient(campaign=impatient_services.address, tenant_id="acme") as client:
        seen = [status.counters.sent async for status in client.campaigns.watch("c1", patience=20)]
    assert (seen, sorted(set(seen))) == (sorted(seen), [1, 2, 3, 4])


def test_calls_survive_connections_that_are_sent_away(impatient_services: Any) -> None:
    peers: set[str] = set()

    def answer(_request: Any, context: grpc.ServicerContext) -> pb.GetCampaignResponse:
        peers.add(context.peer())
        return pb.GetCampaignResponse(campaign=pb.Campaign(campaign_id="c1"))

    impatient_services.on("GetCampaign", answer)
    give_up_at = time.monotonic() + 30
    with Client(campaign=impatient_services.address, tenant_id="acme", timeout=5) as client:
        while len(peers) < 4:
            assert client.campaigns.get("c1").campaign_id == "c1"
            assert time.monotonic() < give_up_at
