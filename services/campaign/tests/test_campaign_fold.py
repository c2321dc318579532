"""The fold of facts: any order, any number of repeats, the same in Python and in SQL."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from bulksms_campaign.domain.counters import Counters, Transition, counted, movement
from bulksms_campaign.domain.recipients import Fact, Known, RecipientStatus, description_of, reason_of, status_of
from bulksms_campaign.storage.folding import recorded_epoch_sql, recorded_facts_sql, status_sql
from servicekit.database import Database

FACTS = [fact for fact in Fact if fact]
reported = st.lists(st.tuples(st.sampled_from(FACTS), st.integers(1, 4)), max_size=8)


def known_after(facts: list[tuple[Fact, int]]) -> Known:
    known = Known()
    for fact, epoch in facts:
        known = known.with_fact(fact, epoch)
    return known


@given(reported, st.randoms(use_true_random=False))
def test_any_order_and_any_number_of_repeats_give_the_same(facts: list[tuple[Fact, int]], rng: random.Random) -> None:
    shuffled = facts + [rng.choice(facts) for _ in range(3) if facts]
    rng.shuffle(shuffled)
    assert known_after(shuffled) == known_after(facts)


def test_a_late_sent_never_overwrites_delivered() -> None:
    facts = Fact.ACCEPTED | Fact.DELIVERED
    assert status_of(facts | Fact.REPORTED_SENT) is RecipientStatus.DELIVERED


def test_ambiguous_is_resolved_by_acceptance_and_by_refusal() -> None:
    assert known_after([(Fact.AMBIGUOUS, 2), (Fact.ACCEPTED, 2)]).status is RecipientStatus.SENT
    assert known_after([(Fact.AMBIGUOUS, 2), (Fact.FAILED, 2)]).status is RecipientStatus.FAILED


def test_a_batch_given_up_and_then_ambiguous_in_a_later_attempt_is_unconfirmed_and_not_failed() -> None:
    assert known_after([(Fact.FAILED, 6), (Fact.AMBIGUOUS, 7)]).status is RecipientStatus.UNCONFIRMED
    assert known_after([(Fact.AMBIGUOUS, 7), (Fact.FAILED, 6)]).status is RecipientStatus.UNCONFIRMED


def test_what_was_accepted_once_stays_accepted_whatever_other_attempts_say() -> None:
    assert known_after([(Fact.ACCEPTED, 1), (Fact.FAILED, 9)]).status is RecipientStatus.SENT


@given(st.lists(st.tuples(reported, reported), max_size=20))
def test_moving_the_counters_is_the_same_as_counting_again(
    recipients: list[tuple[list[tuple[Fact, int]], list[tuple[Fact, int]]]],
) -> None:
    before = [known_after(first).facts for first, _ in recipients]
    after = [known_after(first + second).facts for first, second in recipients]
    at_first = Counters()
    for facts in before:
        at_first = at_first.plus(counted(facts, 1, 2))
    moved = at_first.plus(movement(Transition(old, new, 1, 2) for old, new in zip(before, after, strict=True)))
    recounted = Counters()
    for facts in after:
        recounted = recounted.plus(counted(facts, 1, 2))
    assert moved == recounted
    assert moved.queued + moved.sent + moved.failed + moved.unconfirmed + moved.cancelled == len(recipients)


def test_accepted_under_an_id_that_is_somebody_elses_is_unconfirmed_and_paid_for() -> None:
    facts = Fact.AMBIGUOUS | Fact.ACCEPTED | Fact.ID_REFUSED
    assert status_of(facts) is RecipientStatus.UNCONFIRMED
    assert counted(facts, 1, 1) == Counters(total=1, unconfirmed=1, accepted=1, accepted_units=1)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (Fact.NONE, ("", "")),
        (Fact.AMBIGUOUS, ("AMBIGUOUS", "of the request")),
        (Fact.AMBIGUOUS | Fact.ACCEPTED, ("", "")),
        (Fact.ACCEPTED | Fact.NOT_DELIVERED, ("NOT_DELIVERED", "of the report")),
        (Fact.ACCEPTED | Fact.NOT_DELIVERED | Fact.DELIVERED, ("", "")),
        (Fact.FAILED, ("PROVIDER_REJECTED", "of the request")),
        (Fact.FAILED | Fact.ACCEPTED, ("", "")),
        (Fact.CANCELLED, ("CAMPAIGN_CANCELLED", "of the request")),
        (Fact.OPTED_OUT, ("OPTED_OUT", "of the request")),
        (Fact.ACCEPTED | Fact.ID_REFUSED, ("ID_KNOWN", "of the request")),
    ],
)
def test_reason_and_words_are_those_of_the_status_shown(facts: Fact, said: tuple[str, str]) -> None:
    words = description_of(facts, "of the request", "of the report")
    assert (reason_of(facts, "PROVIDER_REJECTED"), words) == said


async def test_sql_folds_as_python_does(campaign_database: Database) -> None:
    rng = random.Random(7)
    cases = [
        (int(fact), int(other), epoch, epoch_of_fact)
        for fact in FACTS
        for other in FACTS
        for epoch, epoch_of_fact in ((1, 1), (1, 2), (2, 1))
    ]
    cases += [
        (rng.randrange(4096), int(rng.choice(FACTS)), rng.randrange(1, 4), rng.randrange(1, 4)) for _ in range(2000)
    ]
    facts_sql = recorded_facts_sql("f", "e", "n", "ne")
    query = text(
        f"SELECT {facts_sql}, {recorded_epoch_sql('e', 'n', 'ne')}, {status_sql(facts_sql)}"
        " FROM unnest(CAST(:f AS smallint[]), CAST(:n AS smallint[]), CAST(:e AS int[]), CAST(:ne AS int[]))"
        " WITH ORDINALITY AS t (f, n, e, ne, i) ORDER BY i"
    )
    columns = [list(column) for column in zip(*cases, strict=True)]
    async with campaign_database.connect() as connection:
        rows = (await connection.execute(query, dict(zip(("f", "n", "e", "ne"), columns, strict=True)))).all()
    for (facts, fact, epoch, epoch_of_fact), row in zip(cases, rows, strict=True):
        known = Known(epoch, Fact(facts)).with_fact(Fact(fact), epoch_of_fact)
        assert tuple(row) == (int(known.facts), known.epoch, int(known.status))
