"""Faults wherever they can happen: each of 200 bytes of request and response, each status there is."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import httpx
import pytest

from bulksms_dispatcher.providers.mitto import BULK_PATH, SEND_PATH
from bulksms_dispatcher.settings import Settings
from devstack.eventually import eventually
from devstack.mitto.behaviours import Behaviour

from .dispatcher_support import ACCOUNT, Peers, Provider, phones, serving, submit

# What an outcome says against the account is another matter: here each batch meets a step of its own.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("holds_nothing")]

WAYS = pytest.mark.parametrize(("use_bulk", "size"), [(True, 2), (False, 1)], ids=["bulk", "one by one"])
POSITIONS = 200
# What may be sent again later must not make the test wait.
QUICK = {"queue_backoff": 0.01, "account_pause_seconds": 0.01, "rate_limit_slowdown_seconds": 0.0}


async def send_into(
    configure: Callable[..., Settings],
    simulator: Provider,
    peers: Peers,
    steps: Sequence[Behaviour],
    *,
    use_bulk: bool = True,
    size: int = 1,
) -> Counter[str]:
    """One request into each of the steps, several at a time; the states of all batches once everybody has a status.

    Nobody is sent to twice, and everyone who was not accepted is reported why.
    """
    count = len(steps) * size
    simulator.script(*steps)
    async with serving(configure(sms_batch_size=size, use_bulk_sms=use_bulk, **QUICK)) as dispatcher:
        await submit(dispatcher, phones(count))
        await eventually(lambda: len(peers.campaign.recipients) == count, 90)
        states = await dispatcher.states()
    reported = peers.campaign.recipients.values()
    assert all(reason for outcome, reason, _ in reported if outcome != "ACCEPTED")
    assert set(simulator.times_accepted()) <= {1}, "nobody twice"
    assert simulator.stats().script_steps_remaining == 0, "each step was met"
    return states


@WAYS
async def test_an_answer_cut_at_any_byte_never_leads_to_a_second_send(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers, use_bulk: bool, size: int
) -> None:
    length = answer_length(simulator, use_bulk, size)
    cuts = [length * place // POSITIONS for place in range(POSITIONS)]
    ends = itertools.cycle(("close", "reset"))
    steps = [Behaviour(response="cut", cut_at_byte=byte, cut_end=next(ends)) for byte in cuts]  # type: ignore[arg-type]
    with Provider(simulator) as provider:
        states = await send_into(configure, provider, peers, steps, use_bulk=use_bulk, size=size)
        assert states == {"AMBIGUOUS": POSITIONS}, "without its last byte it is no response"
        assert provider.times_accepted() == {1: POSITIONS * size}


@WAYS
async def test_a_request_cut_at_any_byte_never_leads_to_a_second_send(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers, use_bulk: bool, size: int
) -> None:
    # To beyond the last byte: then the whole request was read, and a reset is the response.
    steps = [Behaviour(cut_request_at_byte=byte) for byte in range(1, 3 * POSITIONS, 3)]
    states = await send_into(configure, simulator, peers, steps, use_bulk=use_bulk, size=size)

    assert states == {"AMBIGUOUS": POSITIONS}, "nobody can know how much arrived"
    assert simulator.times_accepted() == {}


def answer_length(simulator: Provider, use_bulk: bool, size: int) -> int:
    """How many bytes a polite response has, its head included."""
    message = {"trafficAccountId": ACCOUNT, "destination": "+306900000000", "sms": {"text": "Hello", "sender": "Shop"}}
    path, body = (BULK_PATH, {"messages": [message] * size}) if use_bulk else (SEND_PATH, message)
    response = httpx.post(simulator.base_url + path, json=body, headers={"X-Mitto-API-Key": "key"}, trust_env=False)
    head = [b"HTTP/1.1 200 OK", *(name + b": " + value for name, value in response.headers.raw), b"", b""]
    return len(b"\r\n".join(head)) + len(response.content)


async def test_every_status_there_is_comes_to_something_that_is_true(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    """Those below 400 were accepted, and some from 500 on both ways; the others were not."""
    before = [Behaviour(status=status) for status in range(200, 600)]
    after = [Behaviour(status=status, accept=True) for status in range(500, 600, 10)]
    await send_into(configure, simulator, peers, [*before, *after])

    accepted = {int(message.destination[1:]) for message in simulator.accepted()}
    reported = {phone: outcome for phone, (outcome, _, _) in peers.campaign.recipients.items()}
    assert set(reported.values()) == {"ACCEPTED", "FAILED", "AMBIGUOUS"}
    assert {phone for phone, outcome in reported.items() if outcome == "ACCEPTED"} <= accepted
    assert {phone for phone, outcome in reported.items() if outcome == "FAILED"}.isdisjoint(accepted)
    assert len(accepted) >= 210
