"""Where a capture's CPU time goes in this process: each stage by itself, without database and network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from benchmarks.ledger.accounts import UNITS, HotAccount
from benchmarks.ledger.caller import capture_request
from benchmarks.report import Figure
from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms_ledger.app import spare_the_collector
from bulksms_ledger.domain.account_session import AccountSession
from bulksms_ledger.domain.accounts import Account
from bulksms_ledger.domain.entries import chain_hash
from bulksms_ledger.domain.lots import LotAllocation
from bulksms_ledger.domain.operations import encode_content, encode_outcome
from bulksms_ledger.domain.reservations import AllocatedReservation, Reservation
from bulksms_ledger.servicers import requests, responses

T = TypeVar("T")

_ROUNDS = 5


def stages(*, items: int) -> list[Figure]:
    """A figure per stage; of five rounds the cheapest, as the others were disturbed."""
    spare_the_collector()
    account = HotAccount("stages", seed=33)
    now = datetime.now(UTC)
    messages = [capture_request(capture).SerializeToString() for capture in account.captures(items)]
    figures: list[Figure] = []

    def stage(name: str, body: Callable[[], T]) -> T:
        seconds, made = min((_timed(body) for _ in range(_ROUNDS)), key=lambda round_: round_[0])
        figures.append(Figure(f"stage: {name}", items, seconds, cpu_us={"ledger": round(seconds / items * 1e6, 2)}))
        return made

    read = stage("read the message", lambda: [pb.CaptureRequest.FromString(message) for message in messages])
    captures = stage("check the request", lambda: [requests.capture(request) for request in read])
    stage("encode its content (in decide)", lambda: [encode_content(capture) for capture in captures])

    def decide() -> AccountSession:
        session = _session(account, now)
        for capture in captures:
            session.decide(capture, now)
        return session

    session = stage("decide", decide)
    stage("hash the entry (in decide)", lambda: [chain_hash(entry.hash, entry) for entry in session.entries])
    stage("encode the outcome", lambda: [encode_outcome(recorded.outcome) for recorded in session.recorded])
    stage("respond", lambda: _responses([one.reservation for one in session.changed_reservations] * items))
    return figures


def _timed(body: Callable[[], T]) -> tuple[float, T]:
    started = time.process_time()
    made = body()
    return time.process_time() - started, made


def _session(account: HotAccount, now: datetime) -> AccountSession:
    reservation = Reservation(
        reservation_id=account.reservation_id,
        tenant_id=account.tenant_id,
        campaign_id="benchmark",
        units=UNITS,
        open=UNITS,
        opened_version=2,
        created_at=now,
    )
    allocated = AllocatedReservation(reservation, (LotAllocation(1, None, UNITS),))
    opened = Account(account.tenant_id, now, reserved=UNITS, version=2, last_entry_at=now)
    return AccountSession(opened, lots=(), reservations=[allocated], operations=[], source_refs=[])


def _responses(reservations: Sequence[Reservation]) -> list[bytes]:
    return [
        pb.CaptureResponse(reservation=responses.reservation(reservation)).SerializeToString()
        for reservation in reservations
    ]
