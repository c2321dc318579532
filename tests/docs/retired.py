"""Words that are gone from the project, each with the one that took its place.

A pattern is searched for in the text and the path of every file of the project. Excepted are this one, decisions, which
are history, and the glossary, which has the words of other systems beside ours. `only` narrows it to where the word had
a meaning of its own. `still_in` are the folders that have not been changed yet: none, at the end.
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
    still_in: tuple[str, ...] = ()


ALLOWED = ("tests/docs/retired.py", "docs/decisions/", "docs/glossary.md")

CAMPAIGN = "services/campaign/"
DISPATCHER = "services/dispatcher/"
GATEWAY = "services/dlr-gateway/"
LEDGER = "services/ledger/"
LIBS = "libs/"
PROTOS = "protos/"
BENCHMARKS = "benchmarks/"
DEPLOY = "deploy/"
SPANNING = "tests/"
SERVICES = (CAMPAIGN, DISPATCHER, GATEWAY, LEDGER)

RETIRED = (
    # Telling others.
    Retired(r"[Tt]ellers?\b|_teller", "publisher"),
    Retired(r"told_by", "entry_version"),
    Retired(r"\b_?tell_|_tell\b|(?<!file\.)\btell\(|_TELL\b|\btold\(|_told\b|\btold_", "deliver, record"),
    # The ledger's accounts in memory.
    Retired(r"\b[Dd]esks?\b", "gone", only=(LEDGER, BENCHMARKS)),
    Retired(r"\bBooks?\b|\bbooks?\b", "account session", only=(LEDGER,)),
    Retired(r"\b[Dd]rafts?\b", "gone", only=(LEDGER,)),
    Retired(r"decided? ahead|deciding ahead|\bcomes? true", "gone"),
    Retired(r"\bpins?\b|\bpinned\b|PINS?\b", "lot allocation", only=(LEDGER, PROTOS)),
    Retired(r"[Bb]ookkeep", "account writer (ledger)"),
    # Limits.
    Retired(r"[Jj]ourney", "in-flight request"),
    Retired(r"\b_?[Aa]rrivals\b|pacing.arrivals", "in-flight tracker", only=(DISPATCHER,)),
    Retired(r"RATE_LIMIT_MARGIN_MS=|rate_limit_margin", "RATE_LIMIT_ARRIVAL_GRACE_MS"),
    Retired(
        r"\bHOLD\b|\bhold_seconds|HOLD_SECONDS",
        "permit TTL; deferral",
        only=(DISPATCHER, DEPLOY, "docs/"),
    ),
    Retired(
        r"\b_?[Hh]older\b|\bHELD\b|dispatcher\.held|storage.holds",
        "deferred recipients",
        only=(DISPATCHER, "docs/"),
    ),
    # Ends of things.
    Retired(
        r"(?i)settle",
        "record outcome; release slot; close reservation; disposition",
        only=(*SERVICES, PROTOS, "docs/", BENCHMARKS),
    ),
    # What the provider says.
    Retired(
        r"RawAnswer|\bAnswered\b|_ANSWER\b|parse_answer|providers.answers|(?:FROM|INTO|TABLE) answers\b",
        "provider response; stored response",
        only=(DISPATCHER,),
    ),
    Retired(r"\bRefusals?\b", "Throttled; ProviderRejection; DomainRefusal", only=SERVICES),
    # Saying that there is work.
    Retired(r"\b_?[Bb]ells?\b|_bells?\b|\brings?\(", "signals", only=(CAMPAIGN,)),
    Retired(r"\b[Nn]otices?\b", "signals", only=(DISPATCHER,)),
    Retired(r"(?i)\b_?wake_?\b|_wake\b|\bwake_|wakeups?\b|wake-ups?\b", "notify, signal"),
    # Ambiguity.
    Retired(r"(?i)doubt", "unresolved"),
    Retired(r"[Ss]ighting|SIGHTING", "provider record"),
    Retired(r"\b[Tt]wins?\b|_twins\b", "indistinguishable candidates", only=SERVICES),
    Retired(r"OperatorsWord|class Word\b|\bword\.", "lookup result; resolution", only=(DISPATCHER,)),
    Retired(r"[Vv]ouched|\bvouch", "operator-confirmed"),
    Retired(r"left_out|LEFT_OUT", "opted-out positions"),
    Retired(
        r"BATCH_STATE_UNKNOWN|BatchState\.UNKNOWN|OUTCOME_UNKNOWN|Outcome\.UNKNOWN|_S\.UNKNOWN",
        ("UNRESOLVED; UNCONFIRMED"),
        still_in=(DISPATCHER, PROTOS),
    ),
    Retired(r"UNCONFIRMED_EXPIRED", "UNCONFIRMED, with a reason"),
    # Attempts.
    Retired(r"\bTry\b(?=[(\]:,)]| \|)|\bTried\b|workers.tries|next_try", "attempt", only=SERVICES),
    Retired(r"QUEUE_ATTEMPTS=|queue_attempts", "QUEUE_MAX_RETRIES"),
    # Sizes.
    Retired(r"kept sizes?|sizes? kept", "cached size"),
    Retired(r"\w_(?:LEAST|MOST)\b|size_(?:least|most)|, (?:least|most)=", "min, max"),
    # Opt-outs.
    Retired(
        r"(?i)suppress(?!_health_check)(?=[a-z_])|_suppress\b",
        "opt-out",
        still_in=(CAMPAIGN, DISPATCHER, PROTOS),
    ),
    # Out of the project.
    Retired(r"\.\./shared|/work/|design notes|seeds of this project|(?i:\bissue #?\d)", "what this project says"),
)
