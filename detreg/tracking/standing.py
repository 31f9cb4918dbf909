"""Which version of a registered model is champion: a pure function of what the registry holds.

The versions are taken one by one in the order of their numbers, as if they had been registered
that way, and the moves by hand between them. Every process that reads the same versions and moves
comes to the same result, however many of them write at once.
"""

import enum
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

SCORE_DIGITS = 4
"""Digits of a mAP in messages; one that rounds to 0 counts as finding nothing."""


@dataclass(frozen=True)
class Candidate:
    """A version in the registry, as its tags describe it.

    `score` is its mAP (0 to 1), or NaN. `run_id` and `is_scored` are empty and False for a version
    that detreg has not registered: it can be champion by hand only.
    """

    version: int
    score: float
    dataset_digest: str | None
    run_id: str
    is_scored: bool


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
class Decision:
    """Whether a version became champion when it was registered, and why."""

    is_champion: bool
    reason: str


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
    by_version = {candidate.version: candidate for candidate in candidates}
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


def decide(name: str, candidate: Candidate, champion: Candidate | None) -> Decision:
    """Decide whether a newly registered version replaces the champion.

    It does if there is none, or if it has a higher mAP on the same dataset; never if it finds
    nothing, which is a mAP of 0.0000 or NaN.
    """
    score = candidate.score
    by_hand = f"to promote it by hand: detreg promote {name} {candidate.version}"

    if math.isnan(score) or round(score, SCORE_DIGITS) <= 0:
        figure = "undefined" if math.isnan(score) else f"{score:.4f}"
        rule = "a model that finds nothing becomes champion by hand only"
        return Decision(False, f"mAP is {figure}, and {rule}; {by_hand}")

    if champion is None:
        return Decision(True, "there was no champion")

    other = f"version {champion.version}"
    if champion.dataset_digest != candidate.dataset_digest:
        problem = f"{other}, the champion, was scored on other data, so the two cannot be compared"
        return Decision(False, f"{problem}; {by_hand}")

    # Any score beats a champion by hand that has none.
    best = -math.inf if math.isnan(champion.score) else champion.score
    if score > best:
        return Decision(True, f"mAP {score:.4f} beats {best:.4f} of {other} on the same data")
    comparison = f"mAP {score:.4f} does not beat {best:.4f} of {other}, the champion"
    return Decision(False, f"{comparison}; {by_hand}")


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
