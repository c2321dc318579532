"""What the ledger's tests share: a ledger served in this process, and a tenant that calls it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID

import grpc
from pydantic import SecretStr

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceStub, add_LedgerServiceServicer_to_server
from bulksms_ledger.app import SERVICE
from bulksms_ledger.engine.account_writer import AccountWriter
from bulksms_ledger.engine.group_commit import GroupCommit
from bulksms_ledger.servicers.servicer import LedgerServicer
from bulksms_ledger.settings import Settings
from bulksms_ledger.storage.connections import open_database
from servicekit.clock import Clock
from servicekit.errors import DomainError
from servicekit.grpc.client import open_channel
from servicekit.grpc.errors import from_rpc_error
from servicekit.grpc.server import build_server
from servicekit.lifecycle import running
from servicekit.settings import Endpoint, load

ACTIVE = pb.SUBSCRIPTION_STATUS_ACTIVE


class Ids:
    """UUIDs as text, the same ones in every run."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def __call__(self) -> str:
        return str(UUID(int=next(self._numbers) << 64 | 1 << 63, version=4))


class Tenant:
    """A tenant of a ledger; every call has a request id of its own unless it is given one."""

    def __init__(self, stub: LedgerServiceStub, ids: Ids, tenant_id: str = "acme") -> None:
        self.stub = stub
        self.ids = ids
        self.tenant_id = tenant_id

    async def open(self, units: int = 0) -> Tenant:
        """Open the account, with an active subscription and so many credits."""
        await self.stub.CreateAccount(pb.CreateAccountRequest(request_id=self.ids(), tenant_id=self.tenant_id))
        await self.stub.SetSubscription(
            pb.SetSubscriptionRequest(
                request_id=self.ids(), tenant_id=self.tenant_id, status=ACTIVE, reason="signed up"
            )
        )
        if units:
            await self.grant(units)
        return self

    async def grant(self, units: int, *, source_ref: str = "", request_id: str = "") -> pb.GrantCreditsResponse:
        return await self.stub.GrantCredits(
            pb.GrantCreditsRequest(
                request_id=request_id or self.ids(), tenant_id=self.tenant_id, units=units, source_ref=source_ref
            )
        )

    async def reserve(
        self,
        units: int,
        *,
        reservation_id: str = "",
        request_id: str = "",
        campaign_id: str = "",
        enqueue_number: int = 0,
    ) -> pb.ReserveResponse:
        return await self.stub.Reserve(
            pb.ReserveRequest(
                request_id=request_id or self.ids(),
                tenant_id=self.tenant_id,
                reservation_id=reservation_id or self.ids(),
                units=units,
                campaign_id=campaign_id,
                enqueue_number=enqueue_number,
            )
        )

    def capture_request(self, reservation_id: str, units: int, *, request_id: str = "") -> pb.CaptureRequest:
        return pb.CaptureRequest(
            request_id=request_id or self.ids(),
            tenant_id=self.tenant_id,
            reservation_id=reservation_id,
            units=units,
            evidence=pb.CaptureEvidence(
                batch_id="batch-1", epoch=1, bulk_id="bulk-1", accepted_count=units, parts=units
            ),
        )

    async def capture(self, reservation_id: str, units: int, *, request_id: str = "") -> pb.CaptureResponse:
        return await self.stub.Capture(self.capture_request(reservation_id, units, request_id=request_id))

    async def release(self, reservation_id: str, units: int, *, request_id: str = "") -> pb.ReleaseResponse:
        return await self.stub.Release(
            pb.ReleaseRequest(
                request_id=request_id or self.ids(),
                tenant_id=self.tenant_id,
                reservation_id=reservation_id,
                units=units,
                reason="not sent",
            )
        )

    async def close(self, reservation_id: str, expected_captured: int, *, request_id: str = "") -> pb.CloseResponse:
        return await self.stub.Close(
            pb.CloseRequest(
                request_id=request_id or self.ids(),
                tenant_id=self.tenant_id,
                reservation_id=reservation_id,
                expected_captured=expected_captured,
            )
        )

    async def refund(self, reservation_id: str, units: int, *, request_id: str = "") -> pb.RefundResponse:
        return await self.stub.Refund(
            pb.RefundRequest(
                request_id=request_id or self.ids(),
                tenant_id=self.tenant_id,
                reservation_id=reservation_id,
                units=units,
                reason="complaint",
            )
        )

    async def balance(self) -> pb.Balance:
        response = await self.stub.GetBalance(pb.GetBalanceRequest(tenant_id=self.tenant_id))
        return response.balance

    async def entries(self) -> list[pb.Entry]:
        """All entries, through the pages."""
        found: list[pb.Entry] = []
        token = ""
        while True:
            page = await self.stub.ListEntries(
                pb.ListEntriesRequest(tenant_id=self.tenant_id, page_size=1000, page_token=token)
            )
            found.extend(page.entries)
            token = page.next_page_token
            if not token:
                return found

    async def verify(self) -> pb.VerifyAccountResponse:
        return await self.stub.VerifyAccount(pb.VerifyAccountRequest(tenant_id=self.tenant_id), timeout=60)


def refusal_reason(result: pb.CaptureResult) -> str:
    """Why a capture of a batch was refused; empty when it was carried out."""
    if result.WhichOneof("outcome") == "captured":
        return ""
    return pb.RefusalReason.Name(result.refusal.reason).removeprefix("REFUSAL_REASON_")


async def refused(call: Awaitable[object]) -> DomainError:
    """The error a call is refused with."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError(f"not refused: {answer}")


@asynccontextmanager
async def serving(url: str, clock: Clock) -> AsyncIterator[LedgerServiceStub]:
    """A ledger on a free port of this process, and a stub for it."""
    settings = load(
        Settings, database_url=SecretStr(url), grpc_listen=Endpoint("127.0.0.1", 0), shutdown_grace_seconds=5
    )
    database = open_database(settings)
    account_writer = AccountWriter(database, clock)
    group_commit = GroupCommit(account_writer.decide)
    servicer = LedgerServicer(database, clock, account_writer, group_commit)
    server = build_server(settings, [(add_LedgerServiceServicer_to_server, servicer, SERVICE)])
    async with running([database, group_commit, server]):
        channel = open_channel(server.address, default_timeout=timedelta(seconds=20))
        try:
            yield LedgerServiceStub(channel)
        finally:
            await channel.close()
