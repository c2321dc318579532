"""The fold of facts as SQL expressions, made from the very rules the Python fold uses."""

from __future__ import annotations

from bulksms_campaign.domain.recipients import LASTING, STATUS_RULES, STRENGTH_RULES, RecipientStatus

LASTING_MASK = int(LASTING)


def status_sql(facts: str) -> str:
    """The status that the facts in this expression make."""
    rules = " ".join(f"WHEN {facts} & {int(mask)} <> 0 THEN {int(status)}" for mask, status in STATUS_RULES)
    return f"(CASE {rules} ELSE {int(RecipientStatus.QUEUED)} END)::smallint"


def strength_sql(facts: str) -> str:
    """How strong the strongest dispatcher fact in this expression is; 0 without one."""
    rules = " ".join(f"WHEN {facts} & {int(mask)} <> 0 THEN {strength}" for mask, strength in STRENGTH_RULES)
    return f"(CASE {rules} ELSE 0 END)"


def recorded_facts_sql(known_facts: str, known_epoch: str, fact: str, epoch: str) -> str:
    """The facts that count after `fact` of `epoch` was recorded."""
    return (
        f"(CASE WHEN {fact} & {LASTING_MASK} <> 0 OR {epoch} = {known_epoch} THEN {known_facts} | {fact}"
        f" WHEN {epoch} > {known_epoch} THEN {known_facts} & {LASTING_MASK} | {fact}"
        f" ELSE {known_facts} END)::smallint"
    )


def recorded_epoch_sql(known_epoch: str, fact: str, epoch: str) -> str:
    """The latest epoch heard of after `fact` of `epoch` was recorded."""
    return f"(CASE WHEN {fact} & {LASTING_MASK} <> 0 THEN {known_epoch} ELSE greatest({known_epoch}, {epoch}) END)"
