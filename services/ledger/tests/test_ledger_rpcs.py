"""The contract, through a real server: what each RPC answers, refuses and replays."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from bulksms_ledger.domain.refusals import RefusalReason
from servicekit.clock import ManualClock
from servicekit.errors import Category

from .ledger_support import ACTIVE, Ids, Tenant, refusal_reason, refused


def figures(balance: pb.Balance) -> tuple[int, int, int, int, int]:
    return balance.available, balance.reserved, balance.captured, balance.granted, balance.version


async def test_a_campaign_is_paid_for_from_grant_to_close(tenant: Tenant) -> None:
    await tenant.open()
    granted = await tenant.grant(100, source_ref="invoice-7")
    assert (granted.entry.kind, granted.entry.units, granted.entry.source_ref) == (1, 100, "invoice-7")
    reserved = await tenant.reserve(80, campaign_id="campaign-1")
    assert figures(reserved.balance) == (20, 80, 0, 100, 2)
    reservation_id = reserved.reservation.reservation_id
    await tenant.capture(reservation_id, 30)
    captured = (await tenant.capture(reservation_id, 20)).reservation
    assert (captured.units, captured.open, captured.captured, captured.released) == (80, 30, 50, 0)
    released = (await tenant.release(reservation_id, 5)).reservation
    assert (released.open, released.released) == (25, 5)
    closed = await tenant.close(reservation_id, 50)
    assert closed.reservation.state == pb.RESERVATION_STATE_CLOSED
    assert (closed.reservation.open, closed.reservation.captured, closed.reservation.released) == (0, 50, 30)
    assert figures(closed.balance) == (50, 0, 50, 100, 6)
    refunded = await tenant.refund(reservation_id, 3)
    assert (refunded.reservation.captured, refunded.reservation.refunded) == (50, 3)
    assert figures(refunded.balance) == (53, 0, 47, 100, 7)
    verified = await tenant.verify()
    assert verified.consistent
    assert list(verified.differences) == []
    assert figures(verified.recomputed) == (53, 0, 47, 100, 7)


async def test_creating_an_account_twice_answers_with_it(tenant: Tenant, ids: Ids) -> None:
    request = pb.CreateAccountRequest(request_id=ids(), tenant_id="acme")
    first = await tenant.stub.CreateAccount(request)
    again = await tenant.stub.CreateAccount(request)
    other = await tenant.stub.CreateAccount(pb.CreateAccountRequest(request_id=ids(), tenant_id="acme"))
    assert [first.replayed, again.replayed, other.replayed] == [False, True, True]
    assert first.account == again.account == other.account
    assert not first.account.HasField("subscription")
    error = await refused(
        tenant.stub.CreateAccount(pb.CreateAccountRequest(request_id=request.request_id, tenant_id="b"))
    )
    assert (error.reason, error.metadata["differs"]) == ("REQUEST_ID_REUSED", "tenant_id")


async def test_a_repeated_request_answers_as_the_first_time_however_much_happened_since(tenant: Tenant) -> None:
    await tenant.open(100)
    request_id, reservation_id = tenant.ids(), tenant.ids()
    first = await tenant.reserve(60, reservation_id=reservation_id, request_id=request_id)
    capture_id = tenant.ids()
    first_capture = await tenant.capture(reservation_id, 10, request_id=capture_id)
    await tenant.close(reservation_id, 10)
    again = await tenant.reserve(60, reservation_id=reservation_id, request_id=request_id)
    again_capture = await tenant.capture(reservation_id, 10, request_id=capture_id)
    assert (again.replayed, again_capture.replayed) == (True, True)
    again.replayed = again_capture.replayed = False
    assert (again, again_capture) == (first, first_capture)
    assert (await tenant.balance()).captured == 10


async def test_a_refusal_is_replayed_and_a_new_request_id_is_a_new_decision(tenant: Tenant) -> None:
    await tenant.open(10)
    request_id, reservation_id = tenant.ids(), tenant.ids()
    error = await refused(tenant.reserve(25, reservation_id=reservation_id, request_id=request_id))
    assert error.category is Category.PAYMENT_REQUIRED
    assert error.reason == "INSUFFICIENT_CREDITS"
    assert (error.metadata["required"], error.metadata["available"]) == ("25", "10")
    assert "grant 15 more" in error.message
    await tenant.grant(100)
    again = await refused(tenant.reserve(25, reservation_id=reservation_id, request_id=request_id))
    assert (again.reason, again.message) == (error.reason, error.message)
    assert (await tenant.reserve(25, reservation_id=reservation_id)).reservation.open == 25


async def test_a_request_id_used_for_something_else_is_refused_with_what_differs(tenant: Tenant) -> None:
    await tenant.open()
    request_id = tenant.ids()
    await tenant.grant(10, request_id=request_id)
    error = await refused(tenant.grant(11, source_ref="other", request_id=request_id))
    assert error.category is Category.ALREADY_EXISTS
    assert (error.reason, error.metadata["differs"]) == ("REQUEST_ID_REUSED", "source_ref,units")
    error = await refused(tenant.reserve(10, request_id=request_id))
    assert error.metadata["differs"] == "operation,reservation_id"
    other = await Tenant(tenant.stub, tenant.ids, "other").open()
    error = await refused(other.grant(10, request_id=request_id))
    assert error.metadata["differs"] == "tenant_id"
    assert (await tenant.balance()).available == 10


async def test_a_subscription_is_needed_to_reserve(tenant: Tenant, clock: ManualClock) -> None:
    await tenant.stub.CreateAccount(pb.CreateAccountRequest(request_id=tenant.ids(), tenant_id=tenant.tenant_id))
    await tenant.grant(100)
    error = await refused(tenant.reserve(1))
    assert error.category is Category.FORBIDDEN
    assert error.reason == "SUBSCRIPTION_INACTIVE"
    assert "has no subscription" in error.message
    until = clock.now() + timedelta(days=30)
    request = pb.SetSubscriptionRequest(request_id=tenant.ids(), tenant_id="acme", status=ACTIVE, reason="paid")
    request.active_until.FromDatetime(until)
    response = await tenant.stub.SetSubscription(request)
    assert response.subscription.active_until.ToDatetime(UTC) == until
    assert (await tenant.reserve(1)).reservation.open == 1
    clock.advance(timedelta(days=30))
    assert "ended at 2026-01-31" in (await refused(tenant.reserve(1))).message
    suspend = pb.SetSubscriptionRequest(
        request_id=tenant.ids(), tenant_id="acme", status=pb.SUBSCRIPTION_STATUS_SUSPENDED, reason="unpaid bill"
    )
    await tenant.stub.SetSubscription(suspend)
    assert "is SUSPENDED" in (await refused(tenant.reserve(1))).message
    account = (await tenant.stub.GetAccount(pb.GetAccountRequest(tenant_id="acme"))).account
    assert (account.subscription.status, account.subscription.reason) == (2, "unpaid bill")


async def test_what_is_captured_while_suspended_is_still_captured(tenant: Tenant) -> None:
    await tenant.open(10)
    reservation_id = (await tenant.reserve(10)).reservation.reservation_id
    await tenant.stub.SetSubscription(
        pb.SetSubscriptionRequest(
            request_id=tenant.ids(), tenant_id="acme", status=pb.SUBSCRIPTION_STATUS_CANCELLED, reason="left"
        )
    )
    assert (await tenant.capture(reservation_id, 10)).reservation.captured == 10


async def test_a_purchase_is_granted_once(tenant: Tenant) -> None:
    await tenant.open()
    await tenant.grant(50, source_ref="invoice-1")
    error = await refused(tenant.grant(50, source_ref="invoice-1"))
    assert (error.category, error.reason) == (Category.ALREADY_EXISTS, "SOURCE_REF_USED")
    other = await Tenant(tenant.stub, tenant.ids, "other").open()
    await other.grant(50, source_ref="invoice-1")
    assert (await tenant.balance()).granted == 50


async def test_reservations_refuse_more_than_is_open_in_them(tenant: Tenant) -> None:
    await tenant.open(100)
    reservation_id = (await tenant.reserve(10)).reservation.reservation_id
    error = await refused(tenant.capture(reservation_id, 11))
    assert (error.reason, error.metadata["open"]) == ("RESERVATION_EXCEEDED", "10")
    assert (await refused(tenant.release(reservation_id, 11))).reason == "RESERVATION_EXCEEDED"
    await tenant.capture(reservation_id, 4)
    error = await refused(tenant.refund(reservation_id, 5))
    assert (error.reason, error.metadata["refundable"]) == ("REFUND_EXCEEDED", "4")
    error = await refused(tenant.close(reservation_id, 5))
    assert error.category is Category.WRONG_STATE
    assert (error.reason, error.metadata["expected"], error.metadata["captured"]) == ("CAPTURED_MISMATCH", "5", "4")
    await tenant.close(reservation_id, 4)
    for call in (tenant.capture(reservation_id, 1), tenant.release(reservation_id, 1), tenant.close(reservation_id, 4)):
        assert (await refused(call)).reason == "RESERVATION_STATE"
    assert (await refused(tenant.reserve(1, reservation_id=reservation_id))).reason == "RESERVATION_EXISTS"
    error = await refused(tenant.capture(tenant.ids(), 1))
    assert (error.category, error.reason) == (Category.NOT_FOUND, "RESERVATION_NOT_FOUND")
    other = await Tenant(tenant.stub, tenant.ids, "other").open()
    assert (await refused(other.capture(reservation_id, 1))).reason == "RESERVATION_NOT_FOUND"
    assert (await tenant.verify()).consistent


async def test_adjustments_go_both_ways_but_not_below_nothing(tenant: Tenant) -> None:
    await tenant.open(10)

    async def adjust(units: int) -> pb.AdjustCreditsResponse:
        return await tenant.stub.AdjustCredits(
            pb.AdjustCreditsRequest(request_id=tenant.ids(), tenant_id="acme", units=units, reason="counted anew")
        )

    assert figures((await adjust(5)).balance) == (15, 0, 0, 15, 2)
    down = await adjust(-12)
    assert (down.entry.units, down.balance.available) == (-12, 3)
    assert (await refused(adjust(-4))).reason == "INSUFFICIENT_CREDITS"
    assert (await tenant.verify()).consistent


async def test_nothing_is_done_for_a_tenant_without_an_account(tenant: Tenant) -> None:
    request_id = tenant.ids()
    calls: list[Awaitable[object]] = [
        tenant.grant(1, request_id=request_id),
        tenant.reserve(1),
        tenant.balance(),
        tenant.entries(),
        tenant.verify(),
        tenant.stub.GetAccount(pb.GetAccountRequest(tenant_id="acme")),
        tenant.stub.ListReservations(pb.ListReservationsRequest(tenant_id="acme")),
    ]
    for call in calls:
        error = await refused(call)
        assert (error.category, error.reason) == (Category.NOT_FOUND, "ACCOUNT_NOT_FOUND")
        assert "CreateAccount" in error.message
    await tenant.open()
    # Not kept: there was no account to keep it in.
    assert (await tenant.grant(1, request_id=request_id)).balance.available == 1


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (pb.GrantCreditsRequest(), {"request_id", "tenant_id", "units"}),
        (pb.GrantCreditsRequest(units=1_000_000_001), {"request_id", "tenant_id", "units"}),
        (pb.ReserveRequest(tenant_id="UPPER", units=-1), {"request_id", "tenant_id", "reservation_id", "units"}),
        (pb.AdjustCreditsRequest(tenant_id="a" * 65), {"request_id", "tenant_id", "units", "reason"}),
        (pb.SetSubscriptionRequest(status=9), {"request_id", "tenant_id", "status", "reason"}),  # type: ignore[arg-type]
        (pb.RefundRequest(reason="line\nbreak"), {"request_id", "tenant_id", "reservation_id", "units", "reason"}),
        (pb.CloseRequest(expected_captured=-1), {"request_id", "tenant_id", "reservation_id", "expected_captured"}),
        (pb.CloseRequest(), {"request_id", "tenant_id", "reservation_id", "expected_captured"}),
        (
            pb.CaptureRequest(evidence=pb.CaptureEvidence(epoch=-1)),
            {"request_id", "tenant_id", "reservation_id", "units", "evidence.epoch"},
        ),
        (pb.BatchCaptureRequest(), {"captures"}),
        (pb.ListEntriesRequest(page_size=-1, page_token="?"), {"tenant_id", "page_size", "page_token"}),
        (pb.ListReservationsRequest(state=7), {"tenant_id", "state"}),  # type: ignore[arg-type]
        (pb.GetBalanceRequest(as_of=Timestamp(nanos=-1)), {"tenant_id", "as_of"}),
        (pb.ListAccountsRequest(page_token="WyJ4IiwxXQ"), {"page_token"}),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, set) else "",
)
async def test_invalid_arguments_name_every_field_and_its_cure(
    ledger: LedgerServiceStub, request_: object, fields: set[str]
) -> None:
    method = getattr(ledger, type(request_).__name__.removesuffix("Request"))
    error = await refused(method(request_))
    assert (error.category, error.reason) == (Category.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert {violation.field for violation in error.field_violations} == fields
    assert all(
        "must" in violation.description or "required" in violation.description for violation in error.field_violations
    )


def test_the_contract_names_every_reason_the_domain_refuses_for() -> None:
    names = {name.removeprefix("REFUSAL_REASON_") for name in pb.RefusalReason.keys()}  # noqa: SIM118 - an enum of protobuf
    assert names - {"UNSPECIFIED"} == {reason.value for reason in RefusalReason}


async def test_invalid_arguments_are_not_kept(tenant: Tenant) -> None:
    await tenant.open()
    request_id = tenant.ids()
    assert (await refused(tenant.grant(0, request_id=request_id))).reason == "INVALID_ARGUMENT"
    assert (await tenant.grant(5, request_id=request_id)).balance.available == 5


async def test_a_batch_of_captures_has_a_result_each(tenant: Tenant) -> None:
    await tenant.open(100)
    other = await Tenant(tenant.stub, tenant.ids, "other").open(100)
    mine = (await tenant.reserve(50)).reservation.reservation_id
    theirs = (await other.reserve(50)).reservation.reservation_id
    repeated = tenant.capture_request(mine, 10)
    request = pb.BatchCaptureRequest(
        captures=[
            repeated,
            other.capture_request(theirs, 20),
            tenant.capture_request(mine, 41),
            repeated,
            pb.CaptureRequest(request_id="nonsense"),
            Tenant(tenant.stub, tenant.ids, "nobody").capture_request(mine, 1),
            tenant.capture_request(mine, 40),
        ]
    )
    response = await tenant.stub.BatchCapture(request)
    assert [result.request_id for result in response.results] == [capture.request_id for capture in request.captures]
    assert [(refusal_reason(result), result.replayed) for result in response.results] == [
        ("", False),
        ("", False),
        ("RESERVATION_EXCEEDED", False),
        ("", True),
        ("INVALID_ARGUMENT", False),
        ("ACCOUNT_NOT_FOUND", False),
        ("", False),
    ]
    assert "units must be" in response.results[4].refusal.message
    assert ((await tenant.balance()).captured, (await other.balance()).captured) == (50, 20)
    again = await tenant.stub.BatchCapture(request)
    assert [result.replayed for result in again.results] == [True, True, True, True, False, False, True]
    assert ((await tenant.balance()).captured, (await other.balance()).captured) == (50, 20)


async def test_balances_are_known_as_of_any_instant(tenant: Tenant, clock: ManualClock) -> None:
    before = clock.now()
    clock.advance(timedelta(hours=1))
    await tenant.open()
    instants: list[tuple[datetime, int]] = []
    for units in range(1, 12):
        clock.advance(timedelta(seconds=1))
        await tenant.grant(units)
        instants.append((clock.now(), sum(range(units + 1))))

    async def available(at: datetime) -> tuple[int, int]:
        request = pb.GetBalanceRequest(tenant_id="acme")
        request.as_of.FromDatetime(at)
        balance = (await tenant.stub.GetBalance(request)).balance
        assert balance.as_of.ToDatetime(UTC) == at
        return balance.available, balance.version

    assert await available(before) == (0, 0)
    for version, (at, expected) in enumerate(instants, start=1):
        assert await available(at) == (expected, version)
        assert await available(at + timedelta(milliseconds=999)) == (expected, version)
        assert await available(at - timedelta(microseconds=1)) == (expected - version, version - 1)
    assert await available(clock.now() + timedelta(days=365)) == (66, 11)


async def test_entries_are_paged_in_version_order_and_stable_under_writes(tenant: Tenant) -> None:
    await tenant.open(1000)
    first = (await tenant.reserve(100, campaign_id="campaign-1")).reservation.reservation_id
    second = (await tenant.reserve(100, campaign_id="campaign-2")).reservation.reservation_id
    for _ in range(3):
        await tenant.capture(first, 1)
        await tenant.capture(second, 1)

    async def page(token: str, **filters: str) -> pb.ListEntriesResponse:
        request = pb.ListEntriesRequest(tenant_id="acme", page_size=2, page_token=token, **filters)
        return await tenant.stub.ListEntries(request)

    versions: list[int] = []
    token = ""
    while True:
        answer = await page(token, campaign_id="campaign-1")
        versions += [entry.version for entry in answer.entries]
        token = answer.next_page_token
        if not token:
            break
        await tenant.capture(second, 1)
    assert versions == [2, 4, 6, 8]
    of_second = await tenant.stub.ListEntries(pb.ListEntriesRequest(tenant_id="acme", reservation_id=second))
    assert [entry.version for entry in of_second.entries] == [3, 5, 7, 9, 10]
    assert [entry.version for entry in await tenant.entries()] == list(range(1, 11))
    token = (await page("")).next_page_token
    error = await refused(page(token, campaign_id="campaign-1"))
    assert error.field_violations[0].field == "page_token"


async def test_reservations_and_accounts_are_paged(tenant: Tenant) -> None:
    await tenant.open(100)
    made = [(await tenant.reserve(1)).reservation.reservation_id for _ in range(5)]
    await tenant.close(made[3], 0)

    async def listed(**filters: object) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            request = pb.ListReservationsRequest(tenant_id="acme", page_size=2, page_token=token, **filters)  # type: ignore[arg-type]
            answer = await tenant.stub.ListReservations(request)
            found += [reservation.reservation_id for reservation in answer.reservations]
            token = answer.next_page_token
            if not token:
                return found

    assert await listed() == made[::-1]
    assert await listed(state=pb.RESERVATION_STATE_OPEN) == [made[4], made[2], made[1], made[0]]
    assert await listed(state=pb.RESERVATION_STATE_CLOSED) == [made[3]]
    one = await tenant.stub.GetReservation(pb.GetReservationRequest(tenant_id="acme", reservation_id=made[3]))
    assert one.reservation.HasField("closed_at")
    for name in ("b", "a-1", "a_1", "0"):
        await Tenant(tenant.stub, tenant.ids, name).open()
    first = await tenant.stub.ListAccounts(pb.ListAccountsRequest(page_size=3))
    rest = await tenant.stub.ListAccounts(pb.ListAccountsRequest(page_size=3, page_token=first.next_page_token))
    assert [account.tenant_id for account in [*first.accounts, *rest.accounts]] == ["0", "a-1", "a_1", "acme", "b"]
    assert rest.next_page_token == ""


async def test_time_never_runs_backwards_within_an_account(tenant: Tenant, ledger_url: str, clock: ManualClock) -> None:
    from .ledger_support import serving

    await tenant.open(10)
    late = clock.now()
    async with serving(ledger_url, ManualClock(late - timedelta(hours=1))) as behind:
        entry = (await Tenant(behind, tenant.ids, "acme").grant(1)).entry
    assert entry.created_at.ToDatetime(UTC) == late
