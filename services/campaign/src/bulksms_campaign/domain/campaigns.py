"""Campaigns: what they are made of, and which step is allowed in which state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from uuid import UUID

from bulksms_campaign.domain.audiences import Audience
from bulksms_campaign.domain.enqueues import EnqueueRecord
from servicekit.arguments import ArgumentCheck
from servicekit.errors import DomainError, already_exists, conflict, not_found, wrong_state
from smstext.sender import check_sender
from smstext.template import Template, TemplateError

VARIABLE_NAMES = ("first_name", "last_name")
MAX_TEXT = 1600


class CampaignState(IntEnum):
    """Where a campaign is in its life; numbered as in the contract and in the table."""

    DRAFT = 1
    SCHEDULED = 2
    SENDING = 3
    PAUSED = 4
    SENT = 5
    FAILED = 6
    CANCELLING = 7
    CANCELLED = 8


class CampaignPriority(IntEnum):
    """The queue lane; numbered as in the contract."""

    LOW = 1
    NORMAL = 2
    URGENT = 3


class MessageClass(IntEnum):
    """What a campaign is to its recipients; numbered as in the contract."""

    MARKETING = 1
    SERVICE = 2


class Step(IntEnum):
    """What can be asked of a campaign."""

    UPDATE = 1
    DELETE = 2
    SCHEDULE = 3
    ENQUEUE = 4
    PAUSE = 5
    RESUME = 6
    CANCEL = 7
    RETRY_FAILED = 8


# The whole state machine of the callers' side; workers add SENDING | PAUSED → SENT | FAILED and
# CANCELLING → CANCELLED, when nobody waits to be sent to any more.
ALLOWED_STATES: dict[Step, frozenset[CampaignState]] = {
    Step.UPDATE: frozenset({CampaignState.DRAFT, CampaignState.SCHEDULED}),
    Step.DELETE: frozenset({CampaignState.DRAFT}),
    Step.SCHEDULE: frozenset({CampaignState.DRAFT, CampaignState.SCHEDULED}),
    Step.ENQUEUE: frozenset({CampaignState.DRAFT, CampaignState.SCHEDULED}),
    Step.PAUSE: frozenset({CampaignState.SENDING}),
    Step.RESUME: frozenset({CampaignState.PAUSED}),
    Step.CANCEL: frozenset({CampaignState.DRAFT, CampaignState.SCHEDULED, CampaignState.SENDING, CampaignState.PAUSED}),
    Step.RETRY_FAILED: frozenset({CampaignState.SENT, CampaignState.FAILED}),
}
UNDER_WAY = frozenset({CampaignState.SENDING, CampaignState.PAUSED, CampaignState.CANCELLING})
HOLDABLE = UNDER_WAY | {CampaignState.SCHEDULED}
"""States in which something may keep a campaign from being sent, or from starting."""
ENDED = frozenset({CampaignState.SENT, CampaignState.FAILED, CampaignState.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignContent:
    """What a caller writes."""

    name: str
    text: str
    sender: str
    audience: Audience
    priority: CampaignPriority
    message_class: MessageClass
    not_after: datetime | None = None
    """What is not sent by then never is."""

    def is_too_late(self, now: datetime) -> bool:
        """Is nothing of it to be sent any more?"""
        return self.not_after is not None and self.not_after <= now


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """A campaign as stored."""

    campaign_id: UUID
    tenant_id: str
    external_id: str
    content: CampaignContent
    state: CampaignState
    revision: int
    created_at: datetime
    updated_at: datetime
    scheduled_at: datetime | None = None
    ended_at: datetime | None = None
    enqueue_number: int = 0
    enqueue: EnqueueRecord | None = None
    """The latest enqueue; None before the first."""

    @property
    def etag(self) -> str:
        """Another after every change."""
        return str(self.revision)

    def require_etag(self, etag: str) -> None:
        """Raise ETAG_MISMATCH when `etag` is given and not the campaign's now."""
        if etag and etag != self.etag:
            raise conflict(
                "ETAG_MISMATCH",
                "The campaign was changed since it was read: read it again and decide anew.",
                etag=self.etag,
            )

    def require(self, step: Step) -> None:
        """Raise CAMPAIGN_STATE unless `step` is allowed now."""
        allowed = ALLOWED_STATES[step]
        if self.state in allowed:
            return
        names = ", ".join(state.name for state in sorted(allowed))
        raise wrong_state(
            "CAMPAIGN_STATE",
            f"The campaign is {self.state.name}; {step.name} is possible only in {names}. {_CURES[self.state]}",
            state=self.state.name,
            allowed=names,
        )

    def require_time(self, now: datetime) -> None:
        """Raise TOO_LATE when its `not_after` has passed."""
        not_after = self.content.not_after
        if not_after is not None and self.content.is_too_late(now):
            raise wrong_state(
                "TOO_LATE",
                "The campaign's not_after has passed: give a draft a later one, or create a new campaign.",
                not_after=not_after.isoformat(),
            )


def check_content(check: ArgumentCheck, content: CampaignContent) -> None:
    """Note everything that is wrong with what a caller wrote."""
    check.text("name", content.name, minimum=1, maximum=200)
    check_text(check, content.text)
    wrong = check_sender(content.sender)
    if wrong is not None:
        check.wrong("sender", wrong)


def check_text(check: ArgumentCheck, text: str) -> None:
    """Note what is wrong with a template."""
    if not text.strip():
        check.wrong("text", f"is empty: write 1-{MAX_TEXT} characters")
        return
    if len(text) > MAX_TEXT:
        check.wrong("text", f"has {len(text)} characters: write at most {MAX_TEXT}")
        return
    if any(0xD800 <= ord(character) <= 0xDFFF or character == "\0" for character in text):
        check.wrong("text", "has characters that cannot be sent: leave out U+0000 and lone surrogates")
        return
    try:
        names = Template.parse(text).variable_names
    except TemplateError as error:
        check.wrong("text", str(error))
        return
    unknown = [name for name in names if name not in VARIABLE_NAMES]
    if unknown:
        check.wrong("text", f"uses the unknown placeholder {unknown[0]}: only {', '.join(VARIABLE_NAMES)} are known")


def campaign_not_found(campaign_id: UUID | str) -> DomainError:
    """There is no such campaign, or it is another tenant's: callers must not learn which."""
    return not_found(
        "CAMPAIGN_NOT_FOUND",
        "There is no campaign with this id for this tenant: check campaign_id and tenant_id.",
        campaign_id=campaign_id,
    )


def external_id_unknown(external_id: str) -> DomainError:
    """The same of the caller's own id."""
    return not_found(
        "CAMPAIGN_NOT_FOUND",
        "There is no campaign with this external id for this tenant: check external_id and tenant_id.",
        external_id=external_id,
    )


def external_id_used(campaign_id: UUID | str) -> DomainError:
    """A new campaign was given the external id of another."""
    return already_exists(
        "EXTERNAL_ID_USED",
        "Another campaign of this tenant has this external id: give it another one, or none.",
        campaign_id=campaign_id,
    )


_CURES = {
    CampaignState.DRAFT: "Enqueue it first.",
    CampaignState.SCHEDULED: "Take its schedule back or enqueue it first.",
    CampaignState.SENDING: "It has been enqueued already; watch, pause or cancel it, or create a new one.",
    CampaignState.PAUSED: "Resume or cancel it, or create a new one.",
    CampaignState.SENT: "It has ended; create a new one.",
    CampaignState.FAILED: "It has ended; create a new one.",
    CampaignState.CANCELLING: "It is being cancelled; create a new one.",
    CampaignState.CANCELLED: "It was cancelled; create a new one.",
}
