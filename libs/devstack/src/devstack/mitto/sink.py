"""A webhook that keeps what it is sent: for tests of the simulator, and for trying it by hand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Received:
    """One POST: its headers (names in lower case), its JSON, and which connection it came on."""

    headers: dict[str, str]
    body: Any
    client: tuple[str, int]

    @property
    def reports(self) -> list[dict[str, Any]]:
        """The reports in it."""
        return self.body if isinstance(self.body, list) else [self.body]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    """The default of five makes the kernel drop connections that come at once."""


class ReportSink:
    """Listens on a free port of 127.0.0.1 and acknowledges everything, or responds with what `status` says."""

    def __init__(self) -> None:
        self.posts: list[Received] = []
        self.status: Callable[[Received], int] = lambda _: 200
        self.close_connections = False
        """Respond with `Connection: close`."""
        self._changed = threading.Condition()
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                headers = {name.lower(): value for name, value in self.headers.items()}
                received = Received(headers, body, self.client_address)
                with sink._changed:
                    sink.posts.append(received)
                    sink._changed.notify_all()
                status = sink.status(received)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                if sink.close_connections:
                    self.send_header("Connection", "close")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where to send reports."""
        return f"http://127.0.0.1:{self._server.server_port}/reports"

    @property
    def reports(self) -> list[dict[str, Any]]:
        """All reports so far, in the order of arrival."""
        return [report for post in tuple(self.posts) for report in post.reports]

    def statuses(self) -> dict[str, list[str]]:
        """For each message id the statuses reported, in the order of arrival."""
        statuses: dict[str, list[str]] = {}
        for report in self.reports:
            statuses.setdefault(report["messageId"], []).append(report.get("deliveryStatus") or report["status"])
        return statuses

    def wait_for(self, count: int, timeout_seconds: float = 10.0) -> bool:
        """Wait until so many reports have come; False if that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.reports) >= count, timeout_seconds)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
