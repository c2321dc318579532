"""`bulksms campaign`: write, preview and schedule campaigns; sending and following them is in `sending`."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms.types.v1 import types_pb2
from bulksms_client.cli import sending, views
from bulksms_client.cli.arguments import (
    AllContacts,
    CampaignId,
    Etag,
    ExcludeGroups,
    ExternalId,
    Groups,
    Limit,
    MessageClass,
    NewExternalId,
    RequestId,
    choice,
    choices,
    moment,
)
from bulksms_client.cli.plain import plain
from bulksms_client.cli.session import session_of

__all__ = ["app"]

app = typer.Typer(name="campaign", help="A text for an audience, from draft to delivery.", no_args_is_help=True)

Priority = Annotated[
    int | None,
    typer.Option(parser=choice(types_pb2.Priority), metavar=choices(types_pb2.Priority), help="Queue lane."),
]
NotAfter = Annotated[
    datetime | None,
    typer.Option(parser=moment, metavar="TIME", help="Send nothing of it after that (ISO 8601 with zone)."),
]
TextFile = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, readable=True, metavar="FILE", help="Read the text from a file (UTF-8)."),
]


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="A name for people.")],
    sender: Annotated[str, typer.Option(help="3 to 11 letters and digits, or 3 to 14 digits.")],
    text: Annotated[
        str | None, typer.Option(help="The text; {{first_name}} and {{last_name|friend}} are filled in.")
    ] = None,
    text_file: TextFile = None,
    group: Groups = None,
    all_contacts: AllContacts = False,
    exclude_group: ExcludeGroups = None,
    priority: Priority = None,
    message_class: MessageClass = None,
    not_after: NotAfter = None,
    external_id: NewExternalId = "",
    request_id: RequestId = None,
) -> None:
    """Make a draft."""
    session = session_of(context)
    if (text is None) == (text_file is None):
        raise typer.BadParameter("give the text either as --text or as --text-file")
    made = session.client.campaigns.create(
        name=name,
        text=_text(text, text_file) or "",
        sender=sender,
        groups=group or (),
        all_contacts=all_contacts,
        exclude_groups=exclude_group or (),
        priority=types_pb2.Priority.ValueType(priority or 0),
        message_class=types_pb2.MessageClass.ValueType(message_class or 0),
        not_after=not_after,
        external_id=external_id,
        request_id=request_id,
    )
    session.output.record(made, views.CAMPAIGN)


@app.command()
def update(
    context: typer.Context,
    campaign_id: CampaignId = None,
    external_id: ExternalId = None,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    sender: Annotated[str | None, typer.Option(help="New sender.")] = None,
    text: Annotated[str | None, typer.Option(help="New text.")] = None,
    text_file: TextFile = None,
    group: Groups = None,
    all_contacts: AllContacts = False,
    exclude_group: ExcludeGroups = None,
    priority: Priority = None,
    message_class: MessageClass = None,
    not_after: NotAfter = None,
    etag: Etag = "",
) -> None:
    """Change a campaign that was not enqueued yet. The audience changes as a whole."""
    session = session_of(context)
    changed = session.client.campaigns.update(
        campaign_id,
        external_id=external_id,
        etag=etag,
        name=name,
        text=_text(text, text_file),
        sender=sender,
        groups=group,
        all_contacts=all_contacts,
        exclude_groups=exclude_group or (),
        priority=types_pb2.Priority.ValueType(priority or 0),
        message_class=types_pb2.MessageClass.ValueType(message_class or 0),
        not_after=not_after,
    )
    session.output.record(changed, views.CAMPAIGN)


@app.command()
def get(context: typer.Context, campaign_id: CampaignId = None, external_id: ExternalId = None) -> None:
    """Show a campaign."""
    session = session_of(context)
    session.output.record(session.client.campaigns.get(campaign_id, external_id=external_id), views.CAMPAIGN)


@app.command("list")
def list_(
    context: typer.Context,
    state: Annotated[
        int | None, typer.Option(parser=choice(pb.CampaignState), metavar=choices(pb.CampaignState), help="Only those.")
    ] = None,
    limit: Limit = None,
) -> None:
    """List campaigns, newest first."""
    session = session_of(context)
    found = session.client.campaigns.list(state=pb.CampaignState.ValueType(state or 0))
    session.output.rows(islice(found, limit), views.CAMPAIGN_ROW, empty="no campaigns")


@app.command()
def delete(
    context: typer.Context, campaign_id: CampaignId = None, external_id: ExternalId = None, etag: Etag = ""
) -> None:
    """Delete a draft."""
    session = session_of(context)
    deleted = session.client.campaigns.delete(campaign_id, external_id=external_id, etag=etag)
    session.output.sentence({"deleted": deleted}, "deleted" if deleted else "there was no such campaign")


@app.command()
def preview(
    context: typer.Context,
    campaign_id: CampaignId = None,
    external_id: ExternalId = None,
    samples: Annotated[int, typer.Option(min=1, max=20, help="Rendered messages to show.")] = 3,
) -> None:
    """Count the audience, parts and credits, and show what would be sent. Nothing is changed."""
    session = session_of(context)
    response = session.client.campaigns.preview(campaign_id, external_id=external_id, samples=samples)
    session.output.record(response, views.PREVIEW)
    session.output.table((plain(sample) for sample in response.samples), views.SAMPLE, title="samples")


@app.command()
def schedule(
    context: typer.Context,
    campaign_id: CampaignId = None,
    external_id: ExternalId = None,
    at: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="When: ISO 8601 with a time zone.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take the schedule back.")] = False,
) -> None:
    """Have a draft sent by itself at a time, or take that back."""
    session = session_of(context)
    if (at is None) == (not clear):
        raise typer.BadParameter("give either --at TIME or --clear")
    campaigns = session.client.campaigns
    changed = (
        campaigns.unschedule(campaign_id, external_id=external_id)
        if at is None
        else campaigns.schedule(campaign_id, external_id=external_id, at=at)
    )
    session.output.record(changed, views.CAMPAIGN)


app.add_typer(sending.app)  # without a name: its commands are those of `campaign`, too


def _text(text: str | None, text_file: Path | None) -> str | None:
    if text_file is None:
        return text
    try:
        # Editors end a file with a line break that nobody means to send.
        return text_file.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{text_file} is not UTF-8 text", param_hint="--text-file") from error
