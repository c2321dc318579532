"""The simulator put together: one place where its parts are made, started and stopped."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from typing import Any

from devstack.mitto.accepted_log import Record
from devstack.mitto.calls import Calls
from devstack.mitto.commit import LogWriter
from devstack.mitto.control import Control
from devstack.mitto.history import History
from devstack.mitto.protocol import Connection, Request
from devstack.mitto.records import AcceptedRequest, AcceptedRequests
from devstack.mitto.reports import Reports
from devstack.mitto.rules import Director
from devstack.mitto.server import Server
from devstack.mitto.settings import SimulatorSettings

GRACE_SECONDS = 1.0


class Application:
    """Sends control requests to the control interface and everything else to the provider's calls."""

    def __init__(self, settings: SimulatorSettings) -> None:
        """Make the parts. Must run in the event loop that will serve them."""
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._log = LogWriter(settings.log_path, self._log_failed)
        self._requests = AcceptedRequests(self._log.read, settings.seed, settings.remembered_requests)
        self._reports = Reports(settings.report_url, settings.report_headers or {}, self._requests, settings.seed)
        self._history = History()
        director = Director(settings.seed)
        self._calls = Calls(
            log=self._log,
            director=director,
            requests=self._requests,
            reports=self._reports,
            history=self._history,
            api_key=settings.api_key,
            seed=settings.seed,
        )
        self.server = Server(self, settings.host, settings.port)
        self._calls.server = self.server
        self._control = Control(
            calls=self._calls,
            director=director,
            reports=self._reports,
            history=self._history,
            requests=self._requests,
            log=self._log,
            log_path=settings.log_path,
            server=self.server,
        )

    def head_received(self, request: Request) -> int | None:
        """Part of the server's Handler."""
        return self._calls.head_received(request)

    async def handle(self, request: Request, exchange: Connection) -> None:
        """Part of the server's Handler."""
        if request.path.startswith("/control/"):
            await exchange.send(await self._control.respond(request), request)
        else:
            await self._calls.handle(request, exchange)

    async def start(self) -> None:
        """Open the log, remember what it has, and listen."""
        for record in self._log.open():
            self._remember(record)
        await self.server.start()

    async def wait(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set. Raises OSError when the log cannot be written."""
        stopped = asyncio.get_running_loop().create_task(stop.wait())
        try:
            waited: list[asyncio.Future[Any]] = [stopped, self._failure]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
        finally:
            stopped.cancel()

    async def stop(self) -> None:
        """The reverse of `start`."""
        await self.server.close(GRACE_SECONDS)
        await self._reports.close()
        self._log.close()

    def _remember(self, record: Record) -> None:
        # Reports that an earlier run still owed are not sent: that run's provider is gone.
        self._history.continue_after(record.header.request)
        self._requests.add(AcceptedRequest(record, self._calls.delivery), None)

    def _log_failed(self, error: OSError) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)


async def serve(settings: SimulatorSettings) -> int:
    """Run a simulator until SIGTERM or SIGINT; returns the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    application = Application(settings)
    try:
        await application.start()
    except OSError as error:
        sys.stderr.write(f"the Mitto simulator cannot start: {error}\n")
        return 1
    # What exists by now stays: the collector need not walk through it again and again.
    gc.freeze()
    sys.stdout.write(f"the Mitto simulator listens on {application.server.address}\n")
    sys.stdout.flush()
    try:
        await application.wait(stop)
    except OSError as error:
        sys.stderr.write(f"the accepted log cannot be written: {error}\n")
        return 1
    finally:
        await application.stop()
    return 0
