"""The servicer's methods without a network, driven by grpcio-testing through a small synchronous adapter."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import grpc_testing
import pytest

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms_ledger.engine.account_writer import AccountWriter
from bulksms_ledger.engine.group_commit import GroupCommit
from bulksms_ledger.servicers.servicer import LedgerServicer
from servicekit.clock import ManualClock
from servicekit.database import Database
from servicekit.errors import DomainError

from .ledger_support import Ids

SERVICE = pb.DESCRIPTOR.services_by_name["LedgerService"]


class SyncAdapter:
    """grpcio-testing calls handlers in threads; each call is run to its end on the servicer's own loop."""

    def __init__(self, servicer: LedgerServicer, loop: asyncio.AbstractEventLoop) -> None:
        self._servicer = servicer
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._servicer, name)

        def handle(request: object, context: Any) -> object:
            try:
                return asyncio.run_coroutine_threadsafe(method(request, context), self._loop).result(timeout=20)
            except DomainError as error:  # what the interceptor does in a real server
                context.abort(getattr(grpc.StatusCode, error.category.rpc_code), error.reason)
                raise

        return handle


@pytest.fixture
def testing_server(ledger_url: str, clock: ManualClock) -> Iterator[Any]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    database = Database(ledger_url, application_name="test")
    account_writer = AccountWriter(database, clock)
    servicer = LedgerServicer(database, clock, account_writer, GroupCommit(account_writer.decide))
    try:
        yield grpc_testing.server_from_dictionary(
            {SERVICE: SyncAdapter(servicer, loop)}, grpc_testing.strict_real_time()
        )
    finally:
        asyncio.run_coroutine_threadsafe(database.stop(), loop).result(timeout=20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def call(server: Any, request: object) -> tuple[Any, grpc.StatusCode, str]:
    method = SERVICE.methods_by_name[type(request).__name__.removesuffix("Request")]
    response, _, code, details = server.invoke_unary_unary(method, (), request, None).termination()
    return response, code, details


def test_methods_answer_and_refuse_without_a_network(testing_server: Any, ids: Ids) -> None:
    _, code, details = call(testing_server, pb.GetBalanceRequest(tenant_id="acme"))
    assert (code, details) == (grpc.StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND")
    _, code, _ = call(testing_server, pb.CreateAccountRequest(request_id=ids(), tenant_id="acme"))
    assert code is grpc.StatusCode.OK
    response, code, _ = call(testing_server, pb.GrantCreditsRequest(request_id=ids(), tenant_id="acme", units=5))
    assert (code, response.balance.available) == (grpc.StatusCode.OK, 5)
