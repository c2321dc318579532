"""Small real gRPC servers that implement the generated servicers and do what a test asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from typer.testing import CliRunner, Result

from bulksms.campaign.v1 import campaign_pb2_grpc, contacts_pb2_grpc
from bulksms.dispatcher.v1 import messages_pb2_grpc, queue_pb2_grpc
from bulksms.ledger.v1 import ledger_pb2_grpc
from bulksms_client import Client, channels

CONTRACT: list[tuple[type, Any]] = [
    (campaign_pb2_grpc.CampaignServiceServicer, campaign_pb2_grpc.add_CampaignServiceServicer_to_server),
    (contacts_pb2_grpc.ContactServiceServicer, contacts_pb2_grpc.add_ContactServiceServicer_to_server),
    (ledger_pb2_grpc.LedgerServiceServicer, ledger_pb2_grpc.add_LedgerServiceServicer_to_server),
    (messages_pb2_grpc.MessageServiceServicer, messages_pb2_grpc.add_MessageServiceServicer_to_server),
    (queue_pb2_grpc.QueueServiceServicer, queue_pb2_grpc.add_QueueServiceServicer_to_server),
]

Handler = Callable[[Any, grpc.ServicerContext], Any]


@dataclass
class Call:
    """One call as the server saw it."""

    method: str
    request: Any
    metadata: dict[str, str]
    seconds_left: float | None


@dataclass
class Services:
    """All services behind one port. `on` says what an RPC does; every other one answers UNIMPLEMENTED."""

    handlers: dict[str, Handler] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    credentials: grpc.ServerCredentials | None = None
    options: tuple[tuple[str, int], ...] = ()
    address: str = "127.0.0.1:0"
    server: grpc.Server | None = None

    def start(self) -> None:
        """Starts, the second time at the address of the first."""
        self.server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=8), options=[("grpc.so_reuseport", 0), *self.options]
        )
        for base, add in CONTRACT:
            add(self.servicer(base), self.server)
        if self.credentials is None:
            port = self.server.add_insecure_port(self.address)
        else:
            port = self.server.add_secure_port(self.address, self.credentials)
        self.address = f"127.0.0.1:{port}"
        self.server.start()

    def stop(self) -> None:
        assert self.server is not None
        self.server.stop(grace=None).wait(5)

    def on(self, method: str, handler: Handler | Any) -> None:
        """A function of (request, context), or the response itself."""
        self.handlers[method] = handler if callable(handler) else lambda _request, _context: handler

    def requests(self, method: str) -> list[Any]:
        return [call.request for call in self.calls if call.method == method]

    def servicer(self, base: type) -> Any:
        methods = {name: self._method(name, getattr(base, name)) for name in vars(base) if not name.startswith("_")}
        return type(f"Scripted{base.__name__}", (base,), methods)()

    def _method(self, name: str, unimplemented: Callable[..., Any]) -> Callable[..., Any]:
        def method(servicer: Any, request: Any, context: grpc.ServicerContext) -> Any:
            metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
            self.calls.append(Call(name, request, metadata, context.time_remaining()))
            if name not in self.handlers:
                return unimplemented(servicer, request, context)
            return self.handlers[name](request, context)

        return method


@pytest.fixture
def serve() -> Iterator[Callable[..., Services]]:
    """Starts services; more than once is possible."""
    with ExitStack() as stack:

        def start(**how: Any) -> Services:
            services = Services(**how)
            services.start()
            stack.callback(services.stop)
            return services

        yield start


@pytest.fixture
def services(serve: Callable[..., Services]) -> Services:
    return serve()


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    whose = ("CAMPAIGN", "LEDGER", "DISPATCHER", "TENANT", "OPERATOR")
    for name in (*whose, "TIMEOUT", "CONFIG", "TLS_CA", "TLS_CERT", "TLS_KEY"):
        monkeypatch.delenv(f"BULKSMS_{name}", raising=False)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same number of attempts, less waiting between them."""
    monkeypatch.setitem(channels._RETRY_POLICY, "initialBackoff", "0.01s")
    monkeypatch.setitem(channels._RETRY_POLICY, "maxBackoff", "0.1s")


@pytest.fixture
def addresses(services: Services) -> dict[str, Any]:
    """What a client needs to reach the services."""
    return dict.fromkeys(("campaign", "ledger", "dispatcher"), services.address)


@pytest.fixture
def client(addresses: dict[str, Any]) -> Iterator[Client]:
    with Client(**addresses, tenant_id="acme", timeout=5) as made:
        yield made


@pytest.fixture
def environment(services: Services) -> dict[str, str]:
    """The same as environment variables."""
    names = ("BULKSMS_CAMPAIGN", "BULKSMS_LEDGER", "BULKSMS_DISPATCHER")
    return {**dict.fromkeys(names, services.address), "BULKSMS_TENANT": "acme", "BULKSMS_TIMEOUT": "5"}


@pytest.fixture
def bulksms(environment: dict[str, str]) -> Callable[..., Result]:
    """Runs the command: bulksms("campaign", "list")."""
    from bulksms_client.cli import app

    def run(*arguments: str, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), env=environment, input=stdin)

    return run


@pytest.fixture
def refuse() -> Callable[..., Handler]:
    """A handler that fails as the services do: a status with ErrorInfo, BadRequest and RetryInfo."""

    def refusing(
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        fields: dict[str, str] | None = None,
        retry_after: float | None = None,
        **metadata: str,
    ) -> Handler:
        details: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain="bulksms", metadata=metadata)]
        if fields:
            violations = [
                error_details_pb2.BadRequest.FieldViolation(field=name, description=cure)
                for name, cure in fields.items()
            ]
            details.append(error_details_pb2.BadRequest(field_violations=violations))
        if retry_after is not None:
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(retry_after * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(code=code.value[0], message=message)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)

        def handle(_request: Any, context: grpc.ServicerContext) -> Any:
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            context.abort(code, message)

        return handle

    return refusing
