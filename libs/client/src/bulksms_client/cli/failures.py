"""What a failed command says on standard error, and the exit code it leaves."""

from __future__ import annotations

import json
import sys
from enum import IntEnum

from bulksms_client import errors
from bulksms_client.cli.output import cell, console

__all__ = ["ExitCode", "exit_code", "show_failure"]


class ExitCode(IntEnum):
    """The command's exit codes; documented in the README and in `bulksms --help`."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    INVALID_ARGUMENT = 3
    NOT_FOUND = 4
    WRONG_STATE = 5
    CREDITS = 6
    UNAVAILABLE = 7
    DIFFERS = 8
    INTERRUPTED = 130


_EXIT_CODES: dict[type[errors.BulkSmsError], ExitCode] = {
    errors.ConfigurationError: ExitCode.USAGE,
    errors.InvalidArgument: ExitCode.INVALID_ARGUMENT,
    errors.NotFound: ExitCode.NOT_FOUND,
    errors.WrongState: ExitCode.WRONG_STATE,
    errors.InsufficientCredits: ExitCode.CREDITS,
    errors.SubscriptionInactive: ExitCode.CREDITS,
    errors.Overloaded: ExitCode.UNAVAILABLE,
    errors.Unavailable: ExitCode.UNAVAILABLE,
    errors.DeadlineExceeded: ExitCode.UNAVAILABLE,
}

# What to type next, where a command is the cure.
_CURES = {
    "ACCOUNT_NOT_FOUND": "open the tenant's account: bulksms credits open",
    "INSUFFICIENT_CREDITS": "grant more: bulksms credits grant UNITS",
    "SUBSCRIPTION_INACTIVE": "activate it: bulksms credits subscription active --reason WHY",
    "EMPTY_AUDIENCE": "see whom it reaches: bulksms contacts count --group GROUP",
    "CAMPAIGN_NOT_FOUND": "see the tenant's campaigns: bulksms campaign list",
    "CAMPAIGN_STATE": "see where it is: bulksms campaign status CAMPAIGN_ID",
    "CONTACT_NOT_FOUND": "see the tenant's contacts: bulksms contacts list",
    "BATCH_NOT_FOUND": "see the batches: bulksms queue batches",
    "MESSAGE_NOT_FOUND": "see the tenant's messages: bulksms message list",
}
# Said in words already, or of no use to people.
_HIDDEN_METADATA = {"http_status"}


def exit_code(error: errors.BulkSmsError) -> ExitCode:
    """The exit code of an error: its class's, else that of a class above it."""
    return next((_EXIT_CODES[kind] for kind in type(error).__mro__ if kind in _EXIT_CODES), ExitCode.INTERNAL)


def show_failure(error: errors.BulkSmsError, *, as_json: bool) -> None:
    """One readable block: what is wrong, which field, the cure, the reason; with `--json` one document."""
    if as_json:
        sys.stderr.write(json.dumps({"error": _document(error)}, ensure_ascii=False, indent=2) + "\n")
        return
    facts = [("field", f"{one.field}: {one.description}") for one in error.field_violations]
    if error.retry_after is not None:
        facts.append(("cure", f"try again in {error.retry_after.total_seconds():g} s"))
    elif error.reason in _CURES:
        facts.append(("cure", _CURES[error.reason]))
    facts += [(key, value) for key, value in sorted(error.metadata.items()) if key not in _HIDDEN_METADATA]
    facts.append(("reason", error.reason))
    width = max(len(name) for name, _ in facts)
    people = console(stderr=True)
    people.print(f"error: {cell(error.message)}", style="red", soft_wrap=True)
    for name, fact in facts:
        people.print(f"  {name:<{width}}  {cell(fact)}", soft_wrap=True)


def _document(error: errors.BulkSmsError) -> dict[str, object]:
    return {
        "reason": error.reason,
        "message": error.message,
        "fields": [{"field": one.field, "description": one.description} for one in error.field_violations],
        "metadata": {key: value for key, value in error.metadata.items() if key not in _HIDDEN_METADATA},
        "http_status": error.http_status,
        "retryable": error.retryable,
        "retry_after_seconds": None if error.retry_after is None else error.retry_after.total_seconds(),
        "exit_code": int(exit_code(error)),
    }
