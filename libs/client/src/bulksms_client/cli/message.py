"""`bulksms message`: one text to one number."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer

from bulksms_client.cli import views
from bulksms_client.cli.arguments import Limit, RequestId
from bulksms_client.cli.session import session_of

__all__ = ["app"]

app = typer.Typer(name="message", help="Single messages.", no_args_is_help=True)

MessageId = Annotated[str, typer.Argument(metavar="MESSAGE_ID", help="The message's id.")]


@app.command()
def send(
    context: typer.Context,
    phone: Annotated[str, typer.Argument(metavar="PHONE", help="E.164 number.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text, ready to send.")],
    sender: Annotated[str, typer.Option(help="3 to 11 letters and digits, or 3 to 14 digits.")],
    request_id: RequestId = None,
) -> None:
    """Send one text to one number, at most once."""
    session = session_of(context)
    response = session.client.messages.send(phone, text, sender=sender, request_id=request_id)
    session.output.record(response.message, views.MESSAGE)


@app.command()
def get(context: typer.Context, message_id: MessageId) -> None:
    """Show a message."""
    session = session_of(context)
    session.output.record(session.client.messages.get(message_id), views.MESSAGE)


@app.command("list")
def list_(context: typer.Context, limit: Limit = None) -> None:
    """List single messages, newest first."""
    session = session_of(context)
    session.output.rows(islice(session.client.messages.list(), limit), views.MESSAGE_ROW, empty="no messages")


@app.command()
def refresh(context: typer.Context, message_id: MessageId) -> None:
    """Ask the provider for a message's status now."""
    session = session_of(context)
    session.output.record(session.client.messages.refresh(message_id), views.REFRESHED)
