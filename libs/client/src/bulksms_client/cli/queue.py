"""`bulksms queue`: what operators see of batches, attempts and pacing, and what they may do."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import Annotated

import typer

from bulksms.dispatcher.v1 import queue_pb2 as pb
from bulksms_client.cli import views
from bulksms_client.cli.arguments import Limit, RequestId, choice, choices, moment
from bulksms_client.cli.plain import plain
from bulksms_client.cli.session import Session, session_of

__all__ = ["app"]

app = typer.Typer(name="queue", help="Batches on their way to the provider.", no_args_is_help=True)

AllTenants = Annotated[bool, typer.Option("--all-tenants", help="Not only the tenant's own.")]
BatchId = Annotated[str, typer.Argument(metavar="BATCH_ID", help="The batch's id.")]


@app.command()
def stats(context: typer.Context, all_tenants: AllTenants = False) -> None:
    """Show what holds sending, age and rate, and depth by state and lane."""
    session = session_of(context)
    response = session.client.queue.stats(tenant_id=_tenant(session, all_tenants=all_tenants))
    session.output.table((plain(stop) for stop in response.stops), views.STOP, title="stops" if response.stops else "")
    session.output.table((plain(hold) for hold in response.holds), views.HOLD, title="holds" if response.holds else "")
    session.output.record(response, views.QUEUE)
    session.output.table((plain(lane) for lane in response.lanes), views.LANE, title="lanes" if response.lanes else "")


@app.command()
def batches(
    context: typer.Context,
    campaign: Annotated[str, typer.Option(metavar="CAMPAIGN_ID", help="Only this campaign's.")] = "",
    state: Annotated[
        int | None, typer.Option(parser=choice(pb.BatchState), metavar=choices(pb.BatchState), help="Only those.")
    ] = None,
    all_tenants: AllTenants = False,
    limit: Limit = None,
) -> None:
    """List batches, newest first."""
    session = session_of(context)
    found = session.client.queue.batches(
        tenant_id=_tenant(session, all_tenants=all_tenants),
        campaign_id=campaign,
        state=pb.BatchState.ValueType(state or 0),
    )
    session.output.rows(islice(found, limit), views.BATCH_ROW, empty="no batches")


@app.command()
def batch(context: typer.Context, batch_id: BatchId) -> None:
    """Show one batch with its attempts."""
    session = session_of(context)
    response = session.client.queue.batch(batch_id)
    session.output.record(response, views.BATCH_WITH_ATTEMPTS)
    session.output.table((plain(attempt) for attempt in response.attempts), views.ATTEMPT, title="attempts")


@app.command()
def dead(context: typer.Context, all_tenants: AllTenants = False, limit: Limit = None) -> None:
    """List batches that ran out of attempts, newest first."""
    session = session_of(context)
    found = session.client.queue.dead(tenant_id=_tenant(session, all_tenants=all_tenants))
    session.output.rows(islice(found, limit), views.BATCH_ROW, empty="no dead batches")


@app.command()
def resolve(
    context: typer.Context,
    batch_id: BatchId,
    resolution: Annotated[
        int,
        typer.Argument(parser=choice(pb.Resolution), metavar=choices(pb.Resolution), help="What the provider did."),
    ],
    evidence: Annotated[str, typer.Option(help="Where that is known from, for the audit.")],
    request_id: RequestId = None,
) -> None:
    """Record an operator's statement about an ambiguous batch."""
    session = session_of(context)
    resolved = session.client.queue.resolve(
        batch_id, pb.Resolution.ValueType(resolution), evidence=evidence, request_id=request_id
    )
    session.output.record(resolved, views.BATCH)


@app.command()
def resolve_many(
    context: typer.Context,
    resolution: Annotated[
        int,
        typer.Argument(parser=choice(pb.Resolution), metavar=choices(pb.Resolution), help="What the provider did."),
    ],
    evidence: Annotated[str, typer.Option(help="Where that is known from, for the audit.")],
    campaign: Annotated[str, typer.Option(metavar="CAMPAIGN_ID", help="Only this campaign's.")] = "",
    account: Annotated[str, typer.Option(metavar="ACCOUNT", help="Only what this traffic account sent.")] = "",
    since: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="Only those armed at this time or later.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="Only those armed before this time.")
    ] = None,
    http_status: Annotated[int | None, typer.Option("--status", help="Only those answered with this status.")] = None,
    all_tenants: AllTenants = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: what is counted is done.")] = False,
    request_id: RequestId = None,
) -> None:
    """Record an operator's statement about many ambiguous batches: they are counted first, then confirmed."""
    session = session_of(context)
    selection = pb.BatchSelection(
        tenant_id=_tenant(session, all_tenants=all_tenants),
        campaign_id=campaign,
        traffic_account_id=account,
        http_status=http_status,
    )
    if since is not None:
        selection.armed_from.FromDatetime(since)
    if until is not None:
        selection.armed_until.FromDatetime(until)
    known = pb.Resolution.ValueType(resolution)
    plan = session.client.queue.preview_resolution(selection, known)
    if not session.output.as_json:
        session.output.record(plan, views.PLAN)
        excluded = map(plain, plan.excluded)
        session.output.table(excluded, views.EXCLUDED, title="left out" if plan.excluded else "")
    if not plan.batches:
        session.output.sentence(plain(plan), "nothing of this can be resolved so")
        return
    if not yes:
        typer.confirm(f"Resolve {plan.batches} batches as {pb.Resolution.Name(known)[11:]}?", abort=True, err=True)
    resolved = session.client.queue.resolve_planned(plan.token, evidence=evidence, request_id=request_id)
    session.output.record(resolved, views.RESOLVED)


@app.command()
def limits(context: typer.Context) -> None:
    """List the rate limits in force."""
    session = session_of(context)
    session.output.rows(session.client.queue.rate_limits(), views.RATE_LIMIT, empty="no limits")


@app.command()
def republish(
    context: typer.Context,
    since: Annotated[
        datetime,
        typer.Option(parser=moment, metavar="TIME", help="What was reported from then on (ISO 8601 with zone)."),
    ],
    reason: Annotated[str, typer.Option(help="Why, for the audit.")],
    request_id: RequestId = None,
) -> None:
    """Report results once more to a campaign service whose database was set back."""
    session = session_of(context)
    response = session.client.queue.republish(since, reason=reason, request_id=request_id)
    session.output.record(response, views.REPUBLISHED)


def _tenant(session: Session, *, all_tenants: bool) -> str:
    return "" if all_tenants else session.client.tenant_id
