"""`bulksms credits`: the tenant's account, balance, entries and subscription."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import Annotated

import typer

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms_client.cli import views
from bulksms_client.cli.arguments import Limit, RequestId, choice, choices, moment
from bulksms_client.cli.failures import ExitCode
from bulksms_client.cli.session import session_of

__all__ = ["app"]

app = typer.Typer(name="credits", help="What sending costs, and what pays for it.", no_args_is_help=True)

Time = Annotated[datetime | None, typer.Option(parser=moment, metavar="TIME", help="ISO 8601 with a time zone.")]


@app.command("open")
def open_(context: typer.Context) -> None:
    """Open the tenant's account; harmless when it is open already."""
    session = session_of(context)
    session.output.record(session.client.credits.open_account(), views.ACCOUNT)


@app.command()
def account(context: typer.Context) -> None:
    """Show the account: subscription and balance."""
    session = session_of(context)
    session.output.record(session.client.credits.account(), views.ACCOUNT)


@app.command()
def accounts(context: typer.Context, limit: Limit = None) -> None:
    """List every tenant's account."""
    session = session_of(context)
    session.output.rows(islice(session.client.credits.accounts(), limit), views.ACCOUNT, empty="no accounts")


@app.command()
def grant(
    context: typer.Context,
    units: Annotated[int, typer.Argument(metavar="UNITS", help="Credits to add.")],
    source_ref: Annotated[str, typer.Option(help="The purchase; it can be granted only once.")] = "",
    reason: Annotated[str, typer.Option(help="Why, for the statement.")] = "",
    expires_at: Time = None,
    request_id: RequestId = None,
) -> None:
    """Add credits."""
    session = session_of(context)
    response = session.client.credits.grant(
        units, source_ref=source_ref, reason=reason, expires_at=expires_at, request_id=request_id
    )
    session.output.record(response, views.GRANT)


@app.command()
def adjust(
    context: typer.Context,
    by: Annotated[int, typer.Option(help="Credits to add, or with a minus to take.")],
    reason: Annotated[str, typer.Option(help="Why; it stays in the entries.")],
    request_id: RequestId = None,
) -> None:
    """Correct the balance by hand."""
    session = session_of(context)
    session.output.record(session.client.credits.adjust(by, reason=reason, request_id=request_id), views.GRANT)


@app.command()
def balance(context: typer.Context, as_of: Time = None) -> None:
    """Show the balance, now or as of an instant."""
    session = session_of(context)
    session.output.record(session.client.credits.balance(as_of=as_of), views.BALANCE)


@app.command()
def entries(
    context: typer.Context,
    campaign: Annotated[str, typer.Option(metavar="CAMPAIGN_ID", help="Only this campaign's.")] = "",
    reservation: Annotated[str, typer.Option(metavar="RESERVATION_ID", help="Only this reservation's.")] = "",
    limit: Limit = None,
) -> None:
    """List the entries that explain the balance, oldest first."""
    session = session_of(context)
    found = session.client.credits.entries(campaign_id=campaign, reservation_id=reservation)
    session.output.rows(islice(found, limit), views.ENTRY, empty="no entries")


@app.command()
def reservations(context: typer.Context, limit: Limit = None) -> None:
    """List reservations, newest first."""
    session = session_of(context)
    found = session.client.credits.reservations()
    session.output.rows(islice(found, limit), views.RESERVATION, empty="no reservations")


@app.command()
def subscription(
    context: typer.Context,
    status: Annotated[
        int | None,
        typer.Argument(
            parser=choice(pb.SubscriptionStatus),
            metavar=f"[{choices(pb.SubscriptionStatus)}]",
            help="The new status; shown when not given.",
        ),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="End of the paid period; none: no end.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why it changes; required to change it.")] = "",
) -> None:
    """Show or set whether the tenant may send."""
    session = session_of(context)
    if status is None:
        session.output.record(session.client.credits.account().subscription, views.SUBSCRIPTION)
        return
    new_status = pb.SubscriptionStatus.ValueType(status)
    changed = session.client.credits.set_subscription(new_status, active_until=until, reason=reason)
    session.output.record(changed, views.SUBSCRIPTION)


@app.command()
def verify(context: typer.Context) -> None:
    """Have the ledger recompute the balances from the entries and compare. Exit code 8 when they differ."""
    session = session_of(context)
    verified = session.client.credits.verify()
    session.output.record(verified, views.VERIFICATION)
    if verified.differences:
        raise typer.Exit(ExitCode.DIFFERS)
