"""Plain Python arguments as the contract wants them: request ids, times, audiences, file pieces."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Protocol, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from bulksms.campaign.v1.contacts_pb2 import Audience, GroupSelection, ImportContactsRequest, ImportHeader
from bulksms_client.errors import FieldViolation, InvalidArgument

__all__ = ["BinaryReader", "audience", "import_requests", "names", "naming", "new_request_id", "opened", "timestamp"]


class BinaryReader(Protocol):
    """Anything that gives bytes: an open file, standard input, a response's body."""

    def read(self, size: int, /) -> bytes: ...


RequestT = TypeVar("RequestT", bound=Message)

# The contract allows 1 MiB; a quarter keeps progress smooth and three pieces in flight small.
PIECE_BYTES = 256 * 1024


def new_request_id(given: str | None) -> str:
    """The caller's request id, else a fresh one: one logical call, however often it is repeated."""
    return given or str(uuid.uuid4())


def naming(request: RequestT, **ids: str | None) -> RequestT:
    """The request, naming what it is about by one of several ids: ours first, then the caller's own.

    Raises InvalidArgument unless exactly one of them is given.
    """
    given = {field: value for field, value in ids.items() if value is not None}
    if len(given) != 1:
        field, *others = ids
        cure = f"must be given, or {' or '.join(others)}; not both"
        raise InvalidArgument(f"{field} {cure}", field_violations=[FieldViolation(field, cure)])
    for field, value in given.items():
        setattr(request, field, value)
    return request


def timestamp(field: str, when: datetime | None) -> Timestamp | None:
    """An aware datetime as a protobuf timestamp; None stays None. Raises InvalidArgument for a naive one."""
    if when is None:
        return None
    if when.tzinfo is None:
        cure = "must have a time zone, e.g. datetime(…, tzinfo=UTC)"
        raise InvalidArgument(f"{field} {cure}", field_violations=[FieldViolation(field, cure)])
    converted = Timestamp()
    converted.FromDatetime(when)
    return converted


def names(field: str, given: Iterable[str]) -> list[str]:
    """A list of names. Raises InvalidArgument for a single string, which would be taken letter by letter."""
    if isinstance(given, str):
        cure = f'must be a list of names, e.g. ["{given}"]'
        raise InvalidArgument(f"{field} {cure}", field_violations=[FieldViolation(field, cure)])
    return list(given)


def audience(groups: Iterable[str], *, all_contacts: bool, exclude_groups: Iterable[str]) -> Audience:
    """Who a campaign goes to. Raises InvalidArgument for both groups and all contacts; more is the service's to say."""
    wanted, without = names("groups", groups), names("exclude_groups", exclude_groups)
    if all_contacts and wanted:
        cure = "must not be given together with all_contacts"
        raise InvalidArgument(f"groups {cure}", field_violations=[FieldViolation("groups", cure)])
    if all_contacts:
        return Audience(all_contacts=True, exclude_groups=without)
    return Audience(groups=GroupSelection(names=wanted), exclude_groups=without)


def opened(file: PathLike[str] | str | BinaryReader) -> AbstractContextManager[BinaryReader]:
    """A file to read bytes from: a path is opened and closed again, a file stays the caller's."""
    if isinstance(file, (str, PathLike)):
        return Path(file).open("rb")
    return nullcontext(file)


def import_requests(
    header: ImportHeader, file: BinaryReader, on_progress: Callable[[int], None] | None
) -> Iterator[ImportContactsRequest]:
    """The stream of an import: the header, then the file piece by piece; one piece is held at a time.

    `on_progress` gets the bytes handed over so far, each time the service has taken a piece.
    """
    yield ImportContactsRequest(header=header)
    handed_over = 0
    while piece := file.read(PIECE_BYTES):
        if not isinstance(piece, bytes):  # what the annotation says, a caller may not
            raise TypeError("the file gives text: open it in binary mode, open(path, 'rb')")
        yield ImportContactsRequest(data=piece)
        handed_over += len(piece)
        if on_progress is not None:
            on_progress(handed_over)
