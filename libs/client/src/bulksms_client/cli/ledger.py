"""`bulksms ledger`: statements that prove themselves: exported from the ledger, verified without it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from bulksms_client.cli.failures import ExitCode
from bulksms_client.cli.output import cell
from bulksms_client.cli.session import session_of
from bulksms_client.errors import FieldViolation, InvalidArgument
from bulksms_client.proofs import StatementVerifier
from bulksms_client.statements import LINE_BYTES_MAX, statement_lines

__all__ = ["app"]

app = typer.Typer(name="ledger", help="Statements, and their proof without the ledger.", no_args_is_help=True)

PAGE_SIZE = 1_000
STANDARD_STREAM = Path("-")


@app.command()
def export(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to write the statement; -: standard output.")
    ] = STANDARD_STREAM,
) -> None:
    """Write the account's whole statement: every entry with its hash, a JSON line each."""
    session = session_of(context)
    account = session.client.credits.account()
    entries = session.client.credits.entries(page_size=PAGE_SIZE)
    lines = statement_lines(account.tenant_id, entries)
    if file == STANDARD_STREAM:
        for line in lines:
            sys.stdout.write(line + "\n")
        return
    count = _write(file, lines) - 2
    text = f"{count:,} entries written to {file}; prove it with: bulksms ledger verify {file}"
    session.output.sentence({"file": str(file), "entries": count}, text)


@app.command()
def verify(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The statement; -: standard input.")],
    last_hash: Annotated[
        str, typer.Option("--hash", metavar="HEX", help="The last entry's hash, from elsewhere; it must agree.")
    ] = "",
) -> None:
    """Prove a statement offline: every byte, every sum and the chain of hashes. Exit code 8 when it does not hold."""
    session = session_of(context)
    verifier = StatementVerifier()
    with _reading(file) as source:
        while line := source.readline(LINE_BYTES_MAX):
            verifier.read(line)
    differences = verifier.finish()
    if last_hash and last_hash.lower() != verifier.hash:
        differences.append("the last entry's hash is not the one given with --hash")
    available, reserved, captured = verifier.balance
    document = {
        "holds": not differences,
        "tenant_id": verifier.tenant_id,
        "entries": verifier.entries,
        "available": available,
        "reserved": reserved,
        "captured": captured,
        "hash": verifier.hash,
        "differences": differences,
    }
    if differences:
        session.output.sentence(document, "\n".join(["THE STATEMENT DOES NOT HOLD", *map(cell, differences)]))
        raise typer.Exit(ExitCode.DIFFERS)
    text = (
        f"the statement of {cell(verifier.tenant_id)} holds: {verifier.entries:,} entries, {available:,} available, "
        f"{reserved:,} reserved, {captured:,} captured\nlast hash {verifier.hash}"
    )
    session.output.sentence(document, text)


def _write(file: Path, lines: Iterable[str]) -> int:
    """Write the lines; what stood in the file stays until the new statement is whole."""
    count = 0
    unfinished = file.with_name(file.name + ".part")
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as target:
            for line in lines:
                target.write(line + "\n")
                count += 1
        unfinished.replace(file)
    except OSError as error:
        raise _unusable(file, error) from error
    finally:
        unfinished.unlink(missing_ok=True)
    return count


@contextmanager
def _reading(file: Path) -> Iterator[BinaryIO]:
    if file == STANDARD_STREAM:
        yield sys.stdin.buffer
        return
    try:
        with file.open("rb") as source:
            yield source
    except OSError as error:
        raise _unusable(file, error) from error


def _unusable(file: Path, error: OSError) -> InvalidArgument:
    reason = error.strerror or str(error)
    return InvalidArgument(f"{file}: {reason}", field_violations=[FieldViolation("FILE", reason)])
