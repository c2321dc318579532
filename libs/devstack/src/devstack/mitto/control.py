"""The control interface: change and watch the simulator over HTTP while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import parse_qs

import msgspec

from devstack.mitto.accepted_log import DamagedLogError, count_duplicates
from devstack.mitto.behaviours import NAMED, BehaviourError, Seconds
from devstack.mitto.calls import Calls
from devstack.mitto.commit import LogWriter
from devstack.mitto.delivery import Delivery
from devstack.mitto.history import History
from devstack.mitto.protocol import Request
from devstack.mitto.records import AcceptedRequests
from devstack.mitto.report_posts import ReportSettings
from devstack.mitto.reports import Reports
from devstack.mitto.responses import Response, json_response
from devstack.mitto.rules import Director, Rule, Script
from devstack.mitto.server import Server
from devstack.mitto.statistics import collect

T = TypeVar("T")


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that can be declared about the simulator's behaviour. What is left out is polite."""

    rules: tuple[Rule, ...] = ()
    delivery: Delivery = Delivery()
    reports: ReportSettings = ReportSettings()


class RefusedConnections(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /control/refuse."""

    seconds: Seconds = 1.0
    drop_connections: bool = False


class Patience(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a control call may wait."""

    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=600)] = 30.0


class Control:
    """Serves everything below /control."""

    def __init__(
        self,
        *,
        calls: Calls,
        director: Director,
        reports: Reports,
        history: History,
        requests: AcceptedRequests,
        log: LogWriter,
        log_path: Path,
        server: Server,
    ) -> None:
        self._calls = calls
        self._director = director
        self._reports = reports
        self._history = history
        self._requests = requests
        self._log = log
        self._log_path = log_path
        self._server = server
        self._routes: dict[tuple[str, str], Callable[[Request], Awaitable[object]]] = {
            ("GET", "health"): self._health,
            ("GET", "behaviour"): self._get_behaviour,
            ("PUT", "behaviour"): self._put_behaviour,
            ("GET", "behaviours"): self._get_names,
            ("POST", "script"): self._post_script,
            ("POST", "reset"): self._reset,
            ("POST", "refuse"): self._refuse,
            ("GET", "stats"): self._stats,
            ("GET", "rates"): self._rates,
            ("GET", "requests"): self._get_requests,
            ("GET", "duplicates"): self._duplicates,
            ("GET", "reports/unacknowledged"): self._unacknowledged,
            ("POST", "reports/flush"): self._flush,
            ("POST", "reports/wait"): self._wait,
            ("POST", "reports/pause"): self._pause,
            ("POST", "reports/resume"): self._resume,
            ("POST", "reports/drop"): self._drop,
        }

    async def respond(self, request: Request) -> Response:
        """Respond to one control request."""
        name = request.path.removeprefix("/control/")
        route = self._routes.get((request.method, name))
        if route is None:
            known = ", ".join(f"{method} /control/{path}" for method, path in self._routes)
            return json_response({"message": f"no {request.method} {request.path}; there are: {known}"}, 404)
        try:
            value = await route(request)
        except (BehaviourError, msgspec.DecodeError, ValueError) as error:
            return json_response({"message": str(error)}, 400)
        return json_response(value)

    async def _health(self, _: Request) -> object:
        return {"status": "ready", "log": str(self._log_path)}

    async def _get_behaviour(self, _: Request) -> object:
        return Configuration(self._director.rules, self._calls.delivery, self._reports.settings)

    async def _put_behaviour(self, request: Request) -> object:
        wanted = _decode(request, Configuration)
        # Both may fail, and then nothing has changed.
        Director(0).set_rules(wanted.rules)
        self._reports.configure(wanted.reports)
        self._director.set_rules(wanted.rules)
        self._calls.delivery = wanted.delivery
        return wanted

    async def _get_names(self, _: Request) -> object:
        return NAMED

    async def _post_script(self, request: Request) -> object:
        self._director.add_script(_decode(request, Script))
        return {"steps_remaining": self._director.remaining_steps()}

    async def _reset(self, _: Request) -> object:
        self._director.reset()
        self._calls.delivery = Delivery()
        self._reports.configure(ReportSettings())
        self._reports.resume()
        self._reports.results.clear()
        self._history.clear()
        return {"status": "polite"}

    async def _refuse(self, request: Request) -> object:
        wanted = _decode(request, RefusedConnections)
        self._server.refuse(wanted.seconds, drop=wanted.drop_connections, keep=request.connection)
        return wanted

    async def _stats(self, _: Request) -> object:
        return collect(self._history, self._reports, self._requests, self._log, self._server, self._director)

    async def _rates(self, request: Request) -> object:
        window = _number(request, "window_ms", 1000)
        if window < 1:
            raise BehaviourError("window_ms: at least 1")
        return {
            "window_ms": window,
            "peaks": self._history.peaks(window / 1000),
            "seconds": list(self._history.seconds.values()),
        }

    async def _get_requests(self, request: Request) -> object:
        page = self._history.page(_number(request, "after", 0), min(_number(request, "limit", 1000), 10_000))
        return {"requests": page, "next_after": page[-1].number if page else None}

    async def _duplicates(self, _: Request) -> object:
        # Reads the whole log: away from the event loop.
        try:
            return await asyncio.to_thread(count_duplicates, self._log_path)
        except DamagedLogError as error:
            raise BehaviourError(str(error)) from None

    async def _unacknowledged(self, request: Request) -> object:
        latest = list(self._reports.results.unacknowledged)
        limit = max(0, _number(request, "limit", 1000))
        return {"total": self._reports.results.counts["failed"], "posts": latest[max(0, len(latest) - limit) :]}

    async def _flush(self, request: Request) -> object:
        return {"idle": await self._reports.flush(_decode(request, Patience).timeout_seconds)}

    async def _wait(self, request: Request) -> object:
        return {"idle": await self._reports.wait_idle(_decode(request, Patience).timeout_seconds)}

    async def _pause(self, _: Request) -> object:
        self._reports.pause()
        return {"paused": True}

    async def _resume(self, _: Request) -> object:
        self._reports.resume()
        return {"paused": False}

    async def _drop(self, _: Request) -> object:
        self._reports.drop()
        return {"pending_requests": 0}


def _decode(request: Request, wanted: type[T]) -> T:
    return msgspec.json.decode(request.body or b"{}", type=wanted)


def _number(request: Request, name: str, default: int) -> int:
    values = parse_qs(request.query).get(name)
    if not values:
        return default
    try:
        return int(values[0])
    except ValueError:
        raise BehaviourError(f"{name}: {values[0]!r} is no whole number") from None
