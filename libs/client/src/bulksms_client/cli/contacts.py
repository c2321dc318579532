"""`bulksms contacts`: import, look up, count, opt out."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from bulksms.campaign.v1 import contacts_pb2 as pb
from bulksms_client.cli import views
from bulksms_client.cli.arguments import (
    AllContacts,
    Etag,
    ExcludeGroups,
    ExternalId,
    Groups,
    Limit,
    NewExternalId,
    RequestId,
    named_by,
)
from bulksms_client.cli.output import console
from bulksms_client.cli.plain import plain
from bulksms_client.cli.session import Session, session_of

__all__ = ["app"]

app = typer.Typer(name="contacts", help="Who can be written to, and who must not be.", no_args_is_help=True)

Phone = Annotated[str | None, named_by("PHONE", "E.164 number, e.g. +306912345678.")]
Region = Annotated[
    str, typer.Option(metavar="COUNTRY", help="Country of numbers in national form, e.g. GR; none: international only.")
]
Source = Annotated[str, typer.Option(help="Where it came from: link, support, …")]

SHOWN_LINES = 10

ProgressReport = Callable[[int], None]


@app.command("import")
def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV file; - reads standard input.")],
    region: Region = "",
    group: Groups = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Write every line not imported to this CSV file."),
    ] = None,
    request_id: RequestId = None,
) -> None:
    """Import contacts from a CSV file with a header line that names a phone column."""
    session = session_of(context)
    if report is not None and not os.access(report.parent, os.W_OK):
        raise typer.BadParameter(f"{report.parent} is not a folder that can be written to", param_hint="--report")
    with _opened(file) as binary, _progress(session, binary) as on_progress:
        response = session.client.contacts.import_csv(
            binary, region=region, groups=group or (), request_id=request_id, on_progress=on_progress
        )
    session.output.record(response, views.IMPORT)
    shown = [plain(line) for line in islice(response.lines_not_imported, SHOWN_LINES)]
    not_imported = response.duplicates + response.rejected
    if shown:
        session.output.table(shown, views.IMPORT_LINE, title="lines not imported")
    if not_imported > len(shown):
        session.output.note(f"… and {not_imported - len(shown):,} more: bulksms contacts lines {response.import_id}")
    if report is not None:
        written = _write_report(report, session.client.contacts.import_lines(response.import_id))
        session.output.note(f"all {written:,} of them are in {report}")


@app.command()
def lines(
    context: typer.Context,
    import_id: Annotated[str, typer.Argument(metavar="IMPORT_ID", help="The import's id.")],
    limit: Limit = None,
) -> None:
    """List the lines of an import that were rejected or duplicates."""
    session = session_of(context)
    found = session.client.contacts.import_lines(import_id)
    session.output.rows(islice(found, limit), views.IMPORT_LINE, empty="every line was imported")


@app.command()
def get(context: typer.Context, phone: Phone = None, external_id: ExternalId = None) -> None:
    """Show one contact."""
    session = session_of(context)
    session.output.record(session.client.contacts.get(phone, external_id=external_id), views.CONTACT)


@app.command("list")
def list_(
    context: typer.Context,
    group: Annotated[str, typer.Option("--group", "-g", help="Only contacts of this group.")] = "",
    limit: Limit = None,
) -> None:
    """List contacts in phone order."""
    session = session_of(context)
    found = session.client.contacts.list(group=group)
    session.output.rows(islice(found, limit), views.CONTACT_ROW, empty="no contacts")


@app.command()
def upsert(
    context: typer.Context,
    phone: Annotated[str, typer.Argument(metavar="PHONE", help="E.164 number, or in national form with --region.")],
    external_id: NewExternalId = "",
    first_name: Annotated[str, typer.Option()] = "",
    last_name: Annotated[str, typer.Option()] = "",
    group: Groups = None,
    region: Region = "",
    etag: Etag = "",
) -> None:
    """Create or replace one contact."""
    session = session_of(context)
    response = session.client.contacts.upsert(
        phone,
        external_id=external_id,
        first_name=first_name,
        last_name=last_name,
        groups=group or (),
        region=region,
        etag=etag,
    )
    session.output.record(response.contact, views.CONTACT)


@app.command()
def delete(context: typer.Context, phone: Phone = None, external_id: ExternalId = None) -> None:
    """Forget a contact; its opt-out stays."""
    session = session_of(context)
    deleted = session.client.contacts.delete(phone, external_id=external_id)
    session.output.sentence({"deleted": deleted}, "deleted" if deleted else "there was no such contact")


@app.command()
def count(
    context: typer.Context, group: Groups = None, all_contacts: AllContacts = False, exclude_group: ExcludeGroups = None
) -> None:
    """Count the contacts an audience would reach; every contact when no group is given."""
    session = session_of(context)
    response = session.client.contacts.count(
        groups=group or (), all_contacts=all_contacts or not group, exclude_groups=exclude_group or ()
    )
    session.output.record(response, views.COUNT)


@app.command()
def opt_out(
    context: typer.Context, phone: Phone = None, external_id: ExternalId = None, source: Source = "support"
) -> None:
    """Never write to a number again."""
    session = session_of(context)
    before = session.client.contacts.opt_out(phone, external_id=external_id, source=source)
    session.output.sentence({"already_opted_out": before}, "it had opted out before" if before else "opted out")


@app.command()
def opt_in(
    context: typer.Context, phone: Phone = None, external_id: ExternalId = None, source: Source = "support"
) -> None:
    """Take an opt-out back."""
    session = session_of(context)
    before = session.client.contacts.opt_in(phone, external_id=external_id, source=source)
    session.output.sentence({"was_opted_out": before}, "opted in" if before else "it had not opted out")


def _opened(file: Path) -> AbstractContextManager[BinaryIO]:
    if str(file) == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return file.open("rb")
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}", param_hint="FILE") from error


@contextmanager
def _progress(session: Session, file: BinaryIO) -> Iterator[ProgressReport | None]:
    """A bar on standard error, by bytes, when somebody is looking."""
    people = console(stderr=True)
    if session.output.as_json or not people.is_terminal:
        yield None
        return
    size = os.fstat(file.fileno()).st_size or None
    columns = (TextColumn("importing"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=people, transient=True) as progress:
        task = progress.add_task("importing", total=size)
        yield lambda sent: progress.update(task, completed=sent)


def _write_report(report: Path, found: Iterable[pb.ImportLine]) -> int:
    with report.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in pb.ImportLine.DESCRIPTOR.fields)
        written = 0
        for line in found:
            writer.writerow(plain(line).values())
            written += 1
    return written
