"""`bulksms campaign`: send, follow and steer campaigns, and see what became of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import typer

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms_client.cli import views
from bulksms_client.cli.arguments import CampaignId, ExternalId, Limit, RequestId, choice, choices
from bulksms_client.cli.plain import Document, plain
from bulksms_client.cli.session import session_of
from bulksms_client.cli.watching import show_progress

__all__ = ["app"]

app = typer.Typer()

UntilDelivered = Annotated[
    bool, typer.Option("--until-delivered", help="Go on until no recipient awaits a final report.")
]
Interval = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Between two lines, when not in a terminal.")]


@app.command()
def send(
    context: typer.Context,
    campaign_id: CampaignId = None,
    external_id: ExternalId = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until it ended.")] = False,
    until_delivered: UntilDelivered = False,
    interval: Interval = 2.0,
    request_id: RequestId = None,
) -> None:
    """Reserve the credits and start sending. With --watch, --json prints the response and then a line per status."""
    session = session_of(context)
    response = session.client.campaigns.enqueue(campaign_id, external_id=external_id, request_id=request_id)
    if not (watch or until_delivered):
        session.output.record(response, views.ENQUEUED)
        return
    session.output.line(response)
    session.output.note(f"sending: recipients {response.created:,}  batches {response.enqueued_jobs:,}")
    statuses = session.client.campaigns.watch(campaign_id, external_id=external_id, until_delivered=until_delivered)
    show_progress(session.output, statuses, interval_seconds=interval)


@app.command()
def watch(
    context: typer.Context,
    campaign_id: CampaignId = None,
    external_id: ExternalId = None,
    until_delivered: UntilDelivered = False,
    interval: Interval = 2.0,
) -> None:
    """Follow a campaign until it ended."""
    session = session_of(context)
    statuses = session.client.campaigns.watch(campaign_id, external_id=external_id, until_delivered=until_delivered)
    show_progress(session.output, statuses, interval_seconds=interval)


@app.command()
def status(context: typer.Context, campaign_id: CampaignId = None, external_id: ExternalId = None) -> None:
    """Show state, counters and rate."""
    session = session_of(context)
    session.output.record(session.client.campaigns.status(campaign_id, external_id=external_id), views.STATUS)


@app.command()
def pause(context: typer.Context, campaign_id: CampaignId = None, external_id: ExternalId = None) -> None:
    """Stop new sends within a second."""
    session = session_of(context)
    session.output.record(session.client.campaigns.pause(campaign_id, external_id=external_id), views.CAMPAIGN)


@app.command()
def resume(context: typer.Context, campaign_id: CampaignId = None, external_id: ExternalId = None) -> None:
    """Go on with a paused campaign."""
    session = session_of(context)
    session.output.record(session.client.campaigns.resume(campaign_id, external_id=external_id), views.CAMPAIGN)


@app.command()
def cancel(
    context: typer.Context,
    campaign_id: CampaignId = None,
    external_id: ExternalId = None,
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "",
) -> None:
    """Stop a campaign for good; what was not sent is cancelled and its credits released."""
    session = session_of(context)
    session.output.record(
        session.client.campaigns.cancel(campaign_id, external_id=external_id, reason=reason), views.CAMPAIGN
    )


@app.command()
def retry_failed(
    context: typer.Context, campaign_id: CampaignId = None, external_id: ExternalId = None, request_id: RequestId = None
) -> None:
    """Send again to the failed recipients of an ended campaign."""
    session = session_of(context)
    session.output.record(
        session.client.campaigns.retry_failed(campaign_id, external_id=external_id, request_id=request_id),
        views.ENQUEUED,
    )


@app.command()
def recipients(
    context: typer.Context,
    campaign_id: CampaignId = None,
    external_id: ExternalId = None,
    status: Annotated[
        int | None,
        typer.Option(parser=choice(pb.RecipientStatus), metavar=choices(pb.RecipientStatus), help="Only those."),
    ] = None,
    enqueue: Annotated[
        int | None, typer.Option(min=1, metavar="NUMBER", help="As of this enqueue, also those sent to again later.")
    ] = None,
    mask_phones: Annotated[bool, typer.Option("--mask-phones", help="For screens that others see.")] = False,
    limit: Limit = None,
) -> None:
    """List recipients in phone order. The numbers are the tenant's own data and shown in full."""
    session = session_of(context)
    found = session.client.campaigns.recipients(
        campaign_id,
        external_id=external_id,
        status=pb.RecipientStatus.ValueType(status or 0),
        enqueue_number=enqueue,
    )
    shown: Iterator[Document] = map(plain, islice(found, limit))
    if mask_phones:
        shown = map(_masked, shown)
    session.output.rows(shown, views.RECIPIENT, empty="no recipients")


@app.command()
def events(
    context: typer.Context, campaign_id: CampaignId = None, external_id: ExternalId = None, limit: Limit = None
) -> None:
    """List what happened to a campaign, oldest first."""
    session = session_of(context)
    found = session.client.campaigns.events(campaign_id, external_id=external_id)
    session.output.rows(islice(found, limit), views.EVENT, empty="no events")


@app.command()
def recount(context: typer.Context, campaign_id: CampaignId = None, external_id: ExternalId = None) -> None:
    """Count the recipients' rows and compare them with the counters."""
    session = session_of(context)
    response = session.client.campaigns.recount(campaign_id, external_id=external_id)
    session.output.record(response, views.RECOUNT)
    figures = [{"figures": "kept", **plain(response.kept)}, {"figures": "counted", **plain(response.counted)}]
    session.output.table(figures, views.RECOUNT_ROW, title="counters")


def _masked(recipient: Document) -> Document:
    phone = str(recipient["phone"])
    return {**recipient, "phone": phone[:3] + "•" * max(len(phone) - 5, 0) + phone[-2:]}
