"""Authorizations: an attempt may send when the ledger says so, nobody is authorized twice, and what is void is free."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from servicekit.clock import ManualClock

from .attempts_support import CAMPAIGN, DIGEST, Sender, plain, ranges, reason, sender_of
from .ledger_support import Ids, Tenant, refused


@pytest.fixture
async def sender(tenant: Tenant) -> Sender:
    """Ten credits are reserved."""
    return await sender_of(await tenant.open(100), 10)


async def test_what_is_authorized_is_neither_open_nor_written_down_as_an_entry(sender: Sender, ids: Ids) -> None:
    before = await sender.tenant.entries()
    assert await sender.authorize(ids(), [(0, 3)]) == ""
    assert await sender.figures() == (6, 4, 0, 0)
    assert await sender.tenant.entries() == before
    assert (await sender.tenant.balance()).reserved == 10
    assert (await sender.tenant.verify()).consistent


async def test_an_attempt_goes_from_authorized_to_captured(sender: Sender, ids: Ids) -> None:
    attempt = ids()
    await sender.authorize(attempt, [(0, 3)])
    assert await sender.capture(attempt, 4) == ""
    assert await sender.figures() == (6, 0, 4, 0)
    assert [entry.kind for entry in await sender.tenant.entries()][-1] == pb.ENTRY_KIND_CAPTURE
    assert await sender.withdraw(attempt) == "authorized"
    assert await sender.void(attempt) == "ATTEMPT_CAPTURED"
    assert await sender.capture(attempt, 1) == "RESERVATION_EXCEEDED"
    assert (await sender.tenant.verify()).consistent


async def test_positions_are_authorized_once_and_a_refusal_says_what_became_of_them(sender: Sender, ids: Ids) -> None:
    accepted, waiting = ids(), ids()
    await sender.authorize(accepted, [(0, 1)])
    await sender.capture(accepted, 2)
    await sender.authorize(waiting, [(4, 5)])
    result = await sender.authorized(ids(), [(1, 2), (4, 4), (7, 7)])
    assert reason(result) == "POSITIONS_TAKEN"
    assert (plain(result.refusal.captured), plain(result.refusal.unresolved)) == ([(1, 1)], [(4, 4)])
    assert await sender.figures() == (6, 2, 2, 0)
    assert await sender.authorize(ids(), [(2, 3), (6, 7)]) == ""


async def test_what_is_void_may_be_authorized_again_by_another_attempt_only(sender: Sender, ids: Ids) -> None:
    attempt, another = ids(), ids()
    await sender.authorize(attempt, [(0, 9)])
    assert await sender.void(attempt) == ""
    assert await sender.void(attempt) == ""
    assert await sender.figures() == (10, 0, 0, 0)
    assert await sender.authorize(attempt, [(0, 9)]) == "ATTEMPT_ENDED"
    assert await sender.capture(attempt, 10) == "ATTEMPT_ENDED"
    assert await sender.withdraw(attempt) == "withdrawn"
    assert await sender.authorize(another, [(0, 9)]) == ""
    assert await sender.figures() == (0, 10, 0, 0)


@pytest.mark.parametrize("how", ["withdraw", "void"])
async def test_an_attempt_given_up_before_it_is_seen_is_refused_for_ever(sender: Sender, ids: Ids, how: str) -> None:
    attempt = ids()
    assert await getattr(sender, how)(attempt) == ("withdrawn" if how == "withdraw" else "")
    assert await sender.authorize(attempt, [(0, 0)]) == "ATTEMPT_ENDED"
    assert await sender.withdraw(attempt) == "withdrawn"
    assert await sender.void(attempt) == ""
    assert await sender.figures() == (10, 0, 0, 0)


async def test_an_attempt_that_is_authorized_cannot_be_withdrawn(sender: Sender, ids: Ids) -> None:
    attempt = ids()
    await sender.authorize(attempt, [(0, 2)])
    assert [await sender.withdraw(attempt) for _ in range(2)] == ["authorized"] * 2
    assert await sender.figures() == (7, 3, 0, 0)


async def test_a_repeat_is_answered_as_the_first_time_while_nothing_has_become_of_it(sender: Sender, ids: Ids) -> None:
    attempt = ids()
    assert [await sender.authorize(attempt, [(0, 2)]) for _ in range(2)] == ["", ""]
    assert await sender.figures() == (7, 3, 0, 0)
    assert await sender.authorize(attempt, [(0, 3)]) == "REQUEST_ID_REUSED"
    assert await sender.authorize(attempt, [(0, 2)], 2) == "REQUEST_ID_REUSED"
    assert await sender.authorize(attempt, [(0, 2)], snapshot_digest=b"other") == "REQUEST_ID_REUSED"
    await sender.capture(attempt, 3)
    assert await sender.authorize(attempt, [(0, 2)]) == "ATTEMPT_ENDED"


async def test_positions_of_another_snapshot_are_other_people(sender: Sender, ids: Ids) -> None:
    attempt = ids()
    await sender.authorize(attempt, [(0, 2)])
    assert await sender.authorize(ids(), [(5, 5)], snapshot_digest=b"other") == "SNAPSHOT_MISMATCH"
    await sender.void(attempt)
    assert await sender.authorize(ids(), [(5, 5)], snapshot_digest=b"other") == "SNAPSHOT_MISMATCH"
    assert await sender.authorize(ids(), [(5, 5)], snapshot_digest=DIGEST) == ""


@pytest.mark.parametrize("other", [{"campaign_id": "campaign-2"}, {"enqueue_number": 2}, {"reservation_id": ""}])
async def test_only_the_reservations_own_campaign_and_enqueue_may_send(
    sender: Sender, ids: Ids, other: dict[str, object]
) -> None:
    made_up = {name: value or ids() for name, value in other.items()}
    assert await sender.authorize(ids(), [(0, 0)], **made_up) == "RESERVATION_NOT_FOUND"
    assert await sender.figures() == (10, 0, 0, 0)


async def test_another_tenant_cannot_send_with_a_reservation_that_is_not_its_own(sender: Sender, ids: Ids) -> None:
    await Tenant(sender.stub, ids, "other").open(5)
    assert await sender.authorize(ids(), [(0, 0)], tenant_id="other") == "RESERVATION_NOT_FOUND"
    assert await sender.authorize(ids(), [(0, 0)], tenant_id="nobody") == "ACCOUNT_NOT_FOUND"


async def test_two_tenants_with_the_same_ids_do_not_meet(sender: Sender, ids: Ids) -> None:
    other = await Tenant(sender.stub, ids, "other").open(10)
    await other.reserve(10, reservation_id=sender.reservation_id, campaign_id=CAMPAIGN, enqueue_number=1)
    theirs, attempt = Sender(other, sender.reservation_id), ids()
    assert [await one.authorize(attempt, [(0, 9)]) for one in (sender, theirs)] == ["", ""]
    assert await sender.void(attempt) == ""
    assert await theirs.figures() == (0, 10, 0, 0)


async def test_no_more_is_authorized_than_is_open(sender: Sender, ids: Ids) -> None:
    assert await sender.authorize(ids(), [(0, 10)]) == "RESERVATION_EXCEEDED"
    assert await sender.authorize(ids(), [(0, 9)]) == ""
    assert await sender.authorize(ids(), [(20, 20)]) == "RESERVATION_EXCEEDED"


async def test_nothing_is_authorized_without_an_active_subscription(sender: Sender, ids: Ids) -> None:
    suspend = pb.SetSubscriptionRequest(
        request_id=ids(), tenant_id="acme", status=pb.SUBSCRIPTION_STATUS_SUSPENDED, reason="unpaid"
    )
    await sender.stub.SetSubscription(suspend)
    assert await sender.authorize(ids(), [(0, 0)]) == "SUBSCRIPTION_INACTIVE"


async def test_a_subscription_that_has_ended_authorizes_nothing(sender: Sender, clock: ManualClock, ids: Ids) -> None:
    ending = pb.SetSubscriptionRequest(
        request_id=ids(), tenant_id="acme", status=pb.SUBSCRIPTION_STATUS_ACTIVE, reason="until then"
    )
    ending.active_until.FromDatetime(clock.now() + timedelta(hours=1))
    await sender.stub.SetSubscription(ending)
    assert await sender.authorize(ids(), [(0, 0)]) == ""
    clock.advance(timedelta(hours=1))
    assert await sender.authorize(ids(), [(1, 1)]) == "SUBSCRIPTION_INACTIVE"


async def test_a_close_leaves_what_is_authorized_and_authorizes_nothing_more(sender: Sender, ids: Ids) -> None:
    captured, void, given_up, unknown = (ids() for _ in range(4))
    for number, attempt in enumerate((captured, void, given_up, unknown)):
        await sender.authorize(attempt, [(number * 2, number * 2 + 1)])
    closed = (await sender.tenant.close(sender.reservation_id, 0)).reservation
    assert (closed.state, closed.open, closed.authorized, closed.released) == (pb.RESERVATION_STATE_CLOSED, 0, 8, 2)
    assert await sender.authorize(ids(), [(9, 9)]) == "RESERVATION_STATE"
    result = await sender.authorized(ids(), [(0, 0)])
    assert (reason(result), plain(result.refusal.unresolved)) == ("POSITIONS_TAKEN", [(0, 0)])
    assert await sender.capture(captured, 2) == ""
    assert await sender.void(void) == ""
    assert await sender.release(given_up, 2) == ""
    assert await sender.figures() == (0, 2, 2, 6)
    balance = await sender.tenant.balance()
    assert (balance.available, balance.reserved, balance.captured) == (96, 2, 2)
    kinds = [entry.kind for entry in await sender.tenant.entries()][-4:]
    assert kinds == [pb.ENTRY_KIND_CLOSE, pb.ENTRY_KIND_CAPTURE, pb.ENTRY_KIND_RELEASE, pb.ENTRY_KIND_RELEASE]
    assert await sender.void(void) == ""
    assert await sender.figures() == (0, 2, 2, 6)
    assert list((await sender.tenant.verify()).differences) == []


async def test_a_capture_of_a_closed_reservation_is_replayed_as_it_was(sender: Sender, ids: Ids) -> None:
    attempt, another = ids(), ids()
    await sender.authorize(attempt, [(0, 3)])
    await sender.authorize(another, [(4, 5)])
    early = sender.capturing(attempt, 1, [(0, 0)])
    late = sender.capturing(attempt, 2, [(1, 2)])
    first = await sender.stub.Capture(early)
    await sender.tenant.close(sender.reservation_id, 1)
    second = await sender.stub.Capture(late)
    await sender.void(another)
    assert (first.reservation.state, second.reservation.state) == (
        pb.RESERVATION_STATE_OPEN,
        pb.RESERVATION_STATE_CLOSED,
    )
    for request, answer in ((early, first), (late, second)):
        repeated = await sender.stub.Capture(request)
        assert (repeated.replayed, repeated.reservation) == (True, answer.reservation)
    late.positions[0].last = 3
    assert "positions" in (await sender.refusal_of(late)).metadata["differs"]


async def test_some_of_an_attempt_is_accepted_and_some_is_refused_in_any_order(sender: Sender, ids: Ids) -> None:
    attempt, another = ids(), ids()
    await sender.authorize(attempt, [(0, 4)])
    await sender.authorize(another, [(5, 9)])
    assert await sender.capture(attempt, 3, [(0, 1), (4, 4)]) == ""
    assert await sender.void(attempt, [(2, 3)], 2) == ""
    assert await sender.void(another, [(5, 6)], 2) == ""
    assert await sender.capture(another, 3) == ""
    assert await sender.figures() == (4, 0, 6, 0)
    assert await sender.void(attempt, [(2, 3)], 2) == ""
    assert await sender.figures() == (4, 0, 6, 0)
    assert await sender.void(attempt, [(1, 2)], 2) == "ATTEMPT_CAPTURED"
    assert await sender.void(attempt) == "ATTEMPT_CAPTURED"
    assert await sender.capture(attempt, 1, [(2, 2)]) == "ATTEMPT_ENDED"
    assert await sender.authorize(ids(), [(2, 3), (5, 6)]) == ""
    assert (await sender.tenant.verify()).consistent


async def test_credits_are_not_left_authorized_for_nobody(sender: Sender, ids: Ids) -> None:
    attempt = ids()
    await sender.authorize(attempt, [(0, 3)])
    assert await sender.capture(attempt, 3) == "INVALID_ARGUMENT"
    assert await sender.void(attempt, [(0, 3)], 3) == "INVALID_ARGUMENT"
    assert await sender.capture(attempt, 5) == "RESERVATION_EXCEEDED"
    assert await sender.void(attempt, [(0, 0)], 5) == "RESERVATION_EXCEEDED"
    await sender.void(attempt, [(0, 0)], 1)
    assert await sender.void(attempt, [(0, 1)], 2) == "INVALID_ARGUMENT"
    assert await sender.figures() == (7, 3, 0, 0)


async def test_a_released_attempt_keeps_its_positions_for_ever(sender: Sender, ids: Ids) -> None:
    attempt = ids()
    await sender.authorize(attempt, [(0, 3)])
    assert await sender.release(attempt, 5) == "RESERVATION_EXCEEDED"
    assert await sender.release(attempt, 4) == ""
    assert await sender.figures() == (6, 0, 0, 4)
    assert (await sender.tenant.balance()).available == 94
    result = await sender.authorized(ids(), [(0, 5)])
    assert plain(result.refusal.unresolved) == [(0, 3)]
    assert await sender.withdraw(attempt) == "authorized"
    assert await sender.capture(attempt, 4) == "RESERVATION_EXCEEDED"
    # Proof that nothing left frees them even then.
    assert await sender.void(attempt, [(0, 0)], 1) == ""
    assert await sender.authorize(ids(), [(0, 0)]) == ""


async def test_what_names_an_attempt_nobody_authorized_is_refused_and_may_be_asked_again(
    sender: Sender, ids: Ids
) -> None:
    attempt = ids()
    request = sender.capturing(attempt, 2)
    assert (await sender.refusal_of(request)).reason == "ATTEMPT_NOT_FOUND"
    assert await sender.release(attempt, 1) == "ATTEMPT_NOT_FOUND"
    await sender.authorize(attempt, [(0, 1)])
    assert (await sender.stub.Capture(request)).reservation.captured == 2


async def test_credits_of_a_lot_that_has_ended_are_written_off_when_a_void_gives_them_back(
    tenant: Tenant, clock: ManualClock, ids: Ids
) -> None:
    await tenant.open()
    grant = pb.GrantCreditsRequest(request_id=ids(), tenant_id="acme", units=10)
    grant.expires_at.FromDatetime(clock.now() + timedelta(hours=1))
    await tenant.stub.GrantCredits(grant)
    sender = await sender_of(tenant, 10)
    sent, unsent = ids(), ids()
    await sender.authorize(sent, [(0, 3)])
    await sender.authorize(unsent, [(4, 9)])
    clock.advance(timedelta(hours=2))
    assert (await tenant.balance()).reserved == 10
    await sender.tenant.close(sender.reservation_id, 0)
    assert await sender.void(unsent) == ""
    assert await sender.capture(sent, 4) == ""
    balance = await tenant.balance()
    assert (balance.available, balance.reserved, balance.captured, balance.granted) == (0, 0, 4, 4)
    assert [entry.kind for entry in await tenant.entries()][-3:] == [
        pb.ENTRY_KIND_RELEASE,
        pb.ENTRY_KIND_EXPIRE,
        pb.ENTRY_KIND_CAPTURE,
    ]
    assert (await tenant.verify()).consistent


WRONG = [
    ({"tenant_id": ""}, "tenant_id"),
    ({"reservation_id": "x"}, "reservation_id"),
    ({"attempt_id": "x"}, "attempt_id"),
    ({"snapshot_digest": b""}, "snapshot_digest"),
    ({"snapshot_digest": bytes(65)}, "snapshot_digest"),
    ({"units": 0}, "units"),
    ({"enqueue_number": -1}, "enqueue_number"),
    ({"positions": []}, "positions"),
    ({"positions": ranges([(3, 2)])}, "positions"),
    ({"positions": ranges([(-1, 2)])}, "positions"),
    ({"positions": ranges([(0, 2), (3, 4)])}, "positions"),
    ({"positions": ranges([(5, 6), (0, 2)])}, "positions"),
    ({"positions": ranges([(0, 2**27)])}, "positions"),
    ({"positions": ranges([(number * 2, number * 2) for number in range(10_001)])}, "positions"),
]


async def test_wrong_attempts_of_a_batch_do_not_fail_their_neighbours(sender: Sender, ids: Ids) -> None:
    asked = [sender.asks(ids(), [(number, number)]) for number in range(len(WRONG) + 2)]
    for one, (wrong, _) in zip(asked[1:], WRONG, strict=False):
        for name, value in wrong.items():
            one.ClearField(name)  # type: ignore[arg-type]
            one.MergeFrom(pb.Authorization(**{name: value}))  # type: ignore[arg-type]
    first, *results, last = (await sender.stub.BatchAuthorize(pb.BatchAuthorizeRequest(authorizations=asked))).results
    assert (first.WhichOneof("outcome"), last.WhichOneof("outcome")) == ("authorized", "authorized")
    assert [result.attempt_id for result in results] == [one.attempt_id for one in asked[1:-1]]
    for result, (wrong, field) in zip(results, WRONG, strict=True):
        assert reason(result) == "INVALID_ARGUMENT", wrong
        assert field in result.refusal.message, wrong
    assert await sender.figures() == (8, 2, 0, 0)


async def test_voids_and_withdrawals_of_a_batch_are_decided_each_for_itself(sender: Sender, ids: Ids) -> None:
    attempts = [ids() for _ in range(3)]
    for number, attempt in enumerate(attempts):
        await sender.authorize(attempt, [(number, number)])
    voids = [pb.Void(attempt_id=attempt, **sender.names) for attempt in attempts]
    voids[1].units = 1  # though it names no positions
    voids.append(pb.Void(attempt_id=ids(), tenant_id="acme", reservation_id=ids()))
    answered = (await sender.stub.BatchVoid(pb.BatchVoidRequest(voids=voids))).results
    assert [reason(one) for one in answered] == ["", "INVALID_ARGUMENT", "", "RESERVATION_NOT_FOUND"]
    named = [pb.AttemptRef(attempt_id=attempt, **sender.names) for attempt in [*attempts, "x"]]
    named.append(pb.AttemptRef(attempt_id=ids(), tenant_id="nobody", reservation_id=ids()))
    results = (await sender.stub.BatchWithdraw(pb.BatchWithdrawRequest(attempts=named))).results
    assert [result.WhichOneof("outcome") for result in results[:3]] == ["withdrawn", "authorized", "withdrawn"]
    assert [reason(result) for result in results[3:]] == ["INVALID_ARGUMENT", "ACCOUNT_NOT_FOUND"]


async def test_a_batch_may_be_about_many_accounts(ledger: LedgerServiceStub, ids: Ids) -> None:
    tenants = [await Tenant(ledger, ids, f"tenant-{number}").open(10) for number in range(5)]
    senders = [await sender_of(tenant, 3) for tenant in tenants]
    asked = [sender.asks(ids(), [(number, number)]) for number in range(4) for sender in senders]
    results = (await ledger.BatchAuthorize(pb.BatchAuthorizeRequest(authorizations=asked))).results
    assert [result.attempt_id for result in results] == [one.attempt_id for one in asked]
    assert [reason(result) for result in results] == [""] * 15 + ["RESERVATION_EXCEEDED"] * 5
    assert [await sender.figures() for sender in senders] == [(0, 3, 0, 0)] * 5


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_batch_has_one_to_a_thousand(sender: Sender, ids: Ids, count: int) -> None:
    for call in (
        sender.stub.BatchAuthorize(pb.BatchAuthorizeRequest(authorizations=[sender.asks(ids(), [(0, 0)])] * count)),
        sender.stub.BatchVoid(pb.BatchVoidRequest(voids=[pb.Void()] * count)),
        sender.stub.BatchWithdraw(pb.BatchWithdrawRequest(attempts=[pb.AttemptRef()] * count)),
    ):
        assert (await refused(call)).reason == "INVALID_ARGUMENT"


async def test_a_thousand_attempts_in_one_batch_find_each_other(sender: Sender, ids: Ids) -> None:
    sender = await sender_of(sender.tenant, 90)
    asked = [sender.asks(ids(), [(number % 60, number % 60)]) for number in range(1000)]
    results = (await sender.stub.BatchAuthorize(pb.BatchAuthorizeRequest(authorizations=asked))).results
    assert [reason(result) for result in results] == [""] * 60 + ["POSITIONS_TAKEN"] * 940
    assert await sender.figures() == (30, 60, 0, 0)
