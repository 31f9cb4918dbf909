"""Which version of a registered model is champion: a pure function of what the registry holds.

The versions are taken one by one in the order of their numbers, as if they had been registered
that way, and the moves by hand between them. Every process that reads the same versions and moves
comes to the same result, however many of them write at once.

A version has been compared with a champion before it can replace it. What came of that, its
evidence, is read here as well. Until it is there the version waits: it is no champion yet, but may
become one, so a later version is compared with both. Then nothing depends on who is done first.
"""

import enum
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from detreg.tracking.decision import Candidate, Decision, decide


class MoveKind(enum.Enum):
    """How the alias champion was moved by hand."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    RESET = "reset"
    """Moved by something else than this version of detreg, such as MLflow's page."""


@dataclass(frozen=True)
class Move:
    """A move by hand, which comes after the version `after` and before the next one.

    `sequence` orders the moves after the same version, and `token` is unique. `version` is the new
    champion, None where there was none. `earlier` are the champions before it, for RESET only.
    `started_at` is in seconds since the epoch; `is_settled` says that its writer has finished.
    """

    after: int
    sequence: int
    token: str
    kind: MoveKind
    version: int | None
    started_at: float
    earlier: tuple[int, ...] = ()
    is_settled: bool = False

    @property
    def order(self) -> tuple[int, int, bool, str]:
        """The place of the move among all.

        Two commands that look at the same moment take the same sequence. A RESET records what was
        there before both, so it is the first.
        """
        return (self.after, self.sequence, self.kind is not MoveKind.RESET, self.token)

    def to_json(self) -> str:
        """Return the text that the registry holds."""
        return json.dumps(asdict(self) | {"kind": self.kind.value})

    @staticmethod
    def from_json(text: str) -> "Move":
        """Read the text that the registry holds."""
        content = json.loads(text)
        kind = MoveKind(content.pop("kind"))
        earlier = tuple(content.pop("earlier"))
        return Move(kind=kind, earlier=earlier, **content)


@dataclass(frozen=True)
class Standing:
    """Champion and challenger, the champions before (oldest first), and each version's decision."""

    champion: int | None = None
    challenger: int | None = None
    earlier: tuple[int, ...] = ()
    decisions: Mapping[int, Decision] = field(default_factory=dict)


def compute_standing(name: str, candidates: Iterable[Candidate], moves: Iterable[Move]) -> Standing:
    """Return what comes of registering one by one; `name` is for the advice in reasons.

    A deleted version counts as one that never was. Of several versions of one run only the first
    counts: the others come from a request that was sent twice.
    """
    by_version = _index_by_version(candidates)
    remaining = sorted(moves, key=lambda move: move.order)
    champion: int | None = None
    challenger: int | None = None
    earlier: tuple[int, ...] = ()
    decisions: dict[int, Decision] = {}
    seen_runs: set[str] = set()

    for version in sorted(by_version):
        while remaining and remaining[0].after < version:
            champion, earlier = _apply_move(remaining.pop(0), champion, earlier)
            challenger = None if challenger == champion else challenger

        candidate = by_version[version]
        if not candidate.is_scored or candidate.run_id in seen_runs:
            continue
        seen_runs.add(candidate.run_id)

        # A champion that was deleted is none.
        decision = decide(name, candidate, by_version.get(champion or 0))
        decisions[version] = decision
        if not decision.is_champion:
            challenger = version
            continue
        earlier = _push(earlier, champion)
        champion = version

    for move in remaining:
        champion, earlier = _apply_move(move, champion, earlier)
        challenger = None if challenger == champion else challenger

    return Standing(
        champion=champion if champion in by_version else None,
        challenger=challenger,
        earlier=tuple(version for version in earlier if version in by_version),
        decisions=decisions,
    )


def find_champions_to_compare(
    candidates: Iterable[Candidate], moves: Iterable[Move], version: int
) -> set[int]:
    """Return the champions that a version has to be compared with before its decision is known.

    There are several where an earlier version waits for its own evidence, because either it or the
    champion before it may be champion then.
    """
    by_version = _index_by_version(candidates)
    remaining = sorted(moves, key=lambda move: move.order)
    possible: set[int | None] = {None}
    seen_runs: set[str] = set()

    for number in sorted(by_version):
        while remaining and remaining[0].after < number:
            move = remaining.pop(0)
            possible = {_apply_move(move, champion, ())[0] for champion in possible}

        candidate = by_version[number]
        if not candidate.is_scored or candidate.run_id in seen_runs:
            continue
        seen_runs.add(candidate.run_id)

        next_possible: set[int | None] = set()
        waits_for: set[int] = set()
        for champion in possible:
            decision = decide("", candidate, by_version.get(champion or 0))
            if decision.is_waiting and champion is not None:
                waits_for.add(champion)
            if decision.is_champion or decision.is_waiting:
                next_possible.add(number)
            if not decision.is_champion:
                next_possible.add(champion)
        if number == version:
            return waits_for
        possible = next_possible
    return set()


def _index_by_version(candidates: Iterable[Candidate]) -> dict[int, Candidate]:
    """Return the candidates by version; what was decided counts only where it has to.

    That is where a version was compared with a champion that is deleted: with those that are
    champions now in its place it was never compared.
    """
    by_version = {candidate.version: candidate for candidate in candidates}
    for version, candidate in by_version.items():
        if candidate.evidence.keys() <= by_version.keys():
            by_version[version] = replace(candidate, decided=None)
    return by_version


def _apply_move(
    move: Move, champion: int | None, earlier: tuple[int, ...]
) -> tuple[int | None, tuple[int, ...]]:
    """Return the champion and the earlier champions after a move by hand."""
    if move.kind is MoveKind.RESET:
        return move.version, move.earlier

    if move.version is None or move.version == champion:
        return champion, earlier

    if move.kind is MoveKind.PROMOTE:
        return move.version, _push(earlier, champion)

    return move.version, _cut_at_last(earlier, move.version)


def _push(earlier: tuple[int, ...], champion: int | None) -> tuple[int, ...]:
    return earlier if champion is None else (*earlier, champion)


def _cut_at_last(versions: Sequence[int], version: int) -> tuple[int, ...]:
    """Return what stands before the last `version`, or everything where it is not among them."""
    for place in reversed(range(len(versions))):
        if versions[place] == version:
            return tuple(versions[:place])
    return tuple(versions)
