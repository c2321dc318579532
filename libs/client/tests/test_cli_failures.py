"""What the command says when it fails, its exit codes, and global options that may stand anywhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import Result

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms.dispatcher.v1 import queue_pb2
from bulksms.types.v1 import types_pb2

Run = Callable[..., Result]

EXIT_CODES = [
    (grpc.StatusCode.INVALID_ARGUMENT, "EMPTY_AUDIENCE", "400", 3),
    (grpc.StatusCode.NOT_FOUND, "CAMPAIGN_NOT_FOUND", "404", 4),
    (grpc.StatusCode.FAILED_PRECONDITION, "CAMPAIGN_STATE", "409", 5),
    (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", "409", 5),
    (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_CREDITS", "402", 6),
    (grpc.StatusCode.FAILED_PRECONDITION, "SUBSCRIPTION_INACTIVE", "403", 6),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUSY", "429", 7),
    (grpc.StatusCode.UNAVAILABLE, "LEDGER_UNAVAILABLE", "503", 7),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "", "504", 7),
    (grpc.StatusCode.UNIMPLEMENTED, "NOT_BUILT", "501", 1),
    (grpc.StatusCode.INTERNAL, "INTERNAL", "500", 1),
]


@pytest.mark.parametrize(("code", "reason", "http_status", "exit_code"), EXIT_CODES)
def test_the_exit_code_tells_the_kind_of_error(
    services: Any,
    bulksms: Run,
    refuse: Callable[..., Any],
    code: grpc.StatusCode,
    reason: str,
    http_status: str,
    exit_code: int,
) -> None:
    services.on("EnqueueCampaign", refuse(code, reason, "says why", http_status=http_status))
    result = bulksms("campaign", "send", "c1")
    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert result.stderr.startswith("error: says why\n")
    assert result.stderr.endswith(f"  reason  {reason or code.name}\n")


def test_a_failure_is_one_block_with_field_cure_and_reason(
    services: Any, bulksms: Run, refuse: Callable[..., Any]
) -> None:
    services.on(
        "EnqueueCampaign",
        refuse(
            grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_CREDITS", "9,700 credits are needed and 12 available",
            fields={"audience": "choose a smaller one"}, http_status="402", required="9700", available="12",
        ),
    )  # fmt: skip
    assert bulksms("campaign", "send", "c1").stderr == (
        "error: 9,700 credits are needed and 12 available\n"
        "  field      audience: choose a smaller one\n"
        "  cure       grant more: bulksms credits grant UNITS\n"
        "  available  12\n"
        "  required   9700\n"
        "  reason     INSUFFICIENT_CREDITS\n"
    )


def test_an_overload_says_when_to_come_back(services: Any, bulksms: Run, refuse: Callable[..., Any]) -> None:
    services.on("GetQueueStats", refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "BUSY", "busy", retry_after=2.5))
    assert "  cure    try again in 2.5 s\n" in bulksms("queue", "stats").stderr


def test_with_json_a_failure_is_a_document_on_standard_error(
    services: Any, bulksms: Run, refuse: Callable[..., Any]
) -> None:
    services.on(
        "CreateCampaign",
        refuse(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "bad", fields={"text": "must not be empty"}),
    )
    result = bulksms("campaign", "create", "--name=n", "--sender=s", "--text=", "--json")
    assert (result.exit_code, result.stdout) == (3, "")
    error = json.loads(result.stderr)["error"]
    assert error["reason"] == "INVALID_ARGUMENT"
    assert error["fields"] == [{"field": "text", "description": "must not be empty"}]
    assert (error["exit_code"], error["retryable"]) == (3, False)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["campaign"], "Usage"),
        (["campaign", "lost"], "Did you mean 'list'"),
        (["campaign", "create", "--name=n", "--sender=s"], "--text-file"),
        (["campaign", "get"], "--external-id"),
        (["campaign", "get", "c1", "--external-id", "shop-42"], "--external-id"),
        (["contacts", "opt-out"], "--external-id"),
        (["campaign", "schedule", "c1"], "--clear"),
        (["campaign", "schedule", "c1", "--at", "tomorrow"], "2026-12-24T18:00:00"),
        (["campaign", "schedule", "c1", "--at", "2030-01-01T00:00:00"], "no time zone"),
        (["campaign", "recipients", "c1", "--status", "lost"], "queued|sent"),
        (["contacts", "import", "nowhere.csv"], "nowhere.csv"),
        (["contacts", "import", "."], "directory"),
        (["credits", "grant", "many"], "UNITS"),
        (["credits", "subscription", "unspecified"], "active|suspended"),
        (["campaign", "list", "--tenant"], "--tenant"),
        (["campaign", "list", "--timeout", "0"], "--timeout"),
    ],
)
def test_wrong_usage_is_explained_and_nothing_is_called(
    services: Any, bulksms: Run, arguments: list[str], complaint: str
) -> None:
    result = bulksms(*arguments)
    assert result.exit_code == 2
    assert complaint in result.output
    assert services.calls == []


def test_a_report_that_could_not_be_written_is_noticed_before_the_import(
    services: Any, bulksms: Run, tmp_path: Path
) -> None:
    file = tmp_path / "contacts.csv"
    file.write_text("phone\n")
    result = bulksms("contacts", "import", str(file), "--report", str(tmp_path / "no" / "bad.csv"))
    assert result.exit_code == 2
    assert services.calls == []


def test_missing_settings_are_a_matter_of_usage(bulksms: Run, environment: dict[str, str]) -> None:
    del environment["BULKSMS_TENANT"]
    result = bulksms("campaign", "list")
    assert result.exit_code == 2
    assert "BULKSMS_TENANT" in result.stderr


def test_help_needs_no_settings(bulksms: Run, environment: dict[str, str]) -> None:
    environment.clear()
    assert "Exit codes" in bulksms("--help").stdout
    assert bulksms("campaign", "send", "--help").exit_code == 0
    assert bulksms("--version").stdout.startswith("bulksms ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["campaign", "get", "--external-id", "shop-42"],
        ["campaign", "events", "--external-id=shop-42"],
        ["campaign", "send", "--external-id", "shop-42"],
        ["campaign", "schedule", "--clear", "--external-id", "shop-42"],
    ],
)
def test_a_campaign_can_be_named_by_the_caller_s_own_id(services: Any, bulksms: Run, arguments: list[str]) -> None:
    bulksms(*arguments)
    assert services.calls[0].request.external_id == "shop-42"


@pytest.mark.parametrize("command", ["get", "delete", "opt-out", "opt-in"])
def test_a_contact_can_be_named_by_the_caller_s_own_id(services: Any, bulksms: Run, command: str) -> None:
    bulksms("contacts", command, "--external-id", "crm-7")
    assert services.calls[0].request.external_id == "crm-7"


def test_a_campaign_is_created_with_its_caller_s_id_and_its_class(services: Any, bulksms: Run) -> None:
    services.on("CreateCampaign", pb.CreateCampaignResponse())
    bulksms(
        "campaign", "create", "--name=n", "--sender=s", "--all-contacts", "--text=t", "--external-id", "shop-42",
        "--class", "service", "--not-after", "2026-12-24T18:00:00+02:00",
    )  # fmt: skip
    [request] = services.requests("CreateCampaign")
    assert (request.external_id, request.message_class) == ("shop-42", types_pb2.MESSAGE_CLASS_SERVICE)
    assert request.not_after.ToJsonString() == "2026-12-24T16:00:00Z"


def test_recipients_can_be_listed_as_of_one_enqueue(services: Any, bulksms: Run) -> None:
    bulksms("campaign", "recipients", "c1", "--enqueue", "1")
    bulksms("campaign", "recipients", "c1")
    first, latest = services.requests("ListRecipients")
    assert (first.enqueue_number, latest.HasField("enqueue_number")) == (1, False)


def test_a_change_can_ask_for_the_campaign_to_be_as_it_was_read(services: Any, bulksms: Run) -> None:
    bulksms("campaign", "update", "c1", "--name", "n", "--etag", "7")
    bulksms("campaign", "delete", "c1", "--etag", "7")
    assert [call.request.etag for call in services.calls] == ["7", "7"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tenant", "other", "--json", "queue", "stats"],
        ["queue", "--tenant=other", "stats", "--json"],
        ["queue", "stats", "--json", "--tenant", "other"],
    ],
)
def test_global_options_may_stand_anywhere(services: Any, bulksms: Run, arguments: list[str]) -> None:
    services.on("GetQueueStats", queue_pb2.GetQueueStatsResponse())
    json.loads(bulksms(*arguments).stdout)
    assert services.requests("GetQueueStats")[0].tenant_id == "other"


def test_after_two_dashes_words_are_only_words(services: Any, bulksms: Run) -> None:
    bulksms("message", "send", "--sender", "Acme", "--", "+306912345678", "--json")
    assert services.requests("SendMessage")[0].text == "--json"


def test_operators_can_look_at_all_tenants(services: Any, bulksms: Run) -> None:
    services.on("GetQueueStats", queue_pb2.GetQueueStatsResponse())
    bulksms("queue", "stats", "--all-tenants")
    bulksms("queue", "stats")
    assert [request.tenant_id for request in services.requests("GetQueueStats")] == ["", "acme"]


def test_a_text_comes_from_a_file_without_its_last_line_break(services: Any, bulksms: Run, tmp_path: Path) -> None:
    services.on("CreateCampaign", pb.CreateCampaignResponse())
    text = tmp_path / "text.txt"
    text.write_text("Γεια σου\n{{first_name}}\n", encoding="utf-8")
    bulksms("campaign", "create", "--name=n", "--sender=s", "--all-contacts", "--text-file", str(text))
    assert services.requests("CreateCampaign")[0].text == "Γεια σου\n{{first_name}}"
    text.write_bytes("Γεια".encode("iso8859-7"))
    result = bulksms("campaign", "create", "--name=n", "--sender=s", "--all-contacts", "--text-file", str(text))
    assert result.exit_code == 2
    assert "UTF-8" in result.stderr


# A test run in a shell's background is told to ignore SIGINT, and its children inherit that; a terminal's don't.
AS_IN_A_TERMINAL = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "


def started(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"{AS_IN_A_TERMINAL}from bulksms_command import main; main()", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("command", [["campaign", "watch", "c1"], ["campaign", "status", "c1"]])
def test_an_interrupt_ends_the_command_with_130_and_no_traceback(
    services: Any, environment: dict[str, str], command: list[str]
) -> None:
    called, over = threading.Event(), threading.Event()

    def hang(_request: Any, context: grpc.ServicerContext) -> Any:
        context.add_callback(over.set)
        called.set()
        over.wait(20)

    def hang_stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        hang(request, context)
        yield from ()

    services.on("WatchCampaign", hang_stream)
    services.on("GetCampaignStatus", hang)
    process = started(environment, *command)
    assert called.wait(20)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (130, "")
    assert stderr == "interrupted; what was under way goes on in the services\n"


def test_a_watch_over_a_restart_of_the_service_leaves_nothing_on_standard_error(
    services: Any, environment: dict[str, str]
) -> None:
    begun, over = threading.Event(), threading.Event()

    def watch(_request: Any, context: grpc.ServicerContext) -> Iterator[pb.WatchCampaignResponse]:
        again = begun.is_set()
        yield pb.WatchCampaignResponse(status=pb.CampaignStatus(state=pb.CAMPAIGN_STATE_SENDING), final=again)
        if not again:
            context.add_callback(over.set)
            begun.set()
            over.wait(20)

    services.on("WatchCampaign", watch)
    process = started(environment, "campaign", "watch", "c1", "--json")
    assert begun.wait(20)
    services.stop()
    services.start()
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, len(stdout.splitlines()), stderr) == (0, 2, "")


def test_a_reader_that_leaves_early_ends_the_command_quietly(services: Any, environment: dict[str, str]) -> None:
    def page(_request: Any, _context: Any) -> pb.ListRecipientsResponse:
        found = [pb.Recipient(phone=f"+30{number}") for number in range(500)]
        return pb.ListRecipientsResponse(recipients=found, next_page_token=os.urandom(8).hex())

    services.on("ListRecipients", page)
    process = started(environment, "campaign", "recipients", "c1")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("phone")
    process.stdout.close()
    process.stdout = None
    _, stderr = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "Traceback" not in stderr


def test_an_operator_s_action_names_who_acts(
    services: Any, bulksms: Run, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "maria")
    bulksms("stop", "all", "--reason", "r")
    environment["BULKSMS_OPERATOR"] = "the night shift, Γιώργος"
    bulksms("stop", "all", "--reason", "r")
    assert [call.metadata["x-operator"] for call in services.calls] == ["maria", "the night shift, ???????"]
