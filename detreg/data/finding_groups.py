"""Groups of equal findings, for people and machines: one entry instead of thousands."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict

from detreg.data.findings import Finding, FindingKind, Severity
from detreg.data.leaving_out import can_leave_out
from detreg.errors import make_printable

MAX_EXAMPLES = 3

_NUMBER_OR_QUOTED = re.compile(r"[-+]?\d[\d.e+-]*|'[^']*'|\"[^\"]*\"")


class GroupSummary(TypedDict):
    """A group as `detreg check --json` prints it.

    message, remedy: of the first finding; those of the others may have other numbers and names.
    examples: the first lines, each with its place, what is wrong there and how to mend it.
    places: all of them, in the order in which they were found.
    """

    kind: str
    severity: str
    message: str
    remedy: str
    count: int
    examples: list[str]
    places: list[str]


@dataclass(frozen=True)
class FindingGroup:
    """Findings of one kind, severity and remedy, one or more, in the order they were found in."""

    findings: tuple[Finding, ...]

    @property
    def first(self) -> Finding:
        """The finding that stands for all."""
        return self.findings[0]

    @property
    def severity(self) -> Severity:
        """The severity of all of them."""
        return self.first.severity

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.findings)

    def list_examples(self, count: int = MAX_EXAMPLES) -> list[str]:
        """Return the first findings as lines with place, message and remedy."""
        return [
            make_printable(f"{finding.where}: {finding.text}") for finding in self.findings[:count]
        ]

    def list_places(self, count: int | None = None) -> list[str]:
        """Return the first places, or all of them."""
        return [make_printable(finding.where) for finding in self.findings[:count]]


def group_findings(findings: Iterable[Finding]) -> tuple[FindingGroup, ...]:
    """Return equal findings as groups, the most harmful first.

    That is by severity, and what may concern all labels before what concerns single images; then
    by how many there are, then in the order in which they were found.
    """
    exact: dict[tuple[Severity, FindingKind, str], list[Finding]] = {}
    for finding in findings:
        # Of one kind, what has the same remedy has the same cause.
        text = finding.remedy or finding.message
        exact.setdefault((finding.severity, finding.kind, text), []).append(finding)

    similar: dict[tuple[Severity, FindingKind, str], list[Finding]] = {}
    for (severity, kind, text), equal in exact.items():
        pattern = _NUMBER_OR_QUOTED.sub("#", text)
        similar.setdefault((severity, kind, pattern), []).extend(equal)

    severities = list(Severity)
    groups = [FindingGroup(tuple(equal)) for equal in similar.values()]
    groups.sort(
        key=lambda group: (
            severities.index(group.severity),
            can_leave_out(group.first),
            -group.count,
        )
    )
    return tuple(groups)


def summarize_group(group: FindingGroup) -> GroupSummary:
    """Return a group as plain values."""
    first = group.first
    return GroupSummary(
        kind=first.kind.value,
        severity=first.severity.value,
        message=make_printable(first.message),
        remedy=make_printable(first.remedy),
        count=group.count,
        examples=group.list_examples(),
        places=group.list_places(),
    )
