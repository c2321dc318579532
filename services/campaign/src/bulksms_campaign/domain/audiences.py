"""Audiences: which contacts a campaign goes to."""

from __future__ import annotations

from dataclasses import dataclass

from bulksms_campaign.domain.arguments import groups_from
from servicekit.arguments import ArgumentCheck


@dataclass(frozen=True, slots=True)
class Audience:
    """All contacts of a tenant, or those in at least one of `groups`; never those in one of `exclude_groups`."""

    all_contacts: bool
    groups: tuple[str, ...] = ()
    exclude_groups: tuple[str, ...] = ()

    @property
    def single_list(self) -> str | None:
        """The one list it consists of, whose size is kept: a group, or "" for all contacts; None when composed."""
        if self.exclude_groups:
            return None
        if self.all_contacts:
            return ""
        return self.groups[0] if len(self.groups) == 1 else None

    @property
    def is_counted(self) -> bool:
        """Must somebody count to know its size? Otherwise the cached counts of lists say."""
        return len(self.counted.groups) > 0 and self.counted.single_list is None

    @property
    def counted(self) -> Audience:
        """The part that must be counted to know its size, in one form however it was written.

        All contacts but those in some groups are as many as all contacts less those in the groups: where this audience
        is of all contacts, the part is what to take off.
        """
        if self.all_contacts:
            return Audience(all_contacts=False, groups=tuple(sorted(set(self.exclude_groups))))
        excluded = set(self.exclude_groups)
        return Audience(
            all_contacts=False,
            groups=tuple(sorted(set(self.groups) - excluded)),
            exclude_groups=tuple(sorted(excluded)),
        )

    def size(self, everybody: AudienceSize, counted: AudienceSize) -> AudienceSize:
        """Its size, by that of all contacts and of the part that was counted."""
        return everybody - counted if self.all_contacts else counted

    def share(self, member: Membership) -> AudienceSize:
        """What one contact adds to its size."""
        included = self.all_contacts or not member.groups.isdisjoint(self.groups)
        selected = included and member.groups.isdisjoint(self.exclude_groups)
        return AudienceSize(int(selected and not member.opted_out), int(selected and member.opted_out))


@dataclass(frozen=True, slots=True)
class AudienceSize:
    """How many contacts an audience selects: those that can be written to, and those that have opted out."""

    reachable: int
    opted_out: int

    def __add__(self, other: AudienceSize) -> AudienceSize:
        return AudienceSize(self.reachable + other.reachable, self.opted_out + other.opted_out)

    def __sub__(self, other: AudienceSize) -> AudienceSize:
        return AudienceSize(self.reachable - other.reachable, self.opted_out - other.opted_out)


@dataclass(frozen=True, slots=True)
class Membership:
    """What of one contact decides whom it counts for; one that is in no group may be no contact at all."""

    groups: frozenset[str]
    opted_out: bool

    def lists_changed(self, after: Membership) -> frozenset[str]:
        """The groups whose size is another when it becomes `after`."""
        return self.groups ^ after.groups if self.opted_out is after.opted_out else self.groups | after.groups


def check_audience(
    check: ArgumentCheck, *, all_contacts: bool, groups: list[str], exclude_groups: list[str], field: str = "audience"
) -> Audience:
    """The audience of a request; exactly one of `all_contacts` and `groups` selects somebody."""
    if all_contacts == bool(groups):
        check.wrong(field, "must have all_contacts: true, or groups with at least one name")
    return Audience(
        all_contacts,
        groups_from(check, f"{field}.groups.names", groups),
        groups_from(check, f"{field}.exclude_groups", exclude_groups),
    )
