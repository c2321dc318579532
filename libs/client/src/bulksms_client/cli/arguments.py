"""Words on the command line as values: enum values, times, audiences."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import typer

from bulksms.types.v1 import types_pb2
from bulksms_client.cli.plain import short_names

__all__ = [
    "AllContacts",
    "CampaignId",
    "Etag",
    "ExcludeGroups",
    "ExternalId",
    "Groups",
    "Limit",
    "MessageClass",
    "NewExternalId",
    "RequestId",
    "choice",
    "choices",
    "moment",
    "named_by",
]


def named_by(metavar: str, text: str) -> Any:
    """The argument that names something, unless `--external-id` does."""
    return typer.Argument(metavar=metavar, help=text, callback=_one_of_two, show_default=False)


def _one_of_two(context: typer.Context, value: str | None) -> str | None:
    names = [value, context.params.get("external_id"), context.params.get("provider_message_id")]
    if sum(name is not None for name in names) != 1 and not context.resilient_parsing:
        raise typer.BadParameter("give either this or --external-id")
    return value


CampaignId = Annotated[str | None, named_by("CAMPAIGN_ID", "The campaign's id.")]
# Eager: read first, so that who checks the id knows of it.
ExternalId = Annotated[
    str | None, typer.Option("--external-id", metavar="ID", is_eager=True, help="Your own id of it, instead of ours.")
]
NewExternalId = Annotated[
    str, typer.Option("--external-id", metavar="ID", help="Your own id of it: 1 to 64 visible ASCII characters.")
]
Etag = Annotated[str, typer.Option("--etag", help="Only if it is still the one with this etag (see --json).")]
Groups = Annotated[list[str] | None, typer.Option("--group", "-g", help="Contacts of this group; repeatable.")]
AllContacts = Annotated[bool, typer.Option("--all-contacts", help="Every contact of the tenant.")]
ExcludeGroups = Annotated[
    list[str] | None, typer.Option("--exclude-group", help="But not contacts of this group; repeatable.")
]
Limit = Annotated[int | None, typer.Option("--limit", "-n", min=1, help="At most this many; all when not given.")]
RequestId = Annotated[
    str | None,
    typer.Option(
        "--request-id", metavar="UUID", help="Idempotency key: repeating a command with it does it at most once."
    ),
]


def choice(enum: Any) -> Callable[[str], int]:
    """A parser that takes an enum's short names in any case: `sent`, `not-sent`."""

    def parse(word: str | int) -> int:
        if isinstance(word, int):
            return word
        for number, name in short_names(enum.DESCRIPTOR).items():
            if number != 0 and name == word.upper().replace("-", "_"):
                return number
        raise typer.BadParameter(f"{word!r} is not one of {choices(enum)}")

    return parse


def choices(enum: Any) -> str:
    """The words `choice` takes, for the help: `sent|failed`."""
    names = short_names(enum.DESCRIPTOR)
    return "|".join(name.lower().replace("_", "-") for number, name in names.items() if number != 0)


MessageClass = Annotated[
    int | None,
    typer.Option(
        "--class",
        parser=choice(types_pb2.MessageClass),
        metavar=choices(types_pb2.MessageClass),
        help="What it is to its recipients.",
    ),
]


def moment(word: str | datetime) -> datetime:
    """A parser of ISO 8601 times with a time zone."""
    if isinstance(word, datetime):
        return word
    try:
        when = datetime.fromisoformat(word)
    except ValueError as error:
        raise typer.BadParameter(f"{word!r} is not a time like 2026-12-24T18:00:00+02:00") from error
    if when.tzinfo is None:
        raise typer.BadParameter(f"{word!r} has no time zone: add Z for UTC, or an offset like +02:00")
    return when
