"""Through gRPC: a server in a process of its own, called by another process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.ledger.accounts import HotAccount
from benchmarks.processes import ROOT
from benchmarks.report import Figure, Meter
from devstack.health import is_serving
from devstack.ports import accepts_connections
from devstack.serving import serving


def empty_rpc(folder: Path, *, skeleton: bool, callers: int, items: int) -> Figure:
    """The empty RPC: bare, or inside the skeleton that every service has."""
    name = "empty RPC in the services' skeleton" if skeleton else "empty RPC, bare grpc.aio"
    command = ["-m", "benchmarks.ledger.empty_server", *(["--skeleton"] if skeleton else [])]
    with _server(command, folder, {}, accepts_connections) as (pid, address):
        arguments = [address, "empty", f"--callers={callers}", f"--items={items}"]
        return _measure(f"{name}, {callers} callers", arguments, items, server=pid)


async def unary_captures(url: str, postgres: int, folder: Path, *, callers: int, items: int) -> Figure:
    """Capture, a credit at a time."""
    account = HotAccount("unary", seed=31)
    await account.open(url)
    with _ledger(url, folder) as (pid, address):
        arguments = [address, "capture", f"--callers={callers}", f"--items={items}", "--tenant=unary", "--seed=31"]
        return _measure(f"Capture, {callers} callers", arguments, items, ledger=pid, postgres=postgres)


async def batch_captures(url: str, postgres: int, folder: Path, *, callers: int, items: int) -> Figure:
    """BatchCapture of 1,000, as the dispatcher's outbox sends them."""
    account = HotAccount("batch", seed=32)
    await account.open(url)
    with _ledger(url, folder) as (pid, address):
        arguments = [address, "batch", f"--callers={callers}", f"--items={items}", "--tenant=batch", "--seed=32"]
        return _measure(f"BatchCapture of 1,000, {callers} callers", arguments, items, ledger=pid, postgres=postgres)


async def batch_authorizations(
    url: str, postgres: int, folder: Path, *, callers: int, batch: int, items: int
) -> Figure:
    """BatchAuthorize, as a dispatcher groups the attempts of its senders."""
    tenant_id, seed = f"authorize-batch-{batch}", 20_000 + batch
    account = HotAccount(tenant_id, seed)
    await account.open(url)
    with _ledger(url, folder) as (pid, address):
        arguments = [address, "authorize", f"--callers={callers}", f"--items={items}", f"--tenant={tenant_id}"]
        arguments += [f"--seed={seed}", f"--batch={batch}"]
        name = f"BatchAuthorize of {batch:,}, {callers} callers"
        return _measure(name, arguments, items, ledger=pid, postgres=postgres)


@contextmanager
def _ledger(url: str, folder: Path) -> Iterator[tuple[int, str]]:
    environment = {"DATABASE_URL": url, "LOG_LEVEL": "INFO"}  # it logs as it does in production
    with _server(["-m", "bulksms_ledger", "serve"], folder, environment, is_serving) as running:
        yield running


@contextmanager
def _server(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], ready: Callable[[int], bool]
) -> Iterator[tuple[int, str]]:
    """Its process id and its address."""
    with serving("server", arguments, folder, {"PYTHONPATH": str(ROOT), **environment}, ready) as (process, address):
        if process.pid is None:
            raise RuntimeError("a started process has an id")
        yield process.pid, address


def _measure(scenario: str, arguments: Sequence[str], items: int, **processes: int) -> Figure:
    command = [sys.executable, "-m", "benchmarks.ledger.caller", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as caller:
        if caller.stdin is None or caller.stdout is None:
            raise RuntimeError("both are pipes")
        if caller.stdout.readline() != "ready\n":
            raise RuntimeError("the calling process failed: see above")
        meter = Meter(client=caller.pid, **processes)
        caller.stdin.write("\n")
        caller.stdin.flush()
        seen = json.loads(caller.stdout.readline())
        figure = meter.figure(scenario, items)
        caller.communicate(timeout=30)
        return replace(figure, p50_ms=seen["p50_ms"], p99_ms=seen["p99_ms"])
