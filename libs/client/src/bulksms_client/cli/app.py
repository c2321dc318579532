"""The root of the `bulksms` command: global options, which may stand anywhere, and what failures become."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bulksms_client.cli import campaign, contacts, credits, ledger, message, queue, stopping  # noqa: A004
from bulksms_client.cli.failures import ExitCode, exit_code, show_failure
from bulksms_client.cli.output import Output, console
from bulksms_client.cli.session import Session
from bulksms_client.errors import BulkSmsError
from bulksms_client.options import TlsOptions

__all__ = ["app", "main"]

_HELP = """Send SMS campaigns: contacts, credits, campaigns, single messages, and the queue behind them.

Settings come from options, else BULKSMS_* variables (CAMPAIGN, LEDGER, DISPATCHER: host:port; TENANT; OPERATOR;
TIMEOUT; TLS_CA, TLS_CERT, TLS_KEY, TLS_SERVER_NAME), else the TOML file that BULKSMS_CONFIG names. Global options may
stand anywhere on the line.
"""
_EPILOG = (
    "Exit codes: 0 done, 1 internal or unexpected, 2 usage or settings, 3 invalid argument, 4 not found, "
    "5 wrong state, 6 credits or subscription, 7 overloaded, unavailable or too late, 8 a proof that does not hold, "
    "130 interrupted."
)


class RootGroup(TyperGroup):
    """The root command: takes global options wherever they stand, and turns errors into a block and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _globals_first(self.params, args))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BulkSmsError as error:
            show_failure(error, as_json=isinstance(ctx.obj, Session) and ctx.obj.output.as_json)
            raise typer.Exit(exit_code(error)) from error
        except KeyboardInterrupt as interrupt:
            console(stderr=True).print("interrupted; what was under way goes on in the services")
            raise typer.Exit(ExitCode.INTERRUPTED) from interrupt


def _print_version(wanted: bool) -> None:  # noqa: FBT001  # typer's way to call it
    if wanted:
        typer.echo(f"bulksms {version('bulksms-client')}")
        raise typer.Exit


app = typer.Typer(
    name="bulksms",
    cls=RootGroup,
    help=_HELP,
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # they hold phone numbers and texts
)
app.add_typer(contacts.app, name="contacts")
app.add_typer(credits.app, name="credits")
app.add_typer(ledger.app, name="ledger")
app.add_typer(campaign.app, name="campaign")
app.add_typer(message.app, name="message")
app.add_typer(queue.app, name="queue")
app.command()(stopping.stop)
app.command()(stopping.go)


@app.callback()
def root(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(help="The tenant to act for.")] = None,
    campaign_address: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="The campaign service.")] = None,
    ledger_address: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="The ledger.")] = None,
    dispatcher_address: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="The dispatcher.")] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Encrypt; PEM of the authority that signed the services.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM of our certificate (mutual TLS).")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM of its key.")] = None,
    tls_server_name: Annotated[str, typer.Option(metavar="NAME", help="Name the services' certificate is for.")] = "",
    timeout: Annotated[float | None, typer.Option(min=0.001, metavar="SECONDS", help="Deadline of one call.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document (streams: JSON lines) and no more.")
    ] = False,
    show_version: Annotated[  # noqa: ARG001  # acts by its callback
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    encrypted = tls_ca or tls_cert or tls_key
    session = Session(
        Output(as_json=as_json),
        tenant=tenant,
        addresses={"campaign": campaign_address, "ledger": ledger_address, "dispatcher": dispatcher_address},
        tls=TlsOptions(ca=tls_ca, cert=tls_cert, key=tls_key, server_name=tls_server_name) if encrypted else None,
        timeout=timeout,
    )
    context.obj = session
    context.call_on_close(session.close)


def main() -> None:
    """Run the command."""
    app()


def _globals_first(parameters: Iterable[Any], arguments: list[str]) -> list[str]:
    """The same arguments with global options moved to the front, where typer looks for them; `--` ends the search."""
    own = {name: parameter.is_flag for parameter in parameters for name in parameter.opts if name.startswith("--")}
    first: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        name, given, _ = word.partition("=")
        if word == "--":
            rest += [word, *words]
        elif name not in own or name == "--help":
            rest.append(word)
        else:
            first.append(word)
            if not own[name] and not given:
                value = next(words, None)
                if value is None:
                    raise typer.BadParameter("it needs a value", param_hint=name)
                first.append(value)
    return first + rest
