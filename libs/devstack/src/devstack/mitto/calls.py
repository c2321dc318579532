"""Mitto's calls: what is accepted, what is responded, and how that goes wrong on request."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from random import Random
from uuid import UUID

import msgspec

from devstack.mitto.accepted_log import Record, RecordHeader
from devstack.mitto.behaviours import Behaviour, BehaviourError, PartialRejection, parse_header
from devstack.mitto.commit import LogWriter
from devstack.mitto.delivery import Delivery
from devstack.mitto.history import Entry, History, Outcome
from devstack.mitto.message_ids import new_blocks
from devstack.mitto.protocol import Connection, Request
from devstack.mitto.records import AcceptedRequest, AcceptedRequests, Content
from devstack.mitto.reports import Reports
from devstack.mitto.responses import (
    Response,
    bulk_response,
    error_response,
    json_response,
    plain_response,
    single_response,
)
from devstack.mitto.rules import Call, Director
from devstack.mitto.server import Server
from devstack.mitto.wire import BULK_PATH, MESSAGES_PATH, SEND_PATH, OutgoingMessage, decode_messages

REPORTS_FIRST_SECONDS = 60.0
"""How long a response waits for the reports that are to come before it."""


@dataclass(slots=True)
class Acceptance:
    """What became of a request's messages: an id each, or None where rejected."""

    bulk_id: str
    ids: list[str | None]
    request: AcceptedRequest | None


class Calls:
    """The provider."""

    def __init__(
        self,
        *,
        log: LogWriter,
        director: Director,
        requests: AcceptedRequests,
        reports: Reports,
        history: History,
        api_key: str,
        seed: int,
    ) -> None:
        self._log = log
        self._director = director
        self._requests = requests
        self._reports = reports
        self._history = history
        self._api_key = api_key
        self._random = Random(f"{seed}/calls")  # noqa: S311 - repeatable
        # Ids stay unique over restarts that share a log, whatever the seed.
        self._id_random = Random()  # noqa: S311 - ids are no secrets
        self.delivery = Delivery()
        self.server: Server | None = None

    def head_received(self, request: Request) -> int | None:
        """Whether the request's body is to be cut short, and at which byte."""
        call = _call_of(request)
        if call is None:
            return None
        behaviour: Behaviour | None = None
        if (header := request.headers.get("x-simulate")) is not None:
            try:
                behaviour = parse_header(header)
            except BehaviourError:
                return None  # The response is 400 once the request is read.
        else:
            behaviour = self._director.choose_early(call)
        if behaviour is None or behaviour.cut_request_at_byte is None:
            return None
        entry = self._begin(request)
        entry.behaviour = behaviour.name
        self._history.end(entry, "request cut", None, time.time())
        return behaviour.cut_request_at_byte

    async def handle(self, request: Request, exchange: Connection) -> None:
        """One call."""
        entry = self._begin(request)
        call = _call_of(request)
        if call is None:
            await self._reject(entry, request, exchange, json_response({"message": "Resource not found"}, 404))
            return
        if self._api_key and request.headers.get("x-mitto-api-key") != self._api_key:
            await self._reject(entry, request, exchange, json_response({"message": "Invalid API key"}, 401))
            return
        try:
            messages = [] if call == "get" else decode_messages(call, request.body)
            header = request.headers.get("x-simulate")
            behaviour = self._director.choose(call, messages) if header is None else parse_header(header)
        except BehaviourError as error:
            await self._reject(entry, request, exchange, json_response({"message": str(error)}, 400))
            return
        except msgspec.DecodeError as error:
            await self._reject(entry, request, exchange, _invalid(str(error)))
            return
        if call == "bulk" and not messages:
            await self._reject(entry, request, exchange, _invalid("Messages must not be empty"))
            return
        entry.behaviour = behaviour.name
        self._history.read(entry, call, messages[0].traffic_account_id if messages else None, len(messages))
        await self._perform(call, messages, behaviour, entry, request, exchange)

    async def _perform(
        self,
        call: Call,
        messages: list[OutgoingMessage],
        behaviour: Behaviour,
        entry: Entry,
        request: Request,
        exchange: Connection,
    ) -> None:
        if behaviour.latency_before_acceptance is not None:
            await asyncio.sleep(behaviour.latency_before_acceptance.draw(self._random))
        # Looked up first: what this very request adds is not "known".
        earlier = self._requests.earlier_ids(behaviour.ids_count) if behaviour.ids == "known" else []
        rejected = self._rejected(messages, behaviour)
        acceptance = await self._accept(call, messages, rejected, behaviour, entry, request)
        accepted = acceptance.request
        prompt = behaviour.latency is None and behaviour.response == "send"
        if accepted is not None and behaviour.reports_first:
            await self._report_and_wait(accepted)
        elif accepted is not None and not prompt:
            self._reports.owe(accepted)
        if behaviour.latency is not None:
            await asyncio.sleep(behaviour.latency.draw(self._random))
        if rejected and behaviour.partial is not None and behaviour.partial.form == "whole_400":
            response = _reject_whole(behaviour, behaviour.partial, min(rejected))
        else:
            response = self._compose(call, messages, behaviour, acceptance, earlier, request)
        await self._deliver(response, behaviour, entry, request, exchange)
        if accepted is not None and prompt and not behaviour.reports_first:
            self._reports.owe(accepted)
        if behaviour.refuse_connections_seconds and self.server is not None:
            self.server.refuse(behaviour.refuse_connections_seconds)

    async def _accept(
        self,
        call: Call,
        messages: list[OutgoingMessage],
        rejected: set[int],
        behaviour: Behaviour,
        entry: Entry,
        request: Request,
    ) -> Acceptance:
        bulk_id = str(UUID(int=self._id_random.getrandbits(128), version=4))
        whole = bool(rejected) and behaviour.partial is not None and behaviour.partial.form == "whole_400"
        if whole or not behaviour.accepts() or len(rejected) == len(messages):
            return Acceptance(bulk_id, [None] * len(messages), None)
        received_at = time.time()
        positions = [position for position in range(len(messages)) if position not in rejected] if rejected else None
        count = len(messages) - len(rejected)
        header = RecordHeader(
            request=entry.number,
            connection=entry.connection,
            path=call,
            received_at=received_at,
            bulk_id=bulk_id if call == "bulk" else None,
            blocks=new_blocks(count, int(received_at * 1000), self._id_random),
            count=count,
            positions=positions,
            bytes=len(request.body),
            crc32=0,
        )
        offset = await self._log.append(header, request.body)
        self._history.accept(entry, count)
        ids = header.message_ids()
        accepted = AcceptedRequest(Record(header, offset), self.delivery)
        self._requests.add(accepted, Content(header.select(messages), ids))
        if positions is None:
            return Acceptance(bulk_id, list(ids), accepted)
        by_position = dict(zip(positions, ids, strict=True))
        return Acceptance(bulk_id, [by_position.get(position) for position in range(len(messages))], accepted)

    def _rejected(self, messages: list[OutgoingMessage], behaviour: Behaviour) -> set[int]:
        partial = behaviour.partial
        if partial is None:
            return set()
        return {
            position
            for position, message in enumerate(messages)
            if partial.rejects(position, message.destination, self._random)
        }

    async def _report_and_wait(self, accepted: AcceptedRequest) -> None:
        reported = asyncio.Event()
        self._reports.owe(accepted, reported.set)
        try:
            async with asyncio.timeout(REPORTS_FIRST_SECONDS):
                await reported.wait()
        except TimeoutError:
            return

    def _compose(
        self,
        call: Call,
        messages: list[OutgoingMessage],
        behaviour: Behaviour,
        acceptance: Acceptance,
        earlier: list[str],
        request: Request,
    ) -> Response:
        if behaviour.status >= 400:
            return error_response(behaviour)
        if call == "bulk":
            return bulk_response(behaviour, acceptance.bulk_id, messages, acceptance.ids, earlier, self._random)
        if call == "send":
            return single_response(behaviour, messages[0], acceptance.ids[0], earlier, self._random)
        found = self._requests.find(request.path.removeprefix(MESSAGES_PATH))
        if found is None:
            return json_response({"message": "Message not found"}, 404)
        return plain_response(behaviour, self._requests.view(*found, time.time()))

    async def _deliver(
        self, response: Response, behaviour: Behaviour, entry: Entry, request: Request, exchange: Connection
    ) -> None:
        status: int | None = response.status
        outcome: Outcome = "client gone" if exchange.closed.is_set() else "responded"
        if behaviour.cut_request_at_byte is not None or behaviour.response == "reset":
            exchange.reset()
            outcome, status = "reset", None
        elif behaviour.response == "never":
            self._history.end(entry, "never responded", None, time.time())
            await exchange.closed.wait()
            return
        elif behaviour.response == "cut":
            await exchange.send_part(response, request, behaviour.cut_at_byte, reset=behaviour.cut_end == "reset")
            outcome = "response cut"
        elif behaviour.response == "drip":
            await exchange.drip(response, request, behaviour.drip_bytes, behaviour.drip_interval_seconds)
            outcome = "client gone" if exchange.closed.is_set() else "responded"
        else:
            await exchange.send(response, request)
        self._history.end(entry, outcome, status, time.time())

    async def _reject(self, entry: Entry, request: Request, exchange: Connection, response: Response) -> None:
        await exchange.send(response, request)
        self._history.end(entry, "responded", response.status, time.time())

    def _begin(self, request: Request) -> Entry:
        return self._history.begin(
            request.connection, request.method, request.path, request.arrived_at, len(request.body)
        )


def _call_of(request: Request) -> Call | None:
    match request.method, request.path:
        case "POST", path if path == BULK_PATH:
            return "bulk"
        case "POST", path if path == SEND_PATH:
            return "send"
        case "GET", path if path.startswith(MESSAGES_PATH) and "/" not in path.removeprefix(MESSAGES_PATH):
            return "get"
    return None


def _reject_whole(behaviour: Behaviour, partial: PartialRejection, position: int) -> Response:
    whole = Behaviour(status=400, error="errors", error_text=behaviour.error_text or partial.error_text)
    return error_response(whole, f"Messages[{position}].Destination")


def _invalid(text: str) -> Response:
    body = {"title": "One or more validation errors occurred.", "status": 400, "errors": {"Messages": [text]}}
    return json_response(body, 400)
