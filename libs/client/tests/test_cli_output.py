"""What the command prints: tables to the letter, JSON and nothing but JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import Result

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms.campaign.v1 import contacts_pb2
from bulksms.dispatcher.v1 import messages_pb2, queue_pb2
from bulksms.ledger.v1 import ledger_pb2
from bulksms.types.v1 import types_pb2

Run = Callable[..., Result]
RULE = "─"
AT = Timestamp(seconds=1_790_000_000)
CAMPAIGN = pb.Campaign(
    campaign_id="0b9c3c52",
    tenant_id="acme",
    name="Winter",
    text="Hello\n{{first_name}}",
    sender="Acme",
    audience=contacts_pb2.Audience(groups=contacts_pb2.GroupSelection(names=["vip", "news"]), exclude_groups=["staff"]),
    state=pb.CAMPAIGN_STATE_SENDING,
    counters=pb.CampaignCounters(total=10_000, queued=4_000, sent=5_900, failed=100, delivered=3_000, accepted=5_950),
    created_at=AT,
)


def status(state: pb.CampaignState.ValueType, sent: int, **counters: int) -> pb.CampaignStatus:
    kept = pb.CampaignCounters(total=10_000, queued=10_000 - sent, sent=sent, **counters)
    return pb.CampaignStatus(
        campaign_id="0b9c3c52", state=state, counters=kept, rate_per_second=950.3, remaining=Duration(seconds=3_700)
    )


@pytest.fixture
def watched(services: Any) -> None:
    def watch(_request: Any, _context: grpc.ServicerContext) -> Iterator[pb.WatchCampaignResponse]:
        for sent in (1_000, 4_000, 7_000):
            yield pb.WatchCampaignResponse(status=status(pb.CAMPAIGN_STATE_SENDING, sent))
        ended = pb.CampaignStatus(
            state=pb.CAMPAIGN_STATE_SENT,
            counters=pb.CampaignCounters(total=10_000, sent=9_897, failed=100, unconfirmed=3, delivered=9_800),
        )
        yield pb.WatchCampaignResponse(status=ended, final=True)

    services.on("WatchCampaign", watch)
    services.on("EnqueueCampaign", pb.EnqueueCampaignResponse(campaign=CAMPAIGN, created=10_000, enqueued_jobs=2))


def printed(result: Result) -> str:
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_a_campaign_is_a_line_per_figure(services: Any, bulksms: Run) -> None:
    services.on("GetCampaign", pb.GetCampaignResponse(campaign=CAMPAIGN))
    assert printed(bulksms("campaign", "get", "0b9c3c52")) == (
        "campaign         0b9c3c52\n"
        "external id      -\n"
        "name             Winter\n"
        "state            SENDING\n"
        "sender           Acme\n"
        "text             Hello⏎{{first_name}}\n"
        "audience         vip, news without staff\n"
        "priority         -\n"
        "class            -\n"
        "total            10,000\n"
        "queued           4,000\n"
        "sent             5,900\n"
        "failed           100\n"
        "unconfirmed      0\n"
        "ambiguous        0\n"
        "cancelled        0\n"
        "delivered        3,000\n"
        "awaiting report  0\n"
        "created          2026-09-21 14:13:20Z\n"
        "scheduled for    -\n"
        "not after        -\n"
        "enqueued         -\n"
        "ended            -\n"
        "reservation      -\n"
        "trace            -\n"
    )


def test_campaigns_are_a_table(services: Any, bulksms: Run) -> None:
    other = pb.Campaign(campaign_id="1c", name="Καλοκαίρι", state=pb.CAMPAIGN_STATE_DRAFT, created_at=AT)
    other.counters.SetInParent()
    services.on("ListCampaigns", pb.ListCampaignsResponse(campaigns=[CAMPAIGN, other]))
    assert printed(bulksms("campaign", "list")) == (
        "campaign   name        state      total    sent   failed   delivered   created\n"
        f"{91 * RULE}\n"
        "0b9c3c52   Winter      SENDING   10,000   5,900      100       3,000   2026-09-21 14:13:20Z\n"
        "1c         Καλοκαίρι   DRAFT          0       0        0           0   2026-09-21 14:13:20Z\n"
    )


def test_an_empty_list_says_so_in_words_and_in_json(services: Any, bulksms: Run) -> None:
    services.on("ListCampaigns", pb.ListCampaignsResponse())
    assert printed(bulksms("campaign", "list")) == "no campaigns\n"
    assert printed(bulksms("campaign", "list", "--json")) == "[]\n"


def test_a_long_table_keeps_its_columns(services: Any, bulksms: Run) -> None:
    def page(request: Any, _context: Any) -> pb.ListRecipientsResponse:
        first = int(request.page_token or 0)
        found = [
            pb.Recipient(phone=f"+30{number}", status=pb.RECIPIENT_STATUS_SENT) for number in range(first, first + 500)
        ]
        return pb.ListRecipientsResponse(recipients=found, next_page_token="" if first == 1_000 else str(first + 500))

    services.on("ListRecipients", page)
    lines = printed(bulksms("campaign", "recipients", "c1")).splitlines()
    assert len(lines) == 2 + 1_500
    assert lines[0].startswith("phone")
    assert len(printed(bulksms("campaign", "recipients", "c1", "--limit", "7")).splitlines()) == 2 + 7
    assert len(json.loads(printed(bulksms("campaign", "recipients", "c1", "--json")))) == 1_500


def test_recipients_are_filtered_by_word_and_masked_on_request(services: Any, bulksms: Run) -> None:
    found = pb.Recipient(
        phone="+306912345678", status=pb.RECIPIENT_STATUS_FAILED, reason=types_pb2.OUTCOME_REASON_PROVIDER_REJECTED
    )
    services.on("ListRecipients", pb.ListRecipientsResponse(recipients=[found]))
    shown = printed(bulksms("campaign", "recipients", "c1", "--status", "failed"))
    assert "+306912345678" in shown
    assert "PROVIDER_REJECTED" in shown
    assert services.requests("ListRecipients")[0].status == pb.RECIPIENT_STATUS_FAILED
    for form in ([], ["--json"]):
        masked = printed(bulksms("campaign", "recipients", "c1", "--mask-phones", *form))
        assert "+30••••••••78" in masked
        assert "6912345" not in masked


def test_a_preview_shows_counts_cost_and_samples(services: Any, bulksms: Run) -> None:
    sample = pb.PreviewSample(
        masked_phone="+30••••12", text="Γεια [bold]σου[/] \x1b[31m", encoding=pb.TEXT_ENCODING_UCS2, parts=1
    )
    services.on(
        "PreviewCampaign",
        pb.PreviewCampaignResponse(
            recipients=9_700, opted_out=3, parts=9_800, parts_counted=9_700, credits=9_700, batches=2,
            samples=[sample], blockers=[pb.ENQUEUE_BLOCKER_EMPTY_AUDIENCE, pb.ENQUEUE_BLOCKER_LEDGER_UNAVAILABLE],
        ),
    )  # fmt: skip
    assert printed(bulksms("campaign", "preview", "c1")) == (
        "recipients         9,700\n"
        "opted out          3\n"
        "parts              9,800\n"
        "parts counted of   9,700\n"
        "as UCS-2           0\n"
        "batches            2\n"
        "credits            9,700\n"
        "credits available  -\n"
        "blockers           EMPTY_AUDIENCE, LEDGER_UNAVAILABLE\n"
        "\n"
        "samples\n"
        "to          parts   encoding   text\n"
        f"{54 * RULE}\n"
        "+30••••12       1   UCS2       Γεια [bold]σου[/] �[31m\n"
    )


def test_an_import_accounts_for_its_lines_and_shows_the_first_bad_ones(
    services: Any, bulksms: Run, tmp_path: Path
) -> None:
    bad = [
        contacts_pb2.ImportLine(
            line_number=number,
            outcome=contacts_pb2.IMPORT_LINE_OUTCOME_REJECTED,
            reason=contacts_pb2.IMPORT_LINE_REASON_PHONE_INVALID,
            field="phone",
            message="not a number, write +30 and 10 digits",
        )
        for number in range(2, 14)
    ]
    services.on(
        "ImportContacts",
        contacts_pb2.ImportContactsResponse(
            import_id="i1", lines=30, imported=10, created=9, updated=1, duplicates=8, rejected=12,
            lines_not_imported=bad,
        ),
    )  # fmt: skip
    services.on("ListImportLines", contacts_pb2.ListImportLinesResponse(lines=bad))
    file, report = tmp_path / "contacts.csv", tmp_path / "bad.csv"
    file.write_text("phone\n")
    shown = printed(
        bulksms("contacts", "import", str(file), "--region", "GR", "-g", "vip", "--report", str(report))
    ).splitlines()
    assert shown[:9] == [
        "import      i1",
        "lines       30",
        "imported    10",
        "  created   9",
        "  updated   1",
        "duplicates  8",
        "rejected    12",
        "",
        "lines not imported",
    ]
    assert shown[11] == "   2   REJECTED   PHONE_INVALID   phone    not a number, write +30 and 10 digits"
    assert shown[-2:] == ["… and 10 more: bulksms contacts lines i1", f"all 12 of them are in {report}"]
    written = report.read_text().splitlines()
    assert written[0] == "line_number,outcome,reason,field,message,first_line_number"
    assert written[1] == '2,REJECTED,PHONE_INVALID,phone,"not a number, write +30 and 10 digits",'
    assert len(written) == 13


def test_an_import_reads_standard_input(services: Any, bulksms: Run) -> None:
    received: list[bytes] = []

    def take(requests: Any, _context: Any) -> contacts_pb2.ImportContactsResponse:
        received.extend(request.data for request in requests)
        return contacts_pb2.ImportContactsResponse(import_id="i1")

    services.on("ImportContacts", take)
    printed(bulksms("contacts", "import", "-", stdin=b"phone\n6912345678\n"))
    assert b"".join(received) == b"phone\n6912345678\n"


@pytest.mark.usefixtures("watched")
def test_without_a_terminal_progress_is_plain_lines(bulksms: Run) -> None:
    assert printed(bulksms("campaign", "send", "0b9c3c52", "--watch", "--interval", "0")) == (
        "sending: recipients 10,000  batches 2\n"
        "SENDING       1,000/10,000  sent 1,000  failed 0  delivered 0  950/s  1:01:40 left\n"
        "SENDING       4,000/10,000  sent 4,000  failed 0  delivered 0  950/s  1:01:40 left\n"
        "SENDING       7,000/10,000  sent 7,000  failed 0  delivered 0  950/s  1:01:40 left\n"
        "SENT         10,000/10,000  sent 9,897  failed 100  unconfirmed 3  delivered 9,800\n"
        "SENT: sent 9,897  failed 100  unconfirmed 3  delivered 9,800\n"
    )


@pytest.mark.usefixtures("watched")
def test_plain_lines_come_at_intervals_and_when_the_state_changes(bulksms: Run) -> None:
    lines = printed(bulksms("campaign", "watch", "0b9c3c52", "--interval", "3600")).splitlines()
    assert [line.split()[0] for line in lines] == ["SENDING", "SENT", "SENT:"]


def test_a_watch_says_what_holds_the_campaign_as_soon_as_something_does(services: Any, bulksms: Run) -> None:
    held = status(pb.CAMPAIGN_STATE_SENDING, 1_000)
    held.rate_per_second = 0
    held.hold.reason = types_pb2.HOLD_REASON_ACCOUNT_REFUSED
    held.hold.until.FromJsonString("2026-09-21T14:15:00Z")

    def watch(_request: Any, _context: grpc.ServicerContext) -> Iterator[pb.WatchCampaignResponse]:
        yield pb.WatchCampaignResponse(status=status(pb.CAMPAIGN_STATE_SENDING, 1_000))
        yield pb.WatchCampaignResponse(status=held)
        yield pb.WatchCampaignResponse(status=status(pb.CAMPAIGN_STATE_SENT, 10_000), final=True)

    services.on("WatchCampaign", watch)
    lines = printed(bulksms("campaign", "watch", "0b9c3c52", "--interval", "3600")).splitlines()
    assert [line.split()[0] for line in lines] == ["SENDING", "SENDING", "SENT", "SENT:"]
    assert lines[1].endswith("delivered 0  held by ACCOUNT_REFUSED until 14:15:00Z")


def test_a_status_says_what_holds_the_campaign(services: Any, bulksms: Run) -> None:
    held = status(pb.CAMPAIGN_STATE_SENDING, 1_000)
    held.hold.reason = types_pb2.HOLD_REASON_STOPPED
    held.hold.since.FromJsonString("2026-09-21T14:13:20Z")
    held.hold.description = "wrong price"
    services.on("GetCampaignStatus", pb.GetCampaignStatusResponse(status=held))
    assert printed(bulksms("campaign", "status", "0b9c3c52")).splitlines()[-5:] == [
        "held by           STOPPED",
        "batches wait for  -",
        "held since        2026-09-21 14:13:20Z",
        "held until        -",
        "said              wrong price",
    ]


@pytest.mark.usefixtures("watched")
def test_in_a_terminal_progress_is_a_bar(bulksms: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    shown = printed(bulksms("campaign", "watch", "0b9c3c52", "--until-delivered"))
    assert "100.0 %" in shown
    assert "delivered 9,800" in shown
    assert "━" in shown


@pytest.mark.usefixtures("watched")
def test_in_json_a_watch_is_a_line_per_status(bulksms: Run) -> None:
    first, *statuses = map(json.loads, printed(bulksms("campaign", "send", "c1", "--watch", "--json")).splitlines())
    assert (first["created"], first["enqueued_jobs"]) == (10_000, 2)
    assert [one["state"] for one in statuses] == ["SENDING", "SENDING", "SENDING", "SENT"]
    assert statuses[-1]["counters"]["delivered"] == 9_800


def test_json_has_every_field_with_plain_types(services: Any, bulksms: Run) -> None:
    services.on("GetCampaign", pb.GetCampaignResponse(campaign=CAMPAIGN))
    document = json.loads(printed(bulksms("campaign", "get", "0b9c3c52", "--json")))
    assert list(document) == [field.name for field in pb.Campaign.DESCRIPTOR.fields]
    assert document["state"] == "SENDING"
    assert document["counters"]["total"] == 10_000
    assert document["created_at"] == "2026-09-21T14:13:20.000Z"
    assert document["ended_at"] is None
    assert document["audience"] == {
        "all_contacts": None, "groups": {"names": ["vip", "news"]}, "exclude_groups": ["staff"],
    }  # fmt: skip


def test_json_has_durations_in_seconds_and_null_for_what_is_not_known(services: Any, bulksms: Run) -> None:
    known, unknown = status(pb.CAMPAIGN_STATE_SENDING, 1_000), pb.CampaignStatus()
    answers = iter([known, unknown])
    services.on("GetCampaignStatus", lambda *_: pb.GetCampaignStatusResponse(status=next(answers)))
    documents = [json.loads(printed(bulksms("campaign", "status", "c1", "--json"))) for _ in range(2)]
    assert [document["remaining"] for document in documents] == [3_700.0, None]
    assert [document["state"] for document in documents] == ["SENDING", None]


ANSWERS: list[tuple[str, Any, list[str]]] = [
    ("GetContact", contacts_pb2.GetContactResponse(), ["contacts", "get", "+30"]),
    ("ListContacts", contacts_pb2.ListContactsResponse(), ["contacts", "list"]),
    ("UpsertContact", contacts_pb2.UpsertContactResponse(), ["contacts", "upsert", "+30"]),
    ("DeleteContact", contacts_pb2.DeleteContactResponse(), ["contacts", "delete", "+30"]),
    ("CountContacts", contacts_pb2.CountContactsResponse(), ["contacts", "count"]),
    ("OptOut", contacts_pb2.OptOutResponse(), ["contacts", "opt-out", "+30"]),
    ("OptIn", contacts_pb2.OptInResponse(), ["contacts", "opt-in", "+30"]),
    ("ListImportLines", contacts_pb2.ListImportLinesResponse(), ["contacts", "lines", "i1"]),
    ("CreateAccount", ledger_pb2.CreateAccountResponse(), ["credits", "open"]),
    ("GetAccount", ledger_pb2.GetAccountResponse(), ["credits", "account"]),
    ("GetAccount", ledger_pb2.GetAccountResponse(), ["credits", "subscription"]),
    ("ListAccounts", ledger_pb2.ListAccountsResponse(accounts=[ledger_pb2.Account()]), ["credits", "accounts"]),
    ("GrantCredits", ledger_pb2.GrantCreditsResponse(), ["credits", "grant", "5"]),
    ("AdjustCredits", ledger_pb2.AdjustCreditsResponse(), ["credits", "adjust", "--by", "-5", "--reason", "r"]),
    ("GetBalance", ledger_pb2.GetBalanceResponse(), ["credits", "balance", "--as-of", "2026-01-01T00:00:00Z"]),
    ("ListEntries", ledger_pb2.ListEntriesResponse(entries=[ledger_pb2.Entry()]), ["credits", "entries"]),
    ("ListReservations", ledger_pb2.ListReservationsResponse(), ["credits", "reservations"]),
    ("SetSubscription", ledger_pb2.SetSubscriptionResponse(), ["credits", "subscription", "active", "--reason", "r"]),
    ("VerifyAccount", ledger_pb2.VerifyAccountResponse(), ["credits", "verify"]),
    ("CreateCampaign", pb.CreateCampaignResponse(), ["campaign", "create", "--name=n", "--sender=s", "--text=t"]),
    ("UpdateCampaign", pb.UpdateCampaignResponse(), ["campaign", "update", "c1", "--name", "n"]),
    ("DeleteCampaign", pb.DeleteCampaignResponse(), ["campaign", "delete", "c1"]),
    ("PreviewCampaign", pb.PreviewCampaignResponse(), ["campaign", "preview", "c1"]),
    ("EnqueueCampaign", pb.EnqueueCampaignResponse(), ["campaign", "send", "c1"]),
    ("ScheduleCampaign", pb.ScheduleCampaignResponse(), ["campaign", "schedule", "c1", "--at", "2030-01-01T00:00Z"]),
    ("ScheduleCampaign", pb.ScheduleCampaignResponse(), ["campaign", "schedule", "c1", "--clear"]),
    ("PauseCampaign", pb.PauseCampaignResponse(), ["campaign", "pause", "c1"]),
    ("ResumeCampaign", pb.ResumeCampaignResponse(), ["campaign", "resume", "c1"]),
    ("CancelCampaign", pb.CancelCampaignResponse(), ["campaign", "cancel", "c1", "--reason", "r"]),
    ("RetryFailedRecipients", pb.RetryFailedRecipientsResponse(), ["campaign", "retry-failed", "c1"]),
    ("GetCampaignStatus", pb.GetCampaignStatusResponse(), ["campaign", "status", "c1"]),
    ("ListRecipients", pb.ListRecipientsResponse(recipients=[pb.Recipient()]), ["campaign", "recipients", "c1"]),
    ("ListEvents", pb.ListEventsResponse(events=[pb.CampaignEvent()]), ["campaign", "events", "c1"]),
    ("RecountCampaign", pb.RecountCampaignResponse(), ["campaign", "recount", "c1"]),
    ("SendMessage", messages_pb2.SendMessageResponse(), ["message", "send", "+30", "Hi", "--sender", "Acme"]),
    ("GetMessage", messages_pb2.GetMessageResponse(), ["message", "get", "m1"]),
    ("ListMessages", messages_pb2.ListMessagesResponse(messages=[messages_pb2.Message()]), ["message", "list"]),
    ("RefreshMessageStatus", messages_pb2.RefreshMessageStatusResponse(), ["message", "refresh", "m1"]),
    ("GetQueueStats", queue_pb2.GetQueueStatsResponse(lanes=[queue_pb2.LaneDepth()]), ["queue", "stats"]),
    ("ListBatches", queue_pb2.ListBatchesResponse(batches=[queue_pb2.Batch()]), ["queue", "batches"]),
    ("GetBatch", queue_pb2.GetBatchResponse(attempts=[queue_pb2.Attempt()]), ["queue", "batch", "b1"]),
    ("ListDeadBatches", queue_pb2.ListDeadBatchesResponse(), ["queue", "dead"]),
    ("ResolveBatch", queue_pb2.ResolveBatchResponse(), ["queue", "resolve", "b1", "not-sent", "--evidence", "e"]),
    (
        "PreviewResolution",
        queue_pb2.PreviewResolutionResponse(),
        ["queue", "resolve-many", "not-sent", "--evidence", "e"],
    ),
    ("StopSending", queue_pb2.StopSendingResponse(), ["stop", "all", "--reason", "r"]),
    ("ResumeSending", queue_pb2.ResumeSendingResponse(stops=[queue_pb2.Stop()]), ["go", "all", "--reason", "r"]),
    ("GetRateLimits", queue_pb2.GetRateLimitsResponse(limits=[queue_pb2.RateLimit()]), ["queue", "limits"]),
]


@pytest.mark.parametrize(
    ("rpc", "answer", "command"), ANSWERS, ids=lambda part: " ".join(part) if isinstance(part, list) else ""
)
def test_every_command_answers_even_when_all_is_empty_and_in_json_with_one_document(
    services: Any, bulksms: Run, rpc: str, answer: Any, command: list[str]
) -> None:
    services.on(rpc, answer)
    assert printed(bulksms(*command)).strip()
    json.loads(printed(bulksms(*command, "--json")))
    assert [call.method for call in services.calls] == [rpc, rpc]


def test_many_batches_are_resolved_only_after_they_were_counted_and_confirmed(services: Any, bulksms: Run) -> None:
    excluded = [queue_pb2.ExcludedBatches(exclusion=queue_pb2.RESOLUTION_EXCLUSION_TOO_RECENT, batches=2)]
    plan = queue_pb2.PreviewResolutionResponse(batches=3, recipients=1_500, excluded=excluded, token="t1")
    services.on("PreviewResolution", plan)
    services.on("ResolveBatches", queue_pb2.ResolveBatchesResponse(resolved=3))
    command = ("queue", "resolve-many", "not-sent", "--evidence", "ticket", "--since", "2026-03-01T12:00:00Z")
    refused = bulksms(*command, stdin=b"n\n")
    assert refused.exit_code != 0
    assert "1,500" in refused.stdout
    assert "TOO_RECENT" in refused.stdout
    assert [call.method for call in services.calls] == ["PreviewResolution"]
    assert services.calls[0].request.selection.armed_from.seconds == 1_772_366_400

    assert "resolved" in bulksms(*command, stdin=b"y\n").stdout
    document = json.loads(printed(bulksms(*command, "--yes", "--json")))
    assert document["resolved"] == 3
    assert [call.request.token for call in services.calls if call.method == "ResolveBatches"] == ["t1", "t1"]


def test_results_are_asked_for_again_since_a_moment(services: Any, bulksms: Run) -> None:
    services.on("RepublishResults", queue_pb2.RepublishResultsResponse(results=12))
    shown = printed(bulksms("queue", "republish", "--since", "2026-12-24T18:00:00+02:00", "--reason", "restored"))
    assert shown == "results   12\nreplayed  no\n"
    [request] = services.requests("RepublishResults")
    assert (request.since.ToJsonString(), request.reason) == ("2026-12-24T16:00:00Z", "restored")
