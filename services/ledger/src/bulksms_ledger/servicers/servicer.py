"""The service's RPCs: messages in, the ledger's decisions and readings out."""
# ruff: noqa: ARG002 - parameters are those of the generated base class

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms.ledger.v1 import ledger_pb2_grpc
from bulksms_ledger.domain import refusals
from bulksms_ledger.domain.accounts import Account
from bulksms_ledger.domain.operations import AnyOperation, Decision, OperationResult, Request
from bulksms_ledger.domain.refusals import DomainRefusal
from bulksms_ledger.domain.reservations import ReservationState
from bulksms_ledger.engine.account_writer import AccountWriter
from bulksms_ledger.engine.group_commit import GroupCommit
from bulksms_ledger.servicers import requests, responses
from bulksms_ledger.storage.reading import Reader
from bulksms_ledger.use_cases.account_verification import verify_account
from bulksms_ledger.use_cases.batches import decide_all
from servicekit.arguments import ArgumentCheck
from servicekit.clock import Clock
from servicekit.database import Database
from servicekit.errors import DomainError
from servicekit.paging import Listing, position, word

# grpc calls every method with the message and its context; errors are raised, so no method needs the context.
Context = Any
T = TypeVar("T")
M = TypeVar("M")  # a message of a batch
Q = TypeVar("Q", bound=Request)  # what it asks for
R = TypeVar("R")  # its result


class LedgerServicer(ledger_pb2_grpc.LedgerServiceServicer):
    """LedgerService; the contract of each RPC is its comment in the proto."""

    def __init__(
        self, database: Database, clock: Clock, account_writer: AccountWriter, group_commit: GroupCommit
    ) -> None:
        self._database = database
        self._clock = clock
        self._account_writer = account_writer
        self._group_commit = group_commit
        self._reader = Reader(database)

    async def CreateAccount(self, request: pb.CreateAccountRequest, context: Context) -> pb.CreateAccountResponse:
        operation = requests.create_account(request)
        _, replayed = _result(await self._account_writer.create_account(operation))
        account = responses.account(await self._account(operation.tenant_id), self._clock.now())
        return pb.CreateAccountResponse(account=account, replayed=replayed)

    async def GetAccount(self, request: pb.GetAccountRequest, context: Context) -> pb.GetAccountResponse:
        account = await self._account(requests.tenant(request.tenant_id))
        return pb.GetAccountResponse(account=responses.account(account, self._clock.now()))

    async def ListAccounts(self, request: pb.ListAccountsRequest, context: Context) -> pb.ListAccountsResponse:
        check = ArgumentCheck()
        size = check.page_size(request.page_size)
        listing = Listing("accounts")
        after = check.passed(listing.after(check, request.page_token, word))
        found = await self._reader.accounts(after=after, limit=size + 1)
        now = self._clock.now()
        return pb.ListAccountsResponse(
            accounts=[responses.account(account, now) for account in found[:size]],
            next_page_token=listing.next_token(found, size, lambda account: account.tenant_id),
        )

    async def SetSubscription(self, request: pb.SetSubscriptionRequest, context: Context) -> pb.SetSubscriptionResponse:
        result, replayed = await self._decide(requests.set_subscription(request))
        return pb.SetSubscriptionResponse(
            subscription=responses.subscription(_present(result.subscription)), replayed=replayed
        )

    async def GrantCredits(self, request: pb.GrantCreditsRequest, context: Context) -> pb.GrantCreditsResponse:
        result, replayed = await self._decide(requests.grant_credits(request))
        return pb.GrantCreditsResponse(
            entry=responses.entry(_present(result.entry)),
            balance=responses.balance(_present(result.balance)),
            replayed=replayed,
        )

    async def AdjustCredits(self, request: pb.AdjustCreditsRequest, context: Context) -> pb.AdjustCreditsResponse:
        result, replayed = await self._decide(requests.adjust_credits(request))
        return pb.AdjustCreditsResponse(
            entry=responses.entry(_present(result.entry)),
            balance=responses.balance(_present(result.balance)),
            replayed=replayed,
        )

    async def Reserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveResponse:
        result, replayed = await self._decide(requests.reserve(request))
        return pb.ReserveResponse(
            reservation=responses.reservation(_present(result.reservation)),
            balance=responses.balance(_present(result.balance)),
            replayed=replayed,
        )

    async def Capture(self, request: pb.CaptureRequest, context: Context) -> pb.CaptureResponse:
        result, replayed = await self._decide(requests.capture(request))
        return pb.CaptureResponse(reservation=responses.reservation(_present(result.reservation)), replayed=replayed)

    async def BatchCapture(self, request: pb.BatchCaptureRequest, context: Context) -> pb.BatchCaptureResponse:
        results = await self._decide_batch(
            "captures", request.captures, requests.capture, responses.capture_result, responses.invalid_capture
        )
        return pb.BatchCaptureResponse(results=results)

    async def BatchAuthorize(self, request: pb.BatchAuthorizeRequest, context: Context) -> pb.BatchAuthorizeResponse:
        def invalid(asked: pb.Authorization, error: DomainError) -> pb.AuthorizationResult:
            return pb.AuthorizationResult(attempt_id=asked.attempt_id, refusal=responses.invalid_attempt(error))

        results = await self._decide_batch(
            "authorizations", request.authorizations, requests.authorize, responses.authorization_result, invalid
        )
        return pb.BatchAuthorizeResponse(results=results)

    async def BatchWithdraw(self, request: pb.BatchWithdrawRequest, context: Context) -> pb.BatchWithdrawResponse:
        def invalid(asked: pb.AttemptRef, error: DomainError) -> pb.WithdrawResult:
            return pb.WithdrawResult(attempt_id=asked.attempt_id, refusal=responses.invalid_attempt(error))

        results = await self._decide_batch(
            "attempts", request.attempts, requests.withdraw, responses.withdraw_result, invalid
        )
        return pb.BatchWithdrawResponse(results=results)

    async def BatchVoid(self, request: pb.BatchVoidRequest, context: Context) -> pb.BatchVoidResponse:
        def invalid(asked: pb.Void, error: DomainError) -> pb.VoidResult:
            return pb.VoidResult(attempt_id=asked.attempt_id, refusal=responses.invalid_attempt(error))

        results = await self._decide_batch("voids", request.voids, requests.void, responses.void_result, invalid)
        return pb.BatchVoidResponse(results=results)

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseResponse:
        result, replayed = await self._decide(requests.release(request))
        return pb.ReleaseResponse(reservation=responses.reservation(_present(result.reservation)), replayed=replayed)

    async def Close(self, request: pb.CloseRequest, context: Context) -> pb.CloseResponse:
        result, replayed = await self._decide(requests.close(request))
        return pb.CloseResponse(
            reservation=responses.reservation(_present(result.reservation)),
            balance=responses.balance(_present(result.balance)),
            replayed=replayed,
        )

    async def Refund(self, request: pb.RefundRequest, context: Context) -> pb.RefundResponse:
        result, replayed = await self._decide(requests.refund(request))
        return pb.RefundResponse(
            reservation=responses.reservation(_present(result.reservation)),
            balance=responses.balance(_present(result.balance)),
            replayed=replayed,
        )

    async def GetBalance(self, request: pb.GetBalanceRequest, context: Context) -> pb.GetBalanceResponse:
        check = ArgumentCheck()
        tenant_id = check.tenant_id(request.tenant_id)
        as_of = check.passed(check.instant("as_of", request.as_of) if request.HasField("as_of") else None)
        if as_of is None:
            return pb.GetBalanceResponse(
                balance=responses.balance((await self._account(tenant_id)).balance(self._clock.now()))
            )
        balance = await self._reader.balance(tenant_id, as_of)
        if balance is None:
            raise responses.error(refusals.account_not_found(tenant_id))
        return pb.GetBalanceResponse(balance=responses.balance(balance))

    async def GetReservation(self, request: pb.GetReservationRequest, context: Context) -> pb.GetReservationResponse:
        check = ArgumentCheck()
        tenant_id = check.tenant_id(request.tenant_id)
        reservation_id = check.passed(check.uuid("reservation_id", request.reservation_id))
        reservation = await self._reader.reservation(tenant_id, reservation_id)
        if reservation is None:
            raise responses.error(refusals.reservation_not_found(tenant_id, reservation_id))
        return pb.GetReservationResponse(reservation=responses.reservation(reservation))

    async def ListReservations(
        self, request: pb.ListReservationsRequest, context: Context
    ) -> pb.ListReservationsResponse:
        check = ArgumentCheck()
        tenant_id = check.tenant_id(request.tenant_id)
        size = check.page_size(request.page_size)
        state = check.enum("state", ReservationState, request.state)
        listing = Listing("reservations", tenant_id, request.state)
        before = check.passed(listing.after(check, request.page_token, position))
        await self._account(tenant_id)
        found = await self._reader.reservations(tenant_id, state=state, before=before, limit=size + 1)
        return pb.ListReservationsResponse(
            reservations=[responses.reservation(reservation) for reservation in found[:size]],
            next_page_token=listing.next_token(found, size, lambda reservation: reservation.opened_version),
        )

    async def ListEntries(self, request: pb.ListEntriesRequest, context: Context) -> pb.ListEntriesResponse:
        check = ArgumentCheck()
        tenant_id = check.tenant_id(request.tenant_id)
        reservation_id = check.optional_uuid("reservation_id", request.reservation_id)
        size = check.page_size(request.page_size)
        listing = Listing("entries", tenant_id, request.campaign_id, reservation_id)
        after = check.passed(listing.after(check, request.page_token, position))
        await self._account(tenant_id)
        found = await self._reader.entries(
            tenant_id,
            campaign_id=request.campaign_id,
            reservation_id=reservation_id,
            after=after or 0,
            limit=size + 1,
        )
        return pb.ListEntriesResponse(
            entries=[responses.entry(entry) for entry in found[:size]],
            next_page_token=listing.next_token(found, size, lambda entry: entry.version),
        )

    async def VerifyAccount(self, request: pb.VerifyAccountRequest, context: Context) -> pb.VerifyAccountResponse:
        tenant_id = requests.tenant(request.tenant_id)
        verification = await verify_account(self._database, tenant_id)
        if verification is None:
            raise responses.error(refusals.account_not_found(tenant_id))
        return pb.VerifyAccountResponse(
            consistent=not verification.differences,
            entries=verification.entries_read,
            differences=verification.differences,
            recomputed=responses.balance(verification.balance(self._clock.now())),
        )

    async def _account(self, tenant_id: str) -> Account:
        account = await self._reader.account(tenant_id)
        if account is None:
            raise responses.error(refusals.account_not_found(tenant_id))
        return account

    async def _decide(self, operation: AnyOperation) -> tuple[OperationResult, bool]:
        [decision] = await self._group_commit.decide(operation.tenant_id, [operation])
        return _result(decision)

    async def _decide_batch(
        self,
        field: str,
        messages: Sequence[M],
        read: Callable[[M], Q],
        answer: Callable[[Q, Decision], R],
        invalid: Callable[[M, DomainError], R],
    ) -> list[R]:
        """Each message's result, in order; one that is not even a request is answered beside the others."""
        check = ArgumentCheck()
        if not 1 <= len(messages) <= requests.BATCH_MAX:
            check.wrong(field, f"must be at least 1 and at most {requests.BATCH_MAX}")
        check.finish()
        asked: list[Q] = []
        refused: dict[int, R] = {}
        for index, message in enumerate(messages):
            try:
                asked.append(read(message))
            except DomainError as error:
                refused[index] = invalid(message, error)
        answers = iter(map(answer, asked, await decide_all(self._group_commit, asked)))
        return [refused[index] if index in refused else next(answers) for index in range(len(messages))]


def _result(decision: Decision) -> tuple[OperationResult, bool]:
    if isinstance(decision.outcome, DomainRefusal):
        raise responses.error(decision.outcome)
    if not isinstance(decision.outcome, OperationResult):
        raise TypeError("an operation has come to what only attempts come to")
    return decision.outcome, decision.replayed


def _present(part: T | None) -> T:
    """A part of a result; its operation's rule has put it there, so a missing one is a bug of ours."""
    if part is None:
        raise TypeError("the result lacks a part that its response has")
    return part
