"""Bad input over the whole stack: each refusal names the field and the cure, and leaves everything as it was."""

from __future__ import annotations

import io
import uuid

import pytest

from bulksms.campaign.v1 import campaign_pb2, contacts_pb2
from bulksms.dispatcher.v1 import messages_pb2
from bulksms.ledger.v1 import ledger_pb2
from bulksms_client import BulkSmsError, Client
from tests.e2e.shop import Shop


def test_an_unknown_campaign_is_not_found(funded: Client) -> None:
    for call in (funded.campaigns.get, funded.campaigns.enqueue, funded.campaigns.preview, funded.campaigns.cancel):
        error = _refusal(lambda call=call: call(str(uuid.uuid4())))
        assert (error.reason, error.http_status) == ("CAMPAIGN_NOT_FOUND", 404)


def test_another_tenant_s_campaign_is_not_found(shop: Shop) -> None:
    campaign_id = shop.draft()
    stranger = shop.client.for_tenant("someone-else")
    assert _refusal(lambda: stranger.campaigns.get(campaign_id)).reason == "CAMPAIGN_NOT_FOUND"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"text": ""}, "text"),
        ({"text": "   "}, "text"),
        ({"text": "x" * 1_601}, "text"),
        ({"text": "Hi {{nickname}}"}, "text"),
        ({"text": "Hi {{first_name"}, "text"),
        ({"sender": ""}, "sender"),
        ({"sender": "My Shop"}, "sender"),
        ({"sender": "averylongsender"}, "sender"),
        ({"name": ""}, "name"),
        ({"groups": []}, "audience"),
        ({"groups": ["bad group!"]}, "audience.groups"),
    ],
)
def test_a_bad_campaign_is_refused_with_field_and_cure(client: Client, change: dict[str, object], field: str) -> None:
    arguments: dict[str, object] = {"name": "n", "text": "t", "sender": "Shop", "groups": ["g"]}
    error = _refusal(lambda: client.campaigns.create(**(arguments | change)))  # type: ignore[arg-type]
    assert (error.http_status, error.retryable) == (400, False)
    assert any(violation.field.startswith(field) for violation in error.field_violations), error
    assert all(len(violation.description) > 10 for violation in error.field_violations)


def test_an_empty_audience_is_refused_and_reserves_nothing(shop: Shop) -> None:
    error = _refused_enqueue(shop, shop.draft(groups=["nobody"]))
    assert (error.reason, error.http_status) == ("EMPTY_AUDIENCE", 400)


def test_a_tenant_without_subscription_cannot_send(client: Client, stack: object) -> None:
    client.credits.grant(100)
    shop = Shop(client, stack)  # type: ignore[arg-type]
    shop.add_contacts(3)
    error = _refused_enqueue(shop, shop.draft())
    assert (error.reason, error.http_status) == ("SUBSCRIPTION_INACTIVE", 403)


def test_too_few_credits_say_how_many_are_missing(client: Client, stack: object) -> None:
    client.credits.set_subscription(ledger_pb2.SUBSCRIPTION_STATUS_ACTIVE, reason="test")
    client.credits.grant(2)
    shop = Shop(client, stack)  # type: ignore[arg-type]
    shop.add_contacts(3)
    campaign_id = shop.draft()
    error = _refused_enqueue(shop, campaign_id)
    assert (error.reason, error.http_status) == ("INSUFFICIENT_CREDITS", 402)
    assert (error.metadata["required"], error.metadata["available"]) == ("3", "2")
    client.credits.grant(1)
    assert shop.send(campaign_id).differences() == []  # the refusal left the campaign as it was


def test_a_single_message_without_credits_is_sent_when_it_is_asked_for_again_after_a_grant(client: Client) -> None:
    client.credits.set_subscription(ledger_pb2.SUBSCRIPTION_STATUS_ACTIVE, reason="test")
    request_id = str(uuid.uuid4())

    def send() -> messages_pb2.SendMessageResponse:
        return client.messages.send("+306940000000", "Hi", sender="Shop", request_id=request_id)

    for _ in range(2):
        assert _refusal(send).reason == "INSUFFICIENT_CREDITS"
    client.credits.grant(1)
    assert send().message.status == messages_pb2.MESSAGE_STATUS_SENT


def test_a_tenant_without_account_is_told_so(client: Client, stack: object) -> None:
    stranger = Shop(client.for_tenant(f"{client.tenant_id}-x"), stack)  # type: ignore[arg-type]
    stranger.add_contacts(1)
    error = _refusal(lambda: stranger.client.campaigns.enqueue(stranger.draft()))
    assert (error.reason, error.http_status) == ("ACCOUNT_NOT_FOUND", 404)


def test_enqueueing_twice_is_refused_but_a_repeated_request_is_not(shop: Shop) -> None:
    shop.add_contacts(5)
    campaign_id, request_id = shop.draft(), str(uuid.uuid4())
    first = shop.client.campaigns.enqueue(campaign_id, request_id=request_id)
    again = shop.client.campaigns.enqueue(campaign_id, request_id=request_id)
    assert (first.created, again.created, again.replayed) == (5, 5, True)
    error = _refusal(lambda: shop.client.campaigns.enqueue(campaign_id))
    assert (error.reason, error.http_status) == ("CAMPAIGN_STATE", 409)
    reconciled = shop.finish(campaign_id)
    assert reconciled.differences() == []
    assert _refusal(lambda: shop.client.campaigns.enqueue(campaign_id)).reason == "CAMPAIGN_STATE"


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (b"name,address\nA,B\n", "CSV_HEADER", ["name", "address", "phone"]),
        (b"", "IMPORT_EMPTY", ["no data lines", "phone"]),
        ("first_name,phone\nΝίκη,+306940000001\n".encode("iso8859-7"), "CSV_NOT_UTF8", ["UTF-8", "line 2"]),
        (b"first_name,phone\n" + b"x" * 10_000_000 + b",+306940000001\n", "CSV_LINE_TOO_LONG", ["Line 2"]),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_whole(
    client: Client, content: bytes, reason: str, words: list[str]
) -> None:
    error = _refusal(lambda: client.contacts.import_csv(io.BytesIO(content), groups=["g"]))
    assert (error.reason, error.http_status) == (reason, 400)
    text = str(error)
    assert all(word in text for word in words), text
    assert len(text) < 2_000
    assert client.contacts.count(all_contacts=True).reachable == 0


def test_bad_lines_are_named_with_line_and_reason_and_stop_nobody_else(client: Client) -> None:
    lines = [
        "first_name;last_name;phone",
        "A;B;6941234567",
        "A;B;",
        "A;B;+30694",
        "A;B;2101234567",
        '"multi\nline";B;00306941234568',
        "A;B;(+30) 694 123 4567",
        "A;B;C;D",
        "",
        "A;B;+4915123456789",
    ]
    report = client.contacts.import_csv(io.BytesIO("\r\n".join(lines).encode("utf-8-sig")), region="GR")
    assert (report.lines, report.imported, report.duplicates, report.rejected) == (9, 3, 1, 5)
    reported = [(line.line_number, line.reason, line.first_line_number) for line in report.lines_not_imported]
    assert reported == [
        (3, contacts_pb2.IMPORT_LINE_REASON_PHONE_MISSING, 0),
        (4, contacts_pb2.IMPORT_LINE_REASON_PHONE_INVALID, 0),
        (5, contacts_pb2.IMPORT_LINE_REASON_PHONE_NOT_MOBILE, 0),
        (8, contacts_pb2.IMPORT_LINE_REASON_DUPLICATE, 2),
        (9, contacts_pb2.IMPORT_LINE_REASON_FIELD_COUNT, 0),
        (10, contacts_pb2.IMPORT_LINE_REASON_BLANK_LINE, 0),
    ]


def test_a_quote_that_is_never_closed_spoils_its_own_line_only(client: Client) -> None:
    content = b'first_name,phone\nA,+306940000001\n"B,+306940000002\n' + b"C,+306940000003\n" * 1_000
    report = client.contacts.import_csv(io.BytesIO(content))
    assert (report.lines, report.imported, report.duplicates, report.rejected) == (1_002, 2, 999, 1)
    assert next((line.line_number, line.reason) for line in report.lines_not_imported) == (
        3,
        contacts_pb2.IMPORT_LINE_REASON_BAD_QUOTES,
    )


def _refused_enqueue(shop: Shop, campaign_id: str) -> BulkSmsError:
    before = shop.client.credits.balance()
    error = _refusal(lambda: shop.client.campaigns.enqueue(campaign_id))
    after = shop.client.credits.balance()
    assert (before.available, before.reserved) == (after.available, after.reserved)
    assert shop.client.campaigns.get(campaign_id).state == campaign_pb2.CAMPAIGN_STATE_DRAFT
    return error


def _refusal(call: object) -> BulkSmsError:
    with pytest.raises(BulkSmsError) as caught:
        call()  # type: ignore[operator]
    assert len(caught.value.message) > 20, "says what is wrong and the cure"
    return caught.value
