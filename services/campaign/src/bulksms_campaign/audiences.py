"""Audiences: which contacts a campaign goes to."""

from __future__ import annotations

from dataclasses import dataclass

from bulksms_campaign.arguments import groups_from
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


@dataclass(frozen=True, slots=True)
class AudienceSize:
    """How many contacts an audience selects: those that can be written to, and those that have opted out."""

    reachable: int
    opted_out: int


def check_audience(
    check: ArgumentCheck, *, all_contacts: bool, groups: list[str], exclude_groups: list[str], field: str = "audience"
) -> Audience:
    """The audience of a request; exactly one of `all_contacts` and `groups` must be set."""
    if all_contacts == bool(groups):
        check.wrong(field, "must have exactly one of all_contacts and groups")
    return Audience(
        all_contacts,
        groups_from(check, f"{field}.groups", groups),
        groups_from(check, f"{field}.exclude_groups", exclude_groups),
    )
