"""The control client: what tests, the demo and benchmarks use to steer a running simulator and read what it saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from devstack.mitto.accepted_log import AcceptedMessage, Duplicates, read_accepted
from devstack.mitto.behaviours import Behaviour
from devstack.mitto.control import Configuration
from devstack.mitto.delivery import Delivery
from devstack.mitto.history import Entry, Peak, Second
from devstack.mitto.report_posts import ReportSettings
from devstack.mitto.report_results import Unacknowledged
from devstack.mitto.rules import Match, Rule, Script
from devstack.mitto.statistics import Statistics

T = TypeVar("T")

DEADLINE_SECONDS = 10.0


class SimulatorError(Exception):
    """The simulator rejected a control request; the text is its own."""


class Simulator:
    """A running simulator, by its host:port."""

    def __init__(self, address: str, log_path: Path | str | None = None) -> None:
        """`log_path` is asked for where it is not given."""
        self.address = address
        self.base_url = f"http://{address}"
        self._log_path = Path(log_path) if log_path is not None else None
        self._http = httpx.Client(base_url=self.base_url, timeout=DEADLINE_SECONDS, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def log_path(self) -> Path:
        """The accepted log."""
        if self._log_path is None:
            self._log_path = Path(self._ask("GET", "health", dict[str, str])["log"])
        return self._log_path

    def ready(self) -> bool:
        """Whether it responds."""
        try:
            return self._http.get("/control/health").is_success
        except httpx.TransportError:
            return False

    def behaviour(self) -> Configuration:
        """The configuration in force."""
        return self._ask("GET", "behaviour", Configuration)

    def set_behaviour(
        self,
        *,
        rules: Sequence[Rule] = (),
        delivery: Delivery | None = None,
        reports: ReportSettings | None = None,
    ) -> None:
        """Replace the configuration; what is left out becomes polite."""
        wanted = Configuration(tuple(rules), delivery or Delivery(), reports or ReportSettings())
        self._ask("PUT", "behaviour", Configuration, wanted)

    def script(self, *steps: str | Behaviour, match: Match | None = None, repeat: int = 1) -> None:
        """Behaviours for the next matching requests, in order."""
        self._ask("POST", "script", dict[str, int], Script(steps, match or Match(), repeat))

    def reset(self) -> None:
        """Polite again, counters at zero; the accepted log stays."""
        self._ask("POST", "reset", dict[str, str])

    def refuse_connections(self, seconds: float, *, drop_connections: bool = False) -> None:
        """Close the listening socket for so long."""
        self._ask("POST", "refuse", dict[str, Any], {"seconds": seconds, "drop_connections": drop_connections})

    def stats(self) -> Statistics:
        """The counters."""
        return self._ask("GET", "stats", Statistics)

    def peaks(self, window_ms: int = 1000) -> list[Peak]:
        """The busiest window of each traffic account, by the simulator's clock."""
        return msgspec.convert(self._ask("GET", f"rates?window_ms={window_ms}", dict[str, Any])["peaks"], list[Peak])

    def seconds(self) -> list[Second]:
        """The sending requests of the latest hour, by second of arrival."""
        return msgspec.convert(self._ask("GET", "rates", dict[str, Any])["seconds"], list[Second])

    def requests(self) -> list[Entry]:
        """All requests still listed (the latest 100,000), oldest first."""
        entries: list[Entry] = []
        after = 0
        while page := self._request_page(after):
            entries += page
            after = page[-1].number
        return entries

    def accepted(self, start: int = 0) -> Iterator[AcceptedMessage]:
        """Every accepted message, read from the log; `start` is what `stats().log_bytes` was at some moment."""
        return read_accepted(self.log_path, start)

    def duplicates(self) -> Duplicates:
        """How often the same text was accepted for the same destination."""
        return self._ask("GET", "duplicates", Duplicates, timeout_seconds=120.0)

    def unacknowledged(self) -> list[Unacknowledged]:
        """The latest reports that the webhook did not take."""
        body = self._ask("GET", "reports/unacknowledged?limit=10000", dict[str, Any])
        return msgspec.convert(body["posts"], list[Unacknowledged])

    def flush_reports(self, timeout_seconds: float = 30.0) -> bool:
        """Send all owed reports at once; whether that ended in time."""
        return self._wait("reports/flush", timeout_seconds)

    def wait_reports(self, timeout_seconds: float = 30.0) -> bool:
        """Wait until no report is owed; whether that ended in time."""
        return self._wait("reports/wait", timeout_seconds)

    def pause_reports(self) -> None:
        """Send no reports for now."""
        self._ask("POST", "reports/pause", dict[str, bool])

    def resume_reports(self) -> None:
        """Send reports again."""
        self._ask("POST", "reports/resume", dict[str, bool])

    def drop_reports(self) -> None:
        """Forget the reports that are owed."""
        self._ask("POST", "reports/drop", dict[str, int])

    def _wait(self, path: str, timeout_seconds: float) -> bool:
        patience = {"timeout_seconds": timeout_seconds}
        deadline = timeout_seconds + DEADLINE_SECONDS
        return self._ask("POST", path, dict[str, bool], patience, timeout_seconds=deadline)["idle"]

    def _request_page(self, after: int) -> list[Entry]:
        body = self._ask("GET", f"requests?after={after}&limit=10000", dict[str, Any])
        return msgspec.convert(body["requests"], list[Entry])

    def _ask(
        self,
        method: str,
        path: str,
        kind: type[T],
        body: object = None,
        timeout_seconds: float = DEADLINE_SECONDS,
    ) -> T:
        content = b"" if body is None else msgspec.json.encode(body)
        response = self._http.request(method, f"/control/{path}", content=content, timeout=timeout_seconds)
        if not response.is_success:
            raise SimulatorError(f"{method} /control/{path}: {response.text}")
        return msgspec.json.decode(response.content, type=kind)
