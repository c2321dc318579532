"""The messages the simulator knows: found by id, kept compactly, their content read back from the log."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from devstack.mitto.accepted_log import Record
from devstack.mitto.delivery import Delivery, Outcome
from devstack.mitto.message_ids import block_key
from devstack.mitto.wire import (
    Conversation,
    MessageSender,
    MessageView,
    OutgoingMessage,
    RequestInfo,
    Sms,
    count_parts,
    decode_messages,
    timestamp,
)

CACHED_MESSAGES = 100_000
"""Decoded messages kept at hand: about 50 MB, some seconds of the fastest load."""

MAX_SEARCHED = 64
"""How many of the oldest requests are looked at for one that may be forgotten."""


@dataclass(slots=True)
class AcceptedRequest:
    """One accepted request: where it is in the log, and under which terms it is delivered."""

    record: Record
    delivery: Delivery
    pending_reports: bool = False
    hurried: bool = False
    """A flush made every status due at once."""

    @property
    def count(self) -> int:
        return self.record.header.count

    @property
    def accepted_at(self) -> float:
        return self.record.header.received_at


@dataclass(frozen=True, slots=True)
class Content:
    """The decoded messages of a request with their ids."""

    messages: list[OutgoingMessage]
    ids: list[str]


class AcceptedRequests:
    """All accepted requests up to a cap; beyond it the oldest that owe no report are forgotten, and counted."""

    def __init__(self, read_body: Callable[[Record], bytes], seed: int, capacity: int) -> None:
        self._read_body = read_body
        self._seed = seed
        self._capacity = capacity
        self._requests: OrderedDict[int, AcceptedRequest] = OrderedDict()
        self._by_block: dict[str, tuple[int, int]] = {}
        self._cache: OrderedDict[int, Content] = OrderedDict()
        self._cached_messages = 0
        self.forgotten_requests = 0

    def add(self, request: AcceptedRequest, content: Content | None) -> None:
        """Remember a request that is in the log."""
        number = request.record.header.request
        self._requests[number] = request
        for index, block in enumerate(request.record.header.blocks):
            self._by_block[block.key] = (number, index)
        if content is not None:
            self._remember(number, content)
        if len(self._requests) > self._capacity:
            self._forget_oldest()

    def content(self, request: AcceptedRequest) -> Content:
        """The messages of a request, from memory or from the log."""
        header = request.record.header
        cached = self._cache.get(header.request)
        if cached is not None:
            self._cache.move_to_end(header.request)
            return cached
        messages = header.select(decode_messages(header.path, self._read_body(request.record)))
        content = Content(messages, header.message_ids())
        self._remember(header.request, content)
        return content

    def earlier_ids(self, count: int) -> list[str]:
        """Up to `count` message ids of the latest request there was."""
        if not self._requests:
            return []
        newest = next(reversed(self._requests.values()))
        return newest.record.header.message_ids()[:count]

    def find(self, message_id: str) -> tuple[AcceptedRequest, int] | None:
        """The request that a message id belongs to, and the message's index in it."""
        key = block_key(message_id)
        if key is None or (place := self._by_block.get(key)) is None:
            return None
        request = self._requests[place[0]]
        blocks = request.record.header.blocks
        position = blocks[place[1]].position(message_id)
        if position is None:
            return None
        return request, sum(block.count for block in blocks[: place[1]]) + position

    def status_of(self, request: AcceptedRequest, index: int, now: float) -> tuple[Outcome, int]:
        """A message's outcome, and the number of the status it has reached by now (-1: none yet)."""
        content = self.content(request)
        delivery = request.delivery
        outcome = delivery.outcome(content.messages[index].destination, content.ids[index], self._seed)
        steps = len(outcome.statuses)
        if request.hurried:
            return outcome, steps - 1
        return outcome, delivery.step_at(now, request.accepted_at, steps, index / request.count)

    def view(self, request: AcceptedRequest, index: int, now: float) -> MessageView:
        """A message as the GET call shows it."""
        content = self.content(request)
        outcome, step = self.status_of(request, index, now)
        updated_at = request.accepted_at
        if step >= 0:
            updated_at = min(now, request.delivery.due(request.accepted_at, step, index / request.count))
        return describe(
            content.ids[index],
            content.messages[index],
            status=outcome.statuses[step] if step >= 0 else "Pending",
            description=outcome.description if step == len(outcome.statuses) - 1 else None,
            created_at=timestamp(request.accepted_at),
            updated_at=timestamp(updated_at),
        )

    def _remember(self, number: int, content: Content) -> None:
        self._cache[number] = content
        self._cached_messages += len(content.ids)
        while self._cached_messages > CACHED_MESSAGES and len(self._cache) > 1:
            _, oldest = self._cache.popitem(last=False)
            self._cached_messages -= len(oldest.ids)

    def _forget_oldest(self) -> None:
        oldest = islice(self._requests.items(), MAX_SEARCHED)
        number, request = next((item for item in oldest if not item[1].pending_reports), (0, None))
        if request is None:
            return
        del self._requests[number]
        for block in request.record.header.blocks:
            self._by_block.pop(block.key, None)
        dropped = self._cache.pop(number, None)
        if dropped is not None:
            self._cached_messages -= len(dropped.ids)
        self.forgotten_requests += 1


def describe(
    message_id: str,
    message: OutgoingMessage,
    *,
    status: str,
    description: str | None,
    created_at: str,
    updated_at: str,
) -> MessageView:
    """A message in the form of the GET call and of delivery reports."""
    sender, text = message.sms.sender, message.sms.text
    return MessageView(
        message_id=message_id,
        text=text,
        sender=MessageSender(_identity(sender), sender, sender),
        conversation=Conversation(
            _identity(message.destination),
            [MessageSender(message_id, message.destination, message.destination)],
        ),
        created_at=created_at,
        updated_at=updated_at,
        traffic_account_id=message.traffic_account_id,
        delivery_status=status,
        description=description,
        message_parts=_count_parts(text),
        request_info=RequestInfo(Sms(text, sender)),
    )


def _identity(name: str) -> str:
    """The id Mitto would have given to a sender or a conversation: one per name."""
    return f"00000000-0000-4000-8000-{zlib.crc32(name.encode()):012x}"


# Most messages of a campaign have the same few texts.
_count_parts = lru_cache(4096)(count_parts)
