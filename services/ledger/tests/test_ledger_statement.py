"""A statement proves itself offline: whatever is changed in it, down to one bit, is found."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms_client.cli import app
from bulksms_client.proofs import StatementVerifier
from bulksms_client.statements import statement_lines
from servicekit.clock import ManualClock

from .ledger_support import Tenant
from .test_ledger_verification import fill

NOWHERE = {"BULKSMS_LEDGER": "127.0.0.1:1", "BULKSMS_TENANT": "acme", "BULKSMS_TIMEOUT": "1"}


async def statement(tenant: Tenant, clock: ManualClock) -> list[bytes]:
    """A statement with entries of every kind, 100 of them, and texts of several alphabets."""
    await fill(tenant, clock)
    while len(await tenant.entries()) < 100:
        await tenant.stub.GrantCredits(
            pb.GrantCreditsRequest(
                request_id=tenant.ids(), tenant_id="acme", units=3, reason='Ευχαριστούμε "πολύ" \\ 1/2 é 😀'
            )
        )
    entries = await tenant.entries()
    return [f"{line}\n".encode() for line in statement_lines("acme", entries)]


def differences(lines: list[bytes]) -> list[str]:
    verifier = StatementVerifier()
    for line in lines:
        verifier.read(line)
    return verifier.finish()


async def test_an_unchanged_statement_is_proven(tenant: Tenant, clock: ManualClock) -> None:
    lines = await statement(tenant, clock)
    assert differences(lines) == []
    assert len(lines) == 102
    assert {json.loads(line)["kind"] for line in lines[1:-1]} == {
        name.removeprefix("ENTRY_KIND_") for name in pb.EntryKind.keys()[1:]
    }
    assert differences([f"{line}\n".encode() for line in statement_lines("empty", [])]) == []


async def test_every_flipped_byte_of_100_entries_is_found(tenant: Tenant, clock: ManualClock) -> None:
    lines = await statement(tenant, clock)
    verifier = StatementVerifier()
    flipped = 0
    for number, line in enumerate(lines):
        for position, byte in enumerate(line):
            reader = dataclasses.replace(verifier, differences=[])
            reader.read(line[:position] + bytes([byte ^ 1 << position % 8]) + line[position + 1 :])
            if not reader.differences:  # the heading's tenant is the first entry's to deny
                reader.read(lines[number + 1])
            assert reader.differences, (line, position)
            flipped += 1
        verifier.read(line)
    assert verifier.finish() == []
    assert flipped > 50_000


def replaced(before: str, after: str) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [line.replace(before.encode(), after.encode(), 1) for line in lines]


CHANGES: list[tuple[Callable[[list[bytes]], list[bytes]], str]] = [
    (lambda lines: lines[:7] + lines[8:], "entry 8 where entry 7 is due"),
    (lambda lines: lines[:7] + lines[6:], "entry 6 where entry 7 is due"),
    (lambda lines: [*lines[:6], lines[7], lines[6], *lines[8:]], "entry 7 where entry 6 is due"),
    (lambda lines: lines[:-1], "the statement has no end"),
    (lambda lines: [*lines[:-2], lines[-1]], "the end names another number of entries"),
    (lambda lines: [*lines, lines[-2]], "there is more after the statement's end"),
    (lambda lines: [line.rstrip(b"\n") + b"\r\n" for line in lines], "it is not written as statements are"),
    (lambda lines: [b"\xef\xbb\xbf" + lines[0], *lines[1:]], "line 1: it is not"),
    (lambda lines: lines[1:], "line 1: its fields are not statement, tenant_id"),
    (lambda lines: [], "the statement has no end"),
    (lambda lines: [b"[" * 5000 + b"\n", *lines[1:]], "line 1: it is not JSON"),
    (lambda lines: [*lines[:3], b"null\n", *lines[4:]], "it is not written as statements are"),
    (replaced('"units":3', '"units":3.0'), "units is not of its type"),
    (replaced('"units":3', '"units":true'), "units is not of its type"),
    (replaced('"units":3', '"units":' + "9" * 5000), "it is not JSON"),
    (replaced(',"hash":"', ',"more":1,"hash":"'), "its fields are not"),
    (replaced('"created_at":"2', '"created_at":"1'), "its hash is not that of its content"),
    (replaced("-01T", "-41T"), "is not an instant"),
    (replaced(r"\"", r"\u0022"), "it is not written as statements are"),
]  # fmt: skip


async def test_whatever_is_changed_in_a_statement_is_named(tenant: Tenant, clock: ManualClock) -> None:
    lines = await statement(tenant, clock)
    for change, said in CHANGES:
        found = differences(change(lines))
        assert any(said in difference for difference in found), (said, found)


async def test_the_command_proves_a_statement_without_the_ledger(
    tenant: Tenant, clock: ManualClock, tmp_path: Path
) -> None:
    lines = await statement(tenant, clock)
    file = tmp_path / "statement.jsonl"
    file.write_bytes(b"".join(lines))
    last_hash = json.loads(lines[-1])["hash"]
    runner = CliRunner()
    proven = runner.invoke(app, ["ledger", "verify", str(file), "--hash", last_hash], env=NOWHERE)
    assert proven.exit_code == 0, proven.output
    assert "the statement of acme holds: 100 entries" in proven.stdout
    other = runner.invoke(app, ["ledger", "verify", str(file), "--hash", "00" * 32, "--json"], env=NOWHERE)
    assert (other.exit_code, json.loads(other.stdout)["holds"]) == (8, False)
    file.write_bytes(b"".join(lines).replace(b'"units":3,', b'"units":4,', 1))
    changed = runner.invoke(app, ["ledger", "verify", str(file)], env=NOWHERE)
    assert changed.exit_code == 8
    assert "DOES NOT HOLD" in changed.stdout
    missing = runner.invoke(app, ["ledger", "verify", str(tmp_path / "none.jsonl")], env=NOWHERE)
    assert (missing.exit_code, "No such file" in missing.stderr) == (3, True)
