"""`bulksms stop` and `bulksms go`: an operator's order that nothing be sent, and its end."""

from __future__ import annotations

from typing import Annotated

import typer

from bulksms.dispatcher.v1 import queue_pb2 as pb
from bulksms.types.v1 import types_pb2
from bulksms_client.cli import views
from bulksms_client.cli.arguments import MessageClass, RequestId, choice, choices
from bulksms_client.cli.plain import plain
from bulksms_client.cli.session import session_of

__all__ = ["go", "stop"]

Scope = Annotated[
    int, typer.Argument(parser=choice(pb.StopScope), metavar=choices(pb.StopScope), help="Whose sending.")
]
Key = Annotated[
    str, typer.Argument(metavar="[TENANT|ACCOUNT]", help="Which tenant or traffic account; nothing for all.")
]
Reason = Annotated[str, typer.Option(help="Why, for the audit and for who wonders.")]


def stop(
    context: typer.Context,
    scope: Scope,
    reason: Reason,
    key: Key = "",
    message_class: MessageClass = None,
    request_id: RequestId = None,
) -> None:
    """Stop sending at once, for a tenant, a traffic account or all, until `bulksms go`."""
    session = session_of(context)
    response = session.client.queue.stop(
        pb.StopScope.ValueType(scope),
        key,
        reason=reason,
        message_class=types_pb2.MessageClass.ValueType(message_class or 0),
        request_id=request_id,
    )
    session.output.record(response, views.STOPPED)


def go(
    context: typer.Context,
    scope: Scope,
    reason: Reason,
    key: Key = "",
    message_class: MessageClass = None,
    request_id: RequestId = None,
) -> None:
    """End a stop, named as it was made, and list those that are left."""
    session = session_of(context)
    left = session.client.queue.resume(
        pb.StopScope.ValueType(scope),
        key,
        reason=reason,
        message_class=types_pb2.MessageClass.ValueType(message_class or 0),
        request_id=request_id,
    )
    session.output.rows((plain(one) for one in left), views.STOP, empty="nothing is stopped any more")
