"""What one stack will run: its ports, replicas, commands and environments, decided before anything starts."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from devstack.health import is_serving
from devstack.identity import Identity
from devstack.ports import LOOPBACK, accepts_connections, choose_port, release_port
from devstack.processes import ManagedProcess
from devstack.servers import Servers
from devstack.services import (
    DLR_SECRET_HEADER,
    WEBHOOK_PATH,
    Replica,
    Service,
    Surroundings,
    environment_of,
)

_READY_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about the stack's own processes that is known before they start."""

    folder: Path
    replicas: tuple[Replica, ...]
    simulator_port: int
    spans_port: int
    traffic_account_id: str
    dlr_secret: str = field(repr=False)
    simulator_api_key: str = field(repr=False)

    @property
    def simulator_address(self) -> str:
        """host:port of the simulator."""
        return f"{LOOPBACK}:{self.simulator_port}"

    @property
    def simulator_log(self) -> Path:
        """The simulator's log of accepted messages."""
        return self.folder / "simulator" / "accepted.log"

    @property
    def trace_store(self) -> Path:
        """The SQLite file with every span."""
        return self.folder / "spans" / "spans.sqlite3"

    def replicas_of(self, service: Service) -> list[Replica]:
        """Return the processes of one service."""
        return [replica for replica in self.replicas if replica.service == service]

    def address(self, service: str) -> str:
        """Return a gRPC target that reaches all replicas of a service."""
        ports = [replica.grpc_port for replica in self.replicas if replica.service.name == service]
        if not ports:
            raise KeyError(f"this stack runs no {service}")
        hosts = ",".join(f"{LOOPBACK}:{port}" for port in ports)
        return hosts if len(ports) == 1 else f"ipv4:{hosts}"

    def http_address(self, service: str, number: int = 0) -> str:
        """Return host:port of a service's HTTP server."""
        for replica in self.replicas:
            if (replica.service.name, replica.number) == (service, number) and replica.http_port is not None:
                return f"{LOOPBACK}:{replica.http_port}"
        raise KeyError(f"this stack runs no HTTP server of {service}, number {number}")

    def addresses(self) -> dict[str, str]:
        """Return what listens where, for people."""
        addresses = {}
        for replica in self.replicas:
            addresses[replica.name] = f"{LOOPBACK}:{replica.grpc_port}"
            if replica.http_port is not None:
                addresses[f"{replica.name} (HTTP)"] = f"http://{LOOPBACK}:{replica.http_port}"
        return addresses | {"simulator": f"http://{self.simulator_address}"}

    def surroundings(self, servers: Servers, *, traces: bool) -> Surroundings:
        """Return what every service knows of the others."""
        return Surroundings(
            campaign_address=self._peer("campaign"),
            dispatcher_address=self._peer("dispatcher"),
            ledger_address=self._peer("ledger"),
            redis_url=servers.redis_url,
            redis_key_prefix=servers.redis_key_prefix,
            mitto_base_url=f"http://{self.simulator_address}",
            mitto_api_key=self.simulator_api_key,
            traffic_account_id=self.traffic_account_id,
            dlr_secret=self.dlr_secret,
            traces_endpoint=f"http://{LOOPBACK}:{self.spans_port}" if traces else None,
        )

    def process(
        self, replica: Replica, around: Surroundings, database_url: str | None, overrides: Mapping[str, str]
    ) -> ManagedProcess:
        """Return one process of a service, not started."""
        replica.folder.mkdir(parents=True, exist_ok=True)
        return self._python(
            replica.name,
            [replica.service.module, "serve"],
            environment_of(replica, around, database_url) | dict(overrides),
            ready=lambda: _is_ready(replica),
        )

    def migration(
        self, replica: Replica, around: Surroundings, database_url: str, overrides: Mapping[str, str]
    ) -> ManagedProcess:
        """Return the process that brings a service's database up to date, with the environment it will serve in."""
        service = replica.service
        environment = environment_of(replica, around, database_url) | dict(overrides)
        return self._python(f"migrate-{service.name}", [service.module, "migrate"], environment)

    def simulator(self, overrides: Mapping[str, str]) -> ManagedProcess:
        """Return the Mitto simulator, not started."""
        self.simulator_log.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            "SIMULATOR_LISTEN": self.simulator_address,
            "SIMULATOR_LOG": str(self.simulator_log),
            "SIMULATOR_API_KEY": self.simulator_api_key,
            "SIMULATOR_REPORT_URL": self._report_url(),
            "SIMULATOR_REPORT_HEADERS": f'{{"{DLR_SECRET_HEADER}": "{self.dlr_secret}"}}',
        }
        return self._python(
            "simulator",
            ["devstack.mitto"],
            environment | dict(overrides),
            ready=lambda: _is_ok(f"http://{self.simulator_address}/control/health"),
        )

    def span_store(self) -> ManagedProcess:
        """Return the span store, not started."""
        return self._python(
            "spans",
            ["devstack.spans", f"{LOOPBACK}:{self.spans_port}", str(self.trace_store)],
            {},
            ready=lambda: is_serving(self.spans_port),
        )

    def release_ports(self) -> None:
        """Let others choose these ports again."""
        for replica in self.replicas:
            release_port(replica.grpc_port)
            if replica.http_port is not None:
                release_port(replica.http_port)
        release_port(self.simulator_port)
        release_port(self.spans_port)

    def _peer(self, service: str) -> str:
        """A service that has no process here still has an address, one where nobody listens."""
        try:
            return self.address(service)
        except KeyError:
            return f"{LOOPBACK}:1"

    def _report_url(self) -> str:
        try:
            return f"http://{self.http_address('dlr-gateway')}{WEBHOOK_PATH}"
        except KeyError:
            return ""

    def _python(
        self,
        name: str,
        module: list[str],
        environment: Mapping[str, str],
        ready: Callable[[], bool] | None = None,
    ) -> ManagedProcess:
        return ManagedProcess(
            name,
            [sys.executable, "-m", *module],
            log_path=self.folder / "logs" / f"{name}.log",
            environment=environment,
            folder=self.folder,
            ready=ready,
            ready_timeout_seconds=_READY_TIMEOUT_SECONDS,
        )


def make_plan(folder: Path, identity: Identity, services: Sequence[Service], replicas: Mapping[str, int]) -> Plan:
    """Choose ports for everything and return the plan."""
    return Plan(
        folder=folder,
        replicas=tuple(
            Replica(
                service,
                number,
                grpc_port=choose_port(),
                http_port=choose_port() if service.has_http else None,
                folder=folder / f"{service.name}-{number}",
            )
            for service in services
            for number in range(replicas.get(service.name, 1))
        ),
        simulator_port=choose_port(),
        spans_port=choose_port(),
        traffic_account_id=identity.traffic_account_id,
        dlr_secret=identity.secret("dlr"),
        simulator_api_key=identity.secret("mitto_api_key"),
    )


def _is_ready(replica: Replica) -> bool:
    if replica.http_port is not None and not accepts_connections(replica.http_port):
        return False
    return is_serving(replica.grpc_port)


def _is_ok(url: str) -> bool:
    # No proxy of the shell's: this is this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2.0) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False
