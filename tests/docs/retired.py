"""Words that are gone from the project, each with the one that took its place.

A pattern is searched for in the text and the path of every file of the project. Excepted are this one, decisions, which
are history, and the glossary, which has the words of other systems beside ours. `only` narrows it to where the word had
a meaning of its own; `besides` are the files where an old name is still read, or said to be old.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ALLOWED", "RETIRED", "Retired"]


@dataclass(frozen=True, slots=True)
class Retired:
    """A pattern that must not be found, and what is said instead."""

    pattern: str
    instead: str
    only: tuple[str, ...] = ()
    besides: tuple[str, ...] = ()


ALLOWED = ("tests/docs/retired.py", "docs/decisions/", "docs/glossary.md")

CAMPAIGN = "services/campaign/"
DISPATCHER = "services/dispatcher/"
GATEWAY = "services/dlr-gateway/"
LEDGER = "services/ledger/"
PROTOS = "protos/"
DEPLOY = "deploy/"
SERVICES = (CAMPAIGN, DISPATCHER, GATEWAY, LEDGER)
PACING = "services/dispatcher/src/bulksms_dispatcher/pacing/"
# Settings of the source system that go on working: the table of old names, its test, and who runs it.
OLD_NAMES = (
    "services/dispatcher/src/bulksms_dispatcher/settings.py",
    "services/dispatcher/tests/test_dispatcher_settings.py",
    "services/dispatcher/README.md",
)

RETIRED = (
    # Telling others.
    Retired(r"[Tt]ellers?\b|_teller", "publisher"),
    Retired(r"told_by", "entry_version"),
    Retired(
        r"\b_?tell_|_tell\b|(?<!file\.)\btell\(|_TELL\b|\btold\(|_told\b|\btold_|\btold(?= =|\.\w| in )",
        "deliver, acknowledge, record",
    ),
    # The ledger's accounts in memory.
    Retired(r"\b[Dd]esks?\b", "gone"),
    Retired(r"\b[Bb]ooks?\b", "account session (ledger); accounts"),
    Retired(r"\b[Dd]rafts?\b", "gone", only=(LEDGER,)),
    Retired(r"decided? ahead|deciding ahead|\bcomes? true", "gone"),
    Retired(r"\bpins?\b|\bpinned\b|PINS?\b", "lot allocation", only=(LEDGER, PROTOS)),
    Retired(r"[Bb]ookkeep", "account writer (ledger)"),
    # Limits.
    Retired(r"[Jj]ourney", "in-flight request"),
    Retired(r"\b_?[Aa]rrivals\b|pacing.arrivals", "in-flight tracker", only=(DISPATCHER,)),
    Retired(r"\b[Pp]laces?\b", "rate-limit slot", only=(PACING,)),
    Retired(r"RATE_LIMIT_MARGIN|rate_limit_margin", "RATE_LIMIT_ARRIVAL_GRACE_MS", besides=OLD_NAMES),
    Retired(r"\bHOLD\b|hold_seconds|HOLD_SECONDS", "permit TTL; deferral", only=(DISPATCHER, DEPLOY, "docs/")),
    Retired(
        r"\b_?[Hh]older\b|\bHELD\b|dispatcher\.held|storage.holds", "deferred recipients", only=(DISPATCHER, "docs/")
    ),
    # Ends of things.
    Retired(r"(?i)settle", "record outcome; release slot; close reservation; disposition"),
    # What the provider says.
    Retired(
        r"RawAnswer|\bAnswered\b|_ANSWER\b|parse_answer|providers.answers|(?:FROM|INTO|TABLE) answers\b",
        "provider response; stored response",
        only=(DISPATCHER,),
    ),
    Retired(r"\bRefusals?\b(?=[(\[\]:,.)]| \|| =)|class Refusal\b", "Throttled; ProviderRejection; DomainRefusal"),
    # Saying that there is work.
    Retired(r"\b_?[Bb]ells?\b|_bells?\b|\brings?\(", "signals"),
    Retired(r"\b[Nn]otices?\b", "signals", only=SERVICES),
    Retired(r"(?i)\b_?wake_?\b|_wake\b|\bwake_|wakeups?\b|wake-ups?\b", "notify, signal"),
    # Ambiguity.
    Retired(r"(?i)doubt", "unresolved"),
    Retired(r"(?i)sighting", "provider record"),
    Retired(r"\b[Tt]wins?\b|_twins\b", "indistinguishable candidates", only=SERVICES),
    Retired(r"OperatorsWord|class Word\b|\bword\.", "lookup result; resolution", only=(DISPATCHER,)),
    Retired(r"(?i)\bvouch", "operator-confirmed"),
    Retired(r"(?i)left_out", "opted-out positions"),
    Retired(
        r"BATCH_STATE_UNKNOWN|BatchState\.UNKNOWN|OUTCOME_UNKNOWN|Outcome\.UNKNOWN|_S\.UNKNOWN",
        "UNRESOLVED",
    ),
    Retired(r"UNCONFIRMED_EXPIRED", "UNCONFIRMED, with a reason"),
    # Attempts.
    Retired(r"\bTry\b(?=[(\]:,)]| \|)|\bTried\b|workers.tries|next_try", "attempt", only=SERVICES),
    Retired(r"QUEUE_ATTEMPTS|queue_attempts", "QUEUE_MAX_RETRIES", besides=OLD_NAMES),
    Retired(r"QUEUE_RATE_DURATION|queue_rate_duration", "QUEUE_RATE_WINDOW_MS", besides=OLD_NAMES),
    # Sizes.
    Retired(r"kept sizes?|sizes? kept", "cached size"),
    Retired(r"\w_(?:LEAST|MOST)\b|size_(?:least|most)|, (?:least|most)=", "min, max"),
    # Opt-outs.
    Retired(r"(?i)suppress(?!_health_check)(?=[a-z_])|_suppress\b", "opt-out"),
    # A wrong configuration holds the account, and what is too large is halved.
    Retired(r"(?i)\bparked\b|\bparks\b|\bPARK\b", "held; halved"),
    # Second chances: a dead batch stays dead.
    Retired(r"(?i)requeue", "RetryFailedRecipients: another enqueue"),
    # Out of the project.
    Retired(
        r"\.\./shared|/work/|design notes|seeds of this project|(?i:\bissue #?\d)", "what this project's pages say"
    ),
)
