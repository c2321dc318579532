"""Imports: a file of any size goes over in pieces, whole or not at all."""

from __future__ import annotations

import asyncio
import io
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from bulksms.campaign.v1 import contacts_pb2 as pb
from bulksms_client import AsyncClient, Client, DeadlineExceeded, InvalidArgument, Unavailable

MEBIBYTE = 1024 * 1024


class Received:
    """What an import handler saw: the header, the sizes of the pieces, and whether the stream ended well."""

    def __init__(self) -> None:
        self.header: pb.ImportHeader | None = None
        self.sizes: list[int] = []
        self.data = b""
        self.complete = False

    def __call__(self, requests: Any, _context: grpc.ServicerContext) -> pb.ImportContactsResponse:
        for request in requests:
            if request.WhichOneof("part") == "header":
                self.header = request.header
                continue
            self.sizes.append(len(request.data))
            if len(self.data) < MEBIBYTE:
                self.data += request.data
        self.complete = True
        assert self.header is not None
        return pb.ImportContactsResponse(import_id=self.header.request_id, lines=len(self.sizes))


class Zeros(io.BufferedIOBase):
    """A file of so many bytes that takes no memory."""

    def __init__(self, size: int) -> None:
        self.left = size

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        taken = self.left if size is None or size < 0 else min(size, self.left)
        self.left -= taken
        return bytes(taken)


class Torn(io.BytesIO):
    """A file whose disk fails after the first piece."""

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(size)
        if not piece:
            raise OSError(5, "Input/output error")
        return piece


@pytest.fixture
def received(services: Any) -> Received:
    handler = Received()
    services.on("ImportContacts", handler)
    return handler


def test_a_file_goes_over_with_its_header_first(client: Client, received: Received, tmp_path: Path) -> None:
    path = tmp_path / "contacts.csv"
    path.write_bytes("phone,name\n6912345678,Ελένη\n".encode())
    answer = client.contacts.import_csv(path, region="GR", groups=["vip"])
    assert received.header is not None
    assert (received.header.tenant_id, received.header.default_region) == ("acme", "GR")
    assert list(received.header.groups) == ["vip"]
    assert received.data == path.read_bytes()
    assert answer.import_id == received.header.request_id


def test_an_empty_file_is_the_services_to_refuse(client: Client, received: Received) -> None:
    client.contacts.import_csv(io.BytesIO(b""))
    assert received.complete
    assert received.sizes == []


def test_ten_megabytes_take_a_bounded_share_of_memory(client: Client, received: Received) -> None:
    progress: list[int] = []
    tracemalloc.start()
    try:
        client.contacts.import_csv(Zeros(10 * MEBIBYTE), on_progress=progress.append)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(received.sizes) == 10 * MEBIBYTE
    assert max(received.sizes) == 256 * 1024
    assert progress == [256 * 1024 * (at + 1) for at in range(40)]
    assert peak < 6 * MEBIBYTE  # both ends of the stream, and the mebibyte that the test keeps


def test_a_refusal_ends_the_upload_early(services: Any, client: Client, refuse: Callable[..., Any]) -> None:
    services.on("ImportContacts", refuse(grpc.StatusCode.INVALID_ARGUMENT, "CSV_HEADER", "no phone column"))
    endless = Zeros(10_000 * MEBIBYTE)
    with pytest.raises(InvalidArgument, match="no phone column"):
        client.contacts.import_csv(endless)
    assert endless.left > 9_000 * MEBIBYTE


def test_a_file_that_cannot_be_read_to_its_end_is_never_taken_for_a_whole_one(
    client: Client, received: Received
) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        client.contacts.import_csv(Torn(b"phone\n" + b"x" * MEBIBYTE))
    assert not received.complete


def test_a_file_opened_as_text_is_explained(client: Client, received: Received) -> None:
    with pytest.raises(TypeError, match="binary mode"):
        client.contacts.import_csv(io.StringIO("phone\n"))  # type: ignore[arg-type]
    assert not received.complete


def test_a_stream_that_broke_is_not_begun_again_by_itself(services: Any, client: Client) -> None:
    def breaks(requests: Any, context: grpc.ServicerContext) -> Any:
        next(requests)
        context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")

    services.on("ImportContacts", breaks)
    with pytest.raises(Unavailable):
        client.contacts.import_csv(io.BytesIO(b"phone\n"))
    assert len(services.calls) == 1


def test_an_import_has_a_deadline_too(services: Any, client: Client) -> None:
    def never_reads(_requests: Any, context: grpc.ServicerContext) -> Any:
        over = threading.Event()
        context.add_callback(over.set)
        over.wait(10)
        return pb.ImportContactsResponse()

    services.on("ImportContacts", never_reads)
    with pytest.raises(DeadlineExceeded):
        client.contacts.import_csv(Zeros(100 * MEBIBYTE), timeout=0.3)


async def test_asyncio_imports_are_the_same(
    services: Any, addresses: dict[str, Any], received: Received, refuse: Callable[..., Any]
) -> None:
    async with AsyncClient(**addresses, tenant_id="acme") as client:
        progress: list[int] = []
        await client.contacts.import_csv(Zeros(MEBIBYTE), on_progress=progress.append)
        assert sum(received.sizes) == MEBIBYTE
        assert progress[-1] == MEBIBYTE
        with pytest.raises(OSError, match="Input/output error"):
            await client.contacts.import_csv(Torn(b"x" * MEBIBYTE))
        services.on("ImportContacts", refuse(grpc.StatusCode.INVALID_ARGUMENT, "CSV_HEADER", "no phone column"))
        endless = Zeros(10_000 * MEBIBYTE)
        with pytest.raises(InvalidArgument, match="no phone column"):
            await client.contacts.import_csv(endless)
        assert endless.left > 9_000 * MEBIBYTE


async def test_a_cancelled_asyncio_import_ends_the_call(services: Any, addresses: dict[str, Any]) -> None:
    begun, over = threading.Event(), threading.Event()

    def never_answers(_requests: Any, context: grpc.ServicerContext) -> Any:
        context.add_callback(over.set)
        begun.set()
        over.wait(10)

    services.on("ImportContacts", never_answers)
    async with AsyncClient(**addresses, tenant_id="acme") as client:
        importing = asyncio.create_task(client.contacts.import_csv(Zeros(100 * MEBIBYTE)))
        assert await asyncio.to_thread(begun.wait, 5)
        importing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await importing
        assert await asyncio.to_thread(over.wait, 5)
