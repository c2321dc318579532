"""Results of a dispatcher whose database was set back: epochs come again, and attempts it has forgotten stay unsure."""

from __future__ import annotations

from uuid import UUID, uuid4

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms.campaign.v1 import results_pb2
from bulksms.types.v1 import types_pb2
from bulksms_campaign.domain.attempts import ReportedAttempt
from devstack.eventually import eventually

from .campaign_support import TENANT, Service, accepted, outcome, refused

PHONES = [306940000000 + number for number in range(1, 7)]
FAILED, AMBIGUOUS = results_pb2.RECIPIENT_OUTCOME_FAILED, results_pb2.RECIPIENT_OUTCOME_AMBIGUOUS
FIRST, SECOND = UUID(int=1), UUID(int=2)


async def statuses(service: Service, campaign_id: str) -> list[str]:
    """Of all recipients in phone order."""
    names = pb.RecipientStatus.Name
    return [names(row.status).removeprefix("RECIPIENT_STATUS_") for row in await service.recipients(campaign_id)]


class Batch:
    """One batch of everybody, and its attempts as a dispatcher reports them."""

    def __init__(self, service: Service, campaign_id: str) -> None:
        self.service, self.campaign_id, self.batch_id = service, campaign_id, str(uuid4())

    async def report(
        self, kind: results_pb2.RecipientOutcome.ValueType, attempt: UUID | None, epoch: int, phones: list[int] = PHONES
    ) -> list[str]:
        """Report it twice, as repeats happen; the statuses then."""
        group = accepted(phones) if kind == results_pb2.RECIPIENT_OUTCOME_ACCEPTED else outcome(kind, phones)
        for _ in range(2):
            await self.service.record(
                self.campaign_id, group, epoch=epoch, batch_id=self.batch_id, attempt_id=str(attempt or "")
            )
        assert (await self.service.recount(self.campaign_id)).consistent
        return await statuses(self.service, self.campaign_id)


async def started(service: Service) -> Batch:
    return Batch(service, await service.started(PHONES))


async def test_what_may_have_been_sent_stays_so_whatever_is_proved_of_another_attempt(service: Service) -> None:
    batch = await started(service)
    unconfirmed = ["UNCONFIRMED"] * 6
    assert await batch.report(AMBIGUOUS, FIRST, 3) == unconfirmed
    for attempt, epoch in ((SECOND, 1), (SECOND, 3), (SECOND, 9), (None, 3), (None, 9)):
        assert await batch.report(FAILED, attempt, epoch) == unconfirmed
    await eventually(lambda: service.is_in(batch.campaign_id, pb.CAMPAIGN_STATE_SENT))
    retry = pb.RetryFailedRecipientsRequest(request_id=str(uuid4()), tenant_id=TENANT, campaign_id=batch.campaign_id)
    assert (await refused(service.campaigns.RetryFailedRecipients(retry))).reason == "EMPTY_AUDIENCE"


async def test_an_attempt_that_may_have_sent_is_believed_after_one_that_failed_even_under_an_earlier_epoch(
    service: Service,
) -> None:
    batch = await started(service)
    assert await batch.report(FAILED, FIRST, 4) == ["FAILED"] * 6
    assert await batch.report(AMBIGUOUS, SECOND, 2) == ["UNCONFIRMED"] * 6
    assert await batch.report(FAILED, SECOND, 2) == ["FAILED"] * 6


async def test_who_was_not_unsure_fails_by_the_attempt_that_came_after_the_restore(service: Service) -> None:
    batch = await started(service)
    assert await batch.report(AMBIGUOUS, FIRST, 1, PHONES[:2]) == ["UNCONFIRMED"] * 2 + ["QUEUED"] * 4
    assert await batch.report(FAILED, SECOND, 1) == ["UNCONFIRMED"] * 2 + ["FAILED"] * 4


async def test_what_was_accepted_is_counted_once_whichever_attempt_says_so(service: Service) -> None:
    batch = await started(service)
    accepted_once = ["SENT"] * 6
    assert await batch.report(results_pb2.RECIPIENT_OUTCOME_ACCEPTED, FIRST, 2) == accepted_once
    assert await batch.report(results_pb2.RECIPIENT_OUTCOME_ACCEPTED, SECOND, 1) == accepted_once
    assert await batch.report(FAILED, None, 5) == accepted_once
    assert (await service.get(batch.campaign_id)).counters.accepted == 6


async def test_what_is_ambiguous_by_one_attempt_is_resolved_by_proof_of_that_attempt(service: Service) -> None:
    batch = await started(service)
    await batch.report(AMBIGUOUS, FIRST, 3)
    assert await batch.report(FAILED, FIRST, 3) == ["FAILED"] * 6
    reasons = {row.reason for row in await service.recipients(batch.campaign_id)}
    assert reasons == {types_pb2.OUTCOME_REASON_ATTEMPTS_EXHAUSTED}


def test_another_attempt_comes_later_and_a_repeat_counts_as_the_first_time() -> None:
    before = ReportedAttempt(4, FIRST, FIRST)
    second = ReportedAttempt(2, SECOND, None)
    assert second.following(before) == ReportedAttempt(5, SECOND, FIRST)
    assert second.following(second.following(before)) == second.following(before)
    for other in (ReportedAttempt(2, FIRST, None), ReportedAttempt(2, None, None)):
        assert other.following(before) == before
    assert second.following(None) == second
    assert second.following(ReportedAttempt(4, None, None)) == second


def test_proof_of_another_attempt_is_foreign_also_when_it_comes_again() -> None:
    before = ReportedAttempt(4, FIRST, FIRST)
    second, nothing_armed = ReportedAttempt(2, SECOND, None), ReportedAttempt(2, None, None)
    assert [one.is_foreign_to(before) for one in (before, second, nothing_armed)] == [False, True, True]
    assert second.is_foreign_to(second.following(before))
    assert not second.is_foreign_to(None)
    assert not second.is_foreign_to(ReportedAttempt(4, FIRST, None))
