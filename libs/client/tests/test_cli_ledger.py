"""`bulksms ledger`: a statement is exported through every page, written whole or not at all, and proven offline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import Result

from bulksms.ledger.v1 import ledger_pb2 as pb

Run = Callable[..., Result]
GRANTS = 5


def entries() -> list[pb.Entry]:
    """Grants of one credit, hashed as the contract says."""
    made: list[pb.Entry] = []
    before = bytes(32)
    for version in range(1, GRANTS + 1):
        request_id = f"0190a1b2-c3d4-7e5f-8a6b-{version:012x}"
        content = [
            "bulksms-ledger-entry-1", version, "acme", 1, 1, version, 0, 0, None, "", request_id, "Δώρο", None,
            1_767_268_800_123_456 + version, "", None,
        ]  # fmt: skip
        canonical = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        before = hashlib.sha256(before + canonical).digest()
        made.append(
            pb.Entry(
                version=version,
                tenant_id="acme",
                kind=pb.ENTRY_KIND_GRANT,
                units=1,
                available_after=version,
                request_id=request_id,
                reason="Δώρο",
                created_at=Timestamp(seconds=1_767_268_800, nanos=123_456_000 + version * 1000),
                hash=before,
            )
        )
    return made


def serve_entries(services: Any, *, fail_at: int = GRANTS) -> None:
    """Two entries a page; a fault once so many have been listed."""
    services.on("GetAccount", pb.GetAccountResponse(account=pb.Account(tenant_id="acme")))

    def listed(request: pb.ListEntriesRequest, context: Any) -> pb.ListEntriesResponse:
        start = int(request.page_token or 0)
        if start >= fail_at:
            raise RuntimeError("the ledger fails here")
        more = start + 2 < GRANTS
        return pb.ListEntriesResponse(entries=entries()[start : start + 2], next_page_token=f"{start + 2}" * more)

    services.on("ListEntries", listed)


def test_an_exported_statement_is_proven_offline(services: Any, bulksms: Run, tmp_path: Path) -> None:
    serve_entries(services)
    file = tmp_path / "statement.jsonl"
    exported = bulksms("ledger", "export", str(file))
    assert exported.exit_code == 0, exported.stderr
    assert exported.stdout.startswith("5 entries written to")
    services.stop()
    verified = bulksms("ledger", "verify", str(file), "--json")
    assert json.loads(verified.stdout) == {
        "holds": True,
        "tenant_id": "acme",
        "entries": 5,
        "available": 5,
        "reserved": 0,
        "captured": 0,
        "hash": entries()[-1].hash.hex(),
        "differences": [],
    }


def test_a_statement_goes_through_pipes(services: Any, bulksms: Run) -> None:
    serve_entries(services)
    exported = bulksms("ledger", "export")
    verified = bulksms("ledger", "verify", "-", stdin=exported.stdout_bytes)
    assert verified.exit_code == 0, verified.output
    assert bulksms("ledger", "verify", "-", stdin=exported.stdout_bytes[:-1]).exit_code == 8


def test_a_statement_that_is_not_whole_replaces_nothing(services: Any, bulksms: Run, tmp_path: Path) -> None:
    serve_entries(services, fail_at=4)
    file = tmp_path / "statement.jsonl"
    file.write_text("the one of yesterday")
    assert bulksms("ledger", "export", str(file)).exit_code == 1
    assert file.read_text() == "the one of yesterday"
    assert list(tmp_path.iterdir()) == [file]


def test_a_verification_that_finds_differences_fails_the_command(services: Any, bulksms: Run) -> None:
    services.on("VerifyAccount", pb.VerifyAccountResponse(consistent=False, entries=3, differences=["entry 2: wrong"]))
    verified = bulksms("credits", "verify")
    assert (verified.exit_code, "entry 2: wrong" in verified.stdout) == (8, True)
