"""`bulksms message`: one text to one number."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer

from bulksms.types.v1 import types_pb2
from bulksms_client.cli import views
from bulksms_client.cli.arguments import ExternalId, Limit, MessageClass, NewExternalId, RequestId, named_by
from bulksms_client.cli.session import session_of

__all__ = ["app"]

app = typer.Typer(name="message", help="Single messages.", no_args_is_help=True)

MessageId = Annotated[str | None, named_by("MESSAGE_ID", "The message's id.")]
ProviderMessageId = Annotated[
    str | None,
    typer.Option(
        "--provider-message-id", metavar="ID", is_eager=True, help="The provider's id of any message, instead of ours."
    ),
]


@app.command()
def send(
    context: typer.Context,
    phone: Annotated[str, typer.Argument(metavar="PHONE", help="E.164 number.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text, ready to send.")],
    sender: Annotated[str, typer.Option(help="3 to 11 letters and digits, or 3 to 14 digits.")],
    external_id: NewExternalId = "",
    message_class: MessageClass = None,
    request_id: RequestId = None,
) -> None:
    """Send one text to one number, at most once."""
    session = session_of(context)
    response = session.client.messages.send(
        phone,
        text,
        sender=sender,
        external_id=external_id,
        message_class=types_pb2.MessageClass.ValueType(message_class or 0),
        request_id=request_id,
    )
    session.output.record(response.message, views.MESSAGE)


@app.command()
def get(context: typer.Context, message_id: MessageId = None, external_id: ExternalId = None) -> None:
    """Show a message."""
    session = session_of(context)
    session.output.record(session.client.messages.get(message_id, external_id=external_id), views.MESSAGE)


@app.command("list")
def list_(context: typer.Context, limit: Limit = None) -> None:
    """List single messages, newest first."""
    session = session_of(context)
    session.output.rows(islice(session.client.messages.list(), limit), views.MESSAGE_ROW, empty="no messages")


@app.command()
def refresh(
    context: typer.Context,
    message_id: MessageId = None,
    external_id: ExternalId = None,
    provider_message_id: ProviderMessageId = None,
) -> None:
    """Ask the provider for a message's status now."""
    session = session_of(context)
    refreshed = session.client.messages.refresh(
        message_id, external_id=external_id, provider_message_id=provider_message_id
    )
    session.output.record(refreshed, views.REFRESHED)
