"""Single sends: one message as a batch of one in the urgent lane, its credit reserved before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import NO_CAMPAIGN
from bulksms_dispatcher.domain.messages import (
    Message,
    MessageClass,
    MessageReference,
    MessageStatus,
    fingerprint_of,
    message_id_of,
    reservation_id_of,
)
from bulksms_dispatcher.domain.recipients import Recipients
from bulksms_dispatcher.domain.submissions import Submission
from bulksms_dispatcher.peers.ledger import LedgerPeer
from bulksms_dispatcher.storage import messages, opt_outs, submissions
from bulksms_dispatcher.use_cases.signals import MessageSignals
from servicekit import deadlines, errors
from servicekit.clock import Clock
from servicekit.database import Database
from servicekit.errors import DomainError
from servicekit.ids import derived_id
from servicekit.telemetry import current_traceparent
from servicekit.waiting import is_set_within
from smstext.parts import measure

__all__ = ["SingleSend", "SingleSends"]

_URGENT = 3
_CREDITS = 1  # CREDIT_UNIT=message
# One provider call: connecting, and the soft timeout after which the message is UNCONFIRMED.
_LONGEST_WAIT = timedelta(seconds=45)
_REPLY_MARGIN = timedelta(milliseconds=500)
_POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class SingleSend:
    """What is asked for."""

    request_id: UUID
    tenant_id: str
    phone: int
    text: str
    sender: str
    external_id: str = ""
    message_class: MessageClass = MessageClass.SERVICE


class SingleSends:
    """Every step finds what an earlier call with the same request id has done, and goes on from there."""

    def __init__(
        self,
        database: Database,
        ledger: LedgerPeer,
        signals: MessageSignals,
        clock: Clock,
        *,
        validity: timedelta,
        notify: Callable[[], None],
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._signals = signals
        self._clock = clock
        self._validity = validity
        self._notify = notify

    async def send(self, wanted: SingleSend) -> tuple[Message, bool]:
        """Send, or find what became of the same request; True when it had been asked for before."""
        message_id = message_id_of(wanted.tenant_id, wanted.request_id)
        replayed = not await self._note(message_id, wanted)
        with self._signals.awaiting(message_id) as changed:
            waiting = await self._waiting(message_id, wanted)
            if waiting is not None:
                await self._reserve(waiting)
                await self._queue(waiting, wanted)
                self._notify()
            return await self._outcome(message_id, wanted.tenant_id, changed), replayed

    async def _note(self, message_id: UUID, wanted: SingleSend) -> bool:
        """Store what is asked for; False when it is there already."""
        message = Message(
            message_id,
            wanted.tenant_id,
            wanted.phone,
            wanted.sender,
            measure(wanted.text).parts,
            wanted.external_id,
            wanted.message_class,
        )
        fingerprint = fingerprint_of(message, wanted.text)
        async with self._database.begin() as connection:
            found = await messages.find_fingerprint(connection, wanted.tenant_id, message_id)
            if found is None:
                if (await opt_outs.find(connection, wanted.tenant_id, [wanted.phone])).phones:
                    raise errors.wrong_state(
                        "RECIPIENT_OPTED_OUT", "The recipient does not want messages: opt the number in first."
                    )
                if await messages.insert(connection, message, fingerprint):
                    return True
                found = await messages.find_fingerprint(connection, wanted.tenant_id, message_id)
                if found is None:
                    raise await self._external_id_used(connection, wanted)
        if found != fingerprint:
            raise errors.already_exists(
                "REQUEST_ID_REUSED",
                "This request id was used for another message: use a new one.",
                differs="phone, text, sender, external_id or message_class",
            )
        return False

    @staticmethod
    async def _external_id_used(connection: AsyncConnection, wanted: SingleSend) -> DomainError:
        other = await messages.find(connection, wanted.tenant_id, MessageReference(external_id=wanted.external_id))
        return errors.already_exists(
            "EXTERNAL_ID_USED",
            "Another message of this tenant has this external id: give it another one, or none.",
            message_id=other.message_id if other is not None else "",
        )

    async def _waiting(self, message_id: UUID, wanted: SingleSend) -> Message | None:
        """The message to be queued; None when it was queued before, or given up because its first caller died."""
        async with self._database.connect() as connection:
            if await submissions.find(connection, wanted.tenant_id, message_id) is not None:
                return None
            message = await messages.find(connection, wanted.tenant_id, MessageReference(message_id=message_id))
        return message if message is not None and message.status is MessageStatus.QUEUED else None

    async def _reserve(self, message: Message) -> None:
        """Take the credit. The ledger replays a refusal for ever: a repeat, which has a new row, asks with a new id."""
        try:
            await self._ledger.reserve(
                derived_id(message.message_id, "reserve", message.created_at),
                message.tenant_id,
                reservation_id_of(message.message_id),
                units=_CREDITS,
                campaign_id=message.message_id,
            )
        except DomainError as error:
            if not error.retryable:
                async with self._database.begin() as connection:
                    await messages.delete_unsent(connection, message)
            raise

    async def _queue(self, message: Message, wanted: SingleSend) -> None:
        message_id = message.message_id
        submission = Submission(
            submission_id=message_id,
            tenant_id=wanted.tenant_id,
            campaign_id=NO_CAMPAIGN,
            enqueue_number=0,
            reservation_id=reservation_id_of(message_id),
            text=wanted.text,
            variable_names=(),
            sender=wanted.sender,
            priority=_URGENT,
            traceparent=current_traceparent(),
            # One message, one person: its id says who stands at its only position, and nothing of the number.
            snapshot_digest=message_id.bytes,
            message_class=wanted.message_class,
            not_after=self._not_after(message),
        )
        async with self._database.begin() as connection:
            if not await messages.is_waiting(connection, wanted.tenant_id, message_id):
                # Sent or swept in the meantime; if it was never queued, the credit just taken is given back.
                await messages.fail_unqueued(connection, wanted.tenant_id, message_id)
            elif await submissions.insert(connection, submission):
                await submissions.insert_batch(connection, submission, 0, Recipients([wanted.phone]))

    def _not_after(self, message: Message) -> datetime | None:
        """A code is worth nothing later; counted from when it was asked for, whatever became of its first caller."""
        if message.message_class is not MessageClass.SERVICE or message.created_at is None:
            return None
        return message.created_at + self._validity

    async def _outcome(self, message_id: UUID, tenant_id: str, changed: asyncio.Event) -> Message:
        """The message once it is no longer QUEUED, or as it is when the caller's time is up."""
        left = deadlines.remaining()
        wait = _LONGEST_WAIT if left is None else min(_LONGEST_WAIT, left - _REPLY_MARGIN)
        end = self._clock.monotonic() + wait.total_seconds()
        while True:
            changed.clear()
            async with self._database.connect() as connection:
                message = await messages.find(connection, tenant_id, MessageReference(message_id))
            if message is None:
                raise errors.conflict("MESSAGE_REFUSED", "Another call with this request id was refused: repeat it.")
            if message.status is not MessageStatus.QUEUED or self._clock.monotonic() >= end:
                return message
            await is_set_within(changed, _POLL_SECONDS)
