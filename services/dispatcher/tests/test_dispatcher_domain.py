"""The pure parts: protocol, packing, results, backoff, rendering, decisions."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulksms_dispatcher.domain.account_holds import HoldKind
from bulksms_dispatcher.domain.protocol import (
    FINAL,
    TRANSITIONS,
    BatchState,
    OutcomeKind,
    ProtocolError,
    check_transition,
)
from bulksms_dispatcher.domain.provider_outcomes import FollowUp, ProviderRejection, Verdict
from bulksms_dispatcher.domain.recipients import (
    Recipients,
    pack,
    pack_ids,
    pack_positions,
    unpack,
    unpack_ids,
    unpack_positions,
)
from bulksms_dispatcher.domain.requests import render_alone, render_bulk, render_single
from bulksms_dispatcher.domain.results import (
    Group,
    RecipientOutcome,
    decode_groups,
    encode_groups,
    resolve,
    whole,
)
from bulksms_dispatcher.domain.retries import RetryPolicy
from bulksms_dispatcher.domain.transitions import Transition, transition_after
from bulksms_dispatcher.domain.verdicts import groups_of
from smstext.parts import measure

PHONES = st.lists(st.integers(10**6, 10**15 - 1), min_size=1, max_size=200, unique=True).map(sorted)
RETRIES = RetryPolicy()
PAUSE = timedelta(seconds=60)


def test_what_may_have_been_sent_never_becomes_ready_again() -> None:
    reachable, border = {BatchState.AMBIGUOUS}, [BatchState.AMBIGUOUS]
    while border:
        for following in TRANSITIONS[border.pop()] - reachable:
            reachable.add(following)
            border.append(following)
    assert BatchState.READY not in reachable
    never_again = {BatchState.ACCEPTED, BatchState.REJECTED, BatchState.UNRESOLVED, BatchState.CANCELLED}
    assert never_again | {BatchState.DEAD} == FINAL


def test_a_move_the_protocol_does_not_have_is_our_own_mistake() -> None:
    with pytest.raises(ProtocolError):
        check_transition(BatchState.AMBIGUOUS, BatchState.READY)


@given(phones=PHONES, width=st.integers(0, 3), data=st.data())
@settings(deadline=None)
def test_recipients_survive_packing(phones: list[int], width: int, data: st.DataObject) -> None:
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    values = data.draw(st.lists(text, min_size=len(phones) * width, max_size=len(phones) * width))
    unpacked = unpack(pack(Recipients(phones, values)))
    assert (list(unpacked.phones), list(unpacked.values), unpacked.width) == (phones, values, width)


def test_a_recipient_of_five_thousand_takes_less_than_four_bytes() -> None:
    generator = random.Random(1)
    phones = sorted(generator.sample(range(306_900_000_000, 306_999_999_999), 5000))
    assert len(pack(Recipients(phones))) < 20_000
    assert len(pack(Recipients(range(306_900_000_000, 306_900_005_000)))) < 500


def test_a_damaged_value_is_an_error_and_not_a_shorter_batch() -> None:
    packed = pack(Recipients(range(10**9, 10**9 + 1000)))
    with pytest.raises(ValueError):
        unpack(packed[:-5])


@given(st.lists(st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1), max_size=50))
def test_ids_survive_packing(ids: list[str]) -> None:
    assert unpack_ids(pack_ids(ids)) == ids


@given(st.sets(st.integers(0, 9999)).map(sorted))
def test_positions_survive_packing(positions: list[int]) -> None:
    assert unpack_positions(pack_positions(positions)) == positions


def test_every_recipient_stands_in_exactly_one_group() -> None:
    groups = (
        Group(RecipientOutcome.ACCEPTED),
        Group(RecipientOutcome.FAILED, "PROVIDER_REJECTED", "no", (4, 1)),
        Group(RecipientOutcome.OPTED_OUT, "OPTED_OUT", "", (0,)),
    )
    resolved = resolve(decode_groups(encode_groups(groups)), 6)
    assert [list(group.positions) for group in resolved] == [[2, 3, 5], [1, 4], [0]]
    for wrong in (
        (Group(RecipientOutcome.ACCEPTED), Group(RecipientOutcome.FAILED)),
        (Group(RecipientOutcome.FAILED, positions=(0, 1)), Group(RecipientOutcome.ACCEPTED, positions=(1, 2))),
        (Group(RecipientOutcome.FAILED, positions=(0, 1)),),
        (Group(RecipientOutcome.FAILED, positions=(6,)), Group(RecipientOutcome.ACCEPTED)),
    ):
        with pytest.raises(ValueError):
            resolve(wrong, 6)


def test_the_backoff_is_3_6_12_24_48_seconds_and_then_ends() -> None:
    delays = [RETRIES.delay(retries) for retries in range(6)]
    assert delays == [timedelta(seconds=s) for s in (3, 6, 12, 24, 48)] + [None]
    assert RETRIES.delay(0, timedelta(seconds=20)) == timedelta(seconds=20)


def test_decisions() -> None:
    rejected = OutcomeKind.REJECTED
    seven = timedelta(seconds=7)
    retry = Verdict(rejected, "RATE_LIMITED", FollowUp.RETRY, retry_after=seven)
    transition = transition_after(retry, 9, 0, RETRIES, PAUSE)
    assert (transition.target, transition.delay, transition.costs_retry, transition.account_rest) == (
        BatchState.READY,
        timedelta(seconds=7),
        True,
        timedelta(seconds=7),
    )
    assert transition_after(retry, 9, 5, RETRIES, PAUSE).target is BatchState.DEAD
    refused = Verdict(rejected, "ACCOUNT_REFUSED", FollowUp.HOLD_ACCOUNT, HoldKind.REFUSED, seven)
    paused = transition_after(refused, 9, 5, RETRIES, PAUSE)
    assert (paused.target, paused.account_rest, paused.costs_retry) == (BatchState.READY, PAUSE, False)
    unreachable = Verdict(OutcomeKind.NOT_SENT, "CONNECT_FAILED", FollowUp.HOLD_ACCOUNT, HoldKind.UNAVAILABLE)
    not_sent = transition_after(unreachable, 9, 5, RETRIES, PAUSE)
    assert (not_sent.target, not_sent.account_rest, not_sent.costs_retry) == (BatchState.READY, None, False)
    too_large = Verdict(rejected, "BATCH_TOO_LARGE", FollowUp.CUT)
    assert transition_after(too_large, 2, 5, RETRIES, PAUSE).target is BatchState.READY
    assert transition_after(too_large, 1, 0, RETRIES, PAUSE).target is BatchState.REJECTED


@pytest.mark.parametrize("verdict", [Verdict(kind, "", follow_up) for kind in OutcomeKind for follow_up in FollowUp])
def test_the_rest_that_the_provider_asks_for_is_given_whatever_the_status(verdict: Verdict) -> None:
    asked = timedelta(minutes=4)
    assert transition_after(replace(verdict, retry_after=asked), 2, 0, RETRIES, PAUSE).account_rest == asked


def test_of_a_batch_refused_because_of_one_message_the_others_go_on_unless_it_is_ambiguous_by_now() -> None:
    named = ProviderRejection((1,), "bad")
    verdict = Verdict(OutcomeKind.REJECTED, "PROVIDER_REJECTED", FollowUp.SEND_OTHERS, rejections=(named,))
    transition = transition_after(verdict, 4, 0, RETRIES, PAUSE)
    groups = resolve(groups_of(transition, verdict, 4, [0]), 4)
    by_outcome = {group.outcome: list(group.positions) for group in groups}
    assert by_outcome == {
        RecipientOutcome.OPTED_OUT: [0],
        RecipientOutcome.DEFERRED: [1, 3],
        RecipientOutcome.FAILED: [2],
    }
    late = Transition(BatchState.REJECTED, "PROVIDER_REJECTED")
    groups = resolve(groups_of(late, verdict, 4, [0]), 4)
    assert {group.outcome: list(group.positions) for group in groups} == {
        RecipientOutcome.OPTED_OUT: [0],
        RecipientOutcome.FAILED: [1, 2, 3],
    }


@given(
    recipients=st.integers(1, 30),
    opted_out_positions=st.sets(st.integers(0, 29)),
    rejected=st.sets(st.integers(0, 29)),
)
def test_partial_results_name_the_right_recipients(
    recipients: int, opted_out_positions: set[int], rejected: set[int]
) -> None:
    out = sorted(p for p in opted_out_positions if p < recipients)
    asked = [p for p in range(recipients) if p not in out]
    no = tuple(sorted(p for p in rejected if p < len(asked)))
    if not asked:
        return
    accepted = len(asked) - len(no)
    kind = OutcomeKind.ACCEPTED if accepted else OutcomeKind.REJECTED
    verdict = Verdict(kind, "", rejections=(ProviderRejection(no, "bad"),) if no else (), message_ids=["x"] * accepted)
    transition = transition_after(verdict, recipients, 0, RETRIES, PAUSE)
    groups = resolve(groups_of(transition, verdict, recipients, out), recipients)
    by_outcome = {group.outcome: list(group.positions) for group in groups}
    assert by_outcome.get(RecipientOutcome.OPTED_OUT, []) == out
    assert by_outcome.get(RecipientOutcome.FAILED, []) == [asked[p] for p in no]
    assert by_outcome.get(RecipientOutcome.ACCEPTED, []) == [asked[p] for p in range(len(asked)) if p not in no]


def test_whole_batches_need_no_positions() -> None:
    assert len(encode_groups(whole(RecipientOutcome.ACCEPTED))) < 16


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(phones=PHONES, name=TEXTS, sender=st.just("Shop"), fixed=TEXTS.filter(lambda t: "{{" not in t and "}}" not in t))
@settings(deadline=None)
def test_rendered_requests_are_the_provider_s_json(phones: list[int], name: str, sender: str, fixed: str) -> None:
    account = 'a"%d'
    recipients = Recipients(phones, [value for _ in phones for value in ("unused", name)])
    text = fixed + " {{name|friend}}"
    if fixed.endswith(("{", "}")):
        return
    request = render_bulk(account, sender, text, ["other", "name"], recipients)
    expected = f"{fixed} {name or 'friend'}"
    assert json.loads(request.body) == {
        "messages": [
            {
                "trafficAccountId": account,
                "destination": f"+{phone}",
                "sms": {"text": expected, "sender": sender},
            }
            for phone in phones
        ]
    }
    assert request.parts == [measure(expected).parts] * len(phones)


def test_a_constant_text_with_percent_signs_is_sent_as_it_is() -> None:
    request = render_bulk("acc", "Shop", 'Only today: 50% off "all" %d %s', (), Recipients([306900000001]))
    (message,) = json.loads(request.body)["messages"]
    assert message["sms"]["text"] == 'Only today: 50% off "all" %d %s'
    assert message["destination"] == "+306900000001"


def test_opted_out_positions_are_not_in_the_request() -> None:
    recipients = Recipients([1000001, 1000002, 1000003], ["a", "b", "c"])
    request = render_bulk("acc", "Shop", "Hi {{n}}", ["n"], recipients, {1})
    assert [m["sms"]["text"] for m in json.loads(request.body)["messages"]] == ["Hi a", "Hi c"]
    assert request.messages == 2


def test_a_single_text_is_no_template() -> None:
    body = json.loads(render_single("acc", "Shop", "{{code}} 100%", 1000001).body)
    assert body["sms"]["text"] == "{{code}} 100%"


def test_a_request_without_anybody_is_known_by_having_no_messages() -> None:
    recipients = Recipients([1000001], ["a"])
    assert render_bulk("acc", "Shop", "Hi {{n}}", ["n"], recipients, {0}).messages == 0
    assert render_alone("acc", "Shop", "Hi {{n}}", ["n"], recipients, {0}).messages == 0
