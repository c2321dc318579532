"""Makes contacts.csv: 10,000 lines of invented contacts, 3 % of them deliberately bad or duplicated.

    python examples/make_contacts.py > examples/contacts.csv

The same seed gives the same bytes. Numbers are drawn from each country's mobile ranges and written the ways people
write them: Greek ones often in national form (import with region GR), others international.
"""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Callable
from typing import TextIO

import phonenumbers

SEED = 20261122
LINES = 10_000
BAD_LINES = 200
DUPLICATE_LINES = 100
HEADER = ("first_name", "last_name", "phone")

# Country code, first digits of mobile numbers, digits that follow, share of the contacts.
COUNTRIES = (
    ("30", ("690", "693", "694", "697", "698"), 7, 0.62),
    ("357", ("96", "97", "99"), 6, 0.10),
    ("49", ("151", "160", "171"), 8, 0.08),
    ("39", ("347", "328", "333"), 7, 0.06),
    ("33", ("61", "62", "66"), 7, 0.05),
    ("44", ("7400", "7911", "7700"), 6, 0.04),
    ("40", ("72", "74"), 7, 0.03),
    ("359", ("87", "88"), 7, 0.02),
)
GREEK = (
    ("Γιώργος", "Μαρία", "Ελένη", "Νίκος", "Κατερίνα", "Δημήτρης", "Σοφία", "Γιάννης", "Άννα", "Θοδωρής"),
    ("Παπαδόπουλος", "Οικονόμου", "Γεωργίου", "Νικολάου", "Δημητρίου", "Ιωάννου", "Βασιλείου", "Καραγιάννη"),
)
LATIN = (
    ("Anna", "Luca", "Marie", "Jürgen", "Zoë", "James", "Elena", "Ivan", "Chloé", "Søren", "Łukasz", "Andrei"),
    ("Müller", "Rossi", "O'Brien", "Dupont", "Smith", "Popescu", "Ivanov", "García", "Weiß", "van der Berg, Jr."),
)


def main(out: TextIO) -> None:
    """Write the file."""
    chance = random.Random(SEED)
    numbers = draw_numbers(chance, LINES - BAD_LINES - DUPLICATE_LINES)
    rows = [[*draw_name(chance, country), spell(chance, country, national)] for country, national in numbers]
    for country, national in chance.sample(numbers, DUPLICATE_LINES):
        rows.append([*draw_name(chance, country), spell(chance, country, national)])
    rows.extend(spoil(chance) for _ in range(BAD_LINES))
    chance.shuffle(rows)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(rows)


def draw_numbers(chance: random.Random, count: int) -> list[tuple[str, str]]:
    """Distinct valid mobile numbers as (country code, national number)."""
    drawn: dict[tuple[str, str], None] = {}
    weights = [country[3] for country in COUNTRIES]
    while len(drawn) < count:
        code, prefixes, digits, _ = chance.choices(COUNTRIES, weights)[0]
        national = chance.choice(prefixes) + "".join(chance.choices("0123456789", k=digits))
        number = phonenumbers.parse(f"+{code}{national}")
        if (
            phonenumbers.is_valid_number(number)
            and phonenumbers.number_type(number) == phonenumbers.PhoneNumberType.MOBILE
        ):
            drawn[code, national] = None
    return list(drawn)


def draw_name(chance: random.Random, country: str) -> tuple[str, str]:
    """A first and a last name; some contacts have none."""
    firsts, lasts = GREEK if country in {"30", "357"} and chance.random() < 0.8 else LATIN
    first = "" if chance.random() < 0.04 else chance.choice(firsts)
    return first, chance.choice(lasts)


def spell(chance: random.Random, country: str, national: str) -> str:
    """The number as somebody might have typed it."""
    grouped = f"{national[:3]} {national[3:6]} {national[6:]}"
    spellings = [f"+{country}{national}", f"+{country} {grouped}", f"00{country}{national}", f"(+{country}) {grouped}"]
    if country == "30":
        spellings += [national, grouped, grouped.replace(" ", "-"), f"{country}{national}"]
    return chance.choice(spellings)


def spoil(chance: random.Random) -> list[str]:
    """A line that cannot be imported."""
    digits = "".join(chance.choices("0123456789", k=7))
    first, last = draw_name(chance, "30")
    kinds: list[Callable[[], list[str]]] = [
        lambda: [first, last, ""],
        lambda: [first, last, f"69{digits[:4]}"],
        lambda: [first, last, f"210{digits}"],
        lambda: [first, last, f"3.0694{digits[:2]}E+11"],
        lambda: [first, last, "n/a"],
        lambda: [first, last, f"+999{digits}"],
        lambda: [first, last, f"694{digits}", "one column too many"],
        lambda: [first],
    ]
    return chance.choice(kinds)()


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", newline="")  # type: ignore[union-attr]
    main(sys.stdout)
