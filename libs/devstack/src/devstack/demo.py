"""The demo: a real campaign from a CSV to its delivery reports, driven by the `bulksms` command.

Everything is real but the provider, which is the simulator: 3 % of its messages come back as failed. Nothing is kept
afterwards; `make up` starts a stack that stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bulksms.campaign.v1 import contacts_pb2
from bulksms.ledger.v1 import ledger_pb2
from bulksms_client import Client
from devstack.eventually import eventually_blocking
from devstack.mitto.behaviours import Behaviour, Latency
from devstack.mitto.client import Simulator
from devstack.mitto.delivery import Delivery, Outcome
from devstack.mitto.report_posts import ReportSettings
from devstack.mitto.rules import Rule
from devstack.processes import ProcessFailed
from devstack.reconciliation import Reconciliation, reconcile
from devstack.span_store import SpanReader
from devstack.stack import Stack, StackOptions
from devstack.temporary import temporary_folder
from devstack.tracetree import TraceTree, read_trace
from devstack.traceview import render

CREDITS = 20_000
BATCH_SIZE = 500
TEXT = "Γεια σου {{first_name|φίλε}}! -20% σε όλα ως την Κυριακή. Διαγραφή: https://s.example/u"
# The provider takes this long for a batch, so that there is something to watch.
PROVIDER_SECONDS = 0.25
UNREACHABLE_SHARE = 0.03
# A report is acknowledged when it is on disk: many at a time, or the disk's latency is what one watches.
REPORT_CONNECTIONS = 64
_REPORTS_SECONDS = 60.0
_SPANS_SECONDS = 15.0
_SERVICES = {"campaign", "dispatcher", "ledger", "dlr-gateway"}


def main() -> int:
    """Run the demo; 0 when every line, recipient and credit is accounted for."""
    console = Console()
    started = time.monotonic()
    contacts = _find_contacts()
    environment = {name: {"SMS_BATCH_SIZE": str(BATCH_SIZE)} for name in ("campaign", "dispatcher")}
    console.print("[dim]starting PostgreSQL, Valkey, the services and the Mitto simulator …[/]")
    try:
        with (
            temporary_folder("demo") as folder,
            Stack(StackOptions(folder=folder / "stack", ephemeral=True, environment=environment)) as stack,
        ):
            console.print(f"[dim]ready after {time.monotonic() - started:.1f} s[/]")
            problems = _run(console, stack, contacts)
            stack.check()
    except ProcessFailed as failure:
        console.print(f"[red]{failure}[/]", soft_wrap=True, markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    for problem in problems:
        console.print(f"does not add up: {problem}", style="red")
    if not problems:
        console.print(
            f"[green]Every line, recipient and credit is accounted for.[/] "
            f"[dim]{time.monotonic() - started:.1f} s in all[/]"
        )
    return 1 if problems else 0


def _run(console: Console, stack: Stack, contacts: Path) -> list[str]:
    with Simulator(stack.simulator.address, stack.simulator.log_path) as simulator:
        simulator.set_behaviour(
            rules=[Rule(Behaviour(latency=Latency(constant_seconds=PROVIDER_SECONDS)))],
            delivery=Delivery(
                outcomes=(Outcome(("Sent", "Failure"), "Handset unreachable", share=UNREACHABLE_SHARE),),
                spread_seconds=1.0,
            ),
            reports=ReportSettings(connections=REPORT_CONNECTIONS),
        )
    shell = Shell(console, stack.client_environment | {"BULKSMS_TENANT": "demo-shop"})
    shell.show("credits", "open")
    shell.show("credits", "subscription", "active", "--reason", "demo")
    shell.show("credits", "grant", str(CREDITS), "--reason", "first purchase")
    imported = shell.show_import(contacts)
    campaign_id = shell.read(
        "campaign", "create", "--name", "Autumn sale", "--sender", "Astronote", "--group", "customers", "--text", TEXT
    )["campaign_id"]
    shell.show("campaign", "preview", campaign_id)
    shell.show("campaign", "send", campaign_id, "--watch", "--until-delivered")
    shell.show("campaign", "events", campaign_id)
    shell.show("credits", "entries", "--campaign", campaign_id)
    with Client(
        campaign=stack.address("campaign"),
        ledger=stack.address("ledger"),
        dispatcher=stack.address("dispatcher"),
        tenant_id="demo-shop",
    ) as client:
        _wait_for_reservation(client, campaign_id)
        reconciled = reconcile(client, stack.simulator.log_path, campaign_id)
        balance = client.credits.balance()
    tree = _wait_for_trace(stack, bytes.fromhex(reconciled.campaign.trace_id))
    console.rule("The campaign's trace")
    console.print(render(tree))
    console.rule("Accounts")
    missing = _SERVICES - set(tree.services)
    absent = [f"the trace has no span of {name}" for name in sorted(missing)]
    return [*reconciled.differences(), *absent, *_print_accounts(console, imported, reconciled, balance)]


class Shell:
    """Runs the `bulksms` command as a person would, and shows what was typed."""

    def __init__(self, console: Console, environment: Mapping[str, str]) -> None:
        self._console = console
        self._environment = os.environ | dict(environment)

    def show(self, *arguments: str) -> None:
        """Run a command, its output on this terminal."""
        self._announce(arguments)
        self._run(arguments, capture=False)

    def read(self, *arguments: str) -> dict[str, str]:
        """Run a command with --json and return its document."""
        self._announce(arguments)
        document: dict[str, str] = json.loads(self._run(("--json", *arguments), capture=True))
        return document

    def show_import(self, contacts: Path) -> contacts_pb2.ImportContactsResponse:
        """Import the file and return the report, read again under the same request id."""
        request_id = "00000000-0000-4000-8000-000000000001"
        arguments = ("contacts", "import", str(contacts), "--region", "GR", "--group", "customers")
        self._announce(arguments)
        self._run((*arguments, "--request-id", request_id), capture=False)
        with Client(campaign=self._environment["BULKSMS_CAMPAIGN"], tenant_id="demo-shop") as client:
            return client.contacts.import_csv(contacts, region="GR", groups=["customers"], request_id=request_id)

    def _announce(self, arguments: tuple[str, ...]) -> None:
        words = " ".join(f"'{word}'" if " " in word else word for word in arguments)
        self._console.print(f"\n$ bulksms {words}", style="bold cyan", markup=False, highlight=False, soft_wrap=True)

    def _run(self, arguments: tuple[str, ...], *, capture: bool) -> str:
        command = [str(Path(sys.executable).with_name("bulksms")), *arguments]
        done = subprocess.run(
            command, env=self._environment, stdout=subprocess.PIPE if capture else None, text=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(done.returncode)
        return done.stdout or ""


def _wait_for_reservation(client: Client, campaign_id: str) -> None:
    """The reservation is closed a moment after the campaign ended; if not, the reconciliation says so."""
    reservation_id = client.campaigns.get(campaign_id).reservation_id
    with contextlib.suppress(TimeoutError):
        eventually_blocking(
            lambda: client.credits.reservation(reservation_id).state == ledger_pb2.RESERVATION_STATE_CLOSED,
            _REPORTS_SECONDS,
            every_seconds=0.1,
        )


def _wait_for_trace(stack: Stack, trace_id: bytes) -> TraceTree:
    """Spans are exported in batches: wait until every service's have arrived, with a bound."""

    def read() -> TraceTree:
        return read_trace(SpanReader(stack.trace_store), trace_id)

    with contextlib.suppress(TimeoutError):
        eventually_blocking(lambda: set(read().services) >= _SERVICES, _SPANS_SECONDS, every_seconds=0.2)
    return read()


def _print_accounts(
    console: Console,
    imported: contacts_pb2.ImportContactsResponse,
    reconciled: Reconciliation,
    balance: ledger_pb2.Balance,
) -> list[str]:
    """Print the last table; return what does not add up."""
    statuses, reservation = reconciled.statuses(), reconciled.reservation
    untouched = balance.granted - reservation.units
    sums = [
        (
            "lines of the file",
            imported.lines,
            {"imported": imported.imported, "duplicates": imported.duplicates, "rejected": imported.rejected},
        ),
        (
            "recipients",
            len(reconciled.recipients),
            {"delivered": statuses["DELIVERED"], "failed": statuses["FAILED"]},
        ),
        ("accepted by the provider", len(reconciled.accepted), {"different recipients": len(reconciled.recipients)}),
        (
            "credits granted",
            balance.granted,
            {"captured": reservation.captured, "released": reservation.released, "never reserved": untouched},
        ),
        ("credits available", balance.available, {"released": reservation.released, "never reserved": untouched}),
    ]
    table = Table("what", "figure", "=", "made of", title_justify="left")
    table.columns[1].justify = "right"
    for name, figure, parts in sums:
        equal = figure == sum(parts.values())
        words = " + ".join(f"{value:,} {part}" for part, value in parts.items())
        table.add_row(name, f"{figure:,}", "=" if equal else "≠", words, style="" if equal else "red")
    console.print(table)
    return [
        f"{name}: {figure} is not the sum of {parts}" for name, figure, parts in sums if figure != sum(parts.values())
    ]


def _find_contacts() -> Path:
    path = Path("examples") / "contacts.csv"
    if not path.exists():
        raise SystemExit(f"{path} is not here: run the demo from the top of the checkout (make demo)")
    return path


if __name__ == "__main__":
    sys.exit(main())
