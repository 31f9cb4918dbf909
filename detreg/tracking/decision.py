"""Whether a new version of a registered model takes the champion's place.

standing.py asks this for each version in turn.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from detreg.defaults import BOX_METRIC
from detreg.promotion_rule import PromotionRule

SCORE_DIGITS = 4
"""Digits of a mAP in messages; one that rounds to 0 counts as finding nothing."""


@dataclass(frozen=True)
class Evidence:
    """What came of comparing a version with a champion, both scored on the same images.

    `low` and `high` are the ends of the 95 % interval of the version's mAP minus the champion's.
    `metric` says what these are: the mAP of boxes, or where both versions have masks, their
    segm_mAP. `problem` says why the two cannot be compared; then the numbers mean nothing.
    """

    images: int = 0
    mAP: float = 0.0
    champion_mAP: float = 0.0
    low: float = 0.0
    high: float = 0.0
    note: str = ""
    """Which images they are, where not all of the val split."""
    problem: str = ""
    metric: str = BOX_METRIC

    def to_json(self) -> str:
        """Return the text that the registry holds."""
        content = asdict(self)
        # Earlier versions know no metric but this one, and refuse what they do not know.
        if self.metric == BOX_METRIC:
            del content["metric"]
        return json.dumps(content)

    @staticmethod
    def from_json(text: str) -> "Evidence":
        """Read the text that the registry holds."""
        return Evidence(**json.loads(text))


@dataclass(frozen=True)
class Candidate:
    """A version in the registry, as its tags describe it.

    `score` is its mAP (0 to 1), or NaN. `run_id` and `is_scored` are empty and False for a version
    that detreg has not registered: it can be champion by hand only. `rule` is None for a version of
    an earlier detreg, which goes by the score alone. `evidence` is by the champion's version;
    `decided` is whether it became champion when its process was done, None before.
    """

    version: int
    score: float
    dataset_digest: str | None
    run_id: str
    is_scored: bool
    rule: PromotionRule | None = None
    evidence: Mapping[int, Evidence] = field(default_factory=dict)
    decided: bool | None = None


@dataclass(frozen=True)
class Decision:
    """Whether a version became champion when it was registered, and why.

    `is_waiting`: it is not compared with the champion yet, and is none until then.
    """

    is_champion: bool
    reason: str
    is_waiting: bool = False


def decide(name: str, candidate: Candidate, champion: Candidate | None) -> Decision:
    """Decide whether a newly registered version replaces the champion.

    It does if there is none, or if the evidence is enough for its rule; never if it finds nothing,
    which is a mAP of 0.0000 or NaN.
    """
    by_hand = f"to promote it by hand: detreg promote {name} {candidate.version}"
    if math.isnan(candidate.score) or round(candidate.score, SCORE_DIGITS) <= 0:
        figure = "undefined" if math.isnan(candidate.score) else f"{candidate.score:.4f}"
        rule = "a model that finds nothing becomes champion by hand only"
        return Decision(False, f"mAP is {figure}, and {rule}; {by_hand}")

    rule_of_version = candidate.rule
    if rule_of_version is not None and rule_of_version.kind == "never":
        return Decision(False, f"its run had promote_if=never; {by_hand}")
    if champion is None:
        return Decision(True, "there was no champion")
    if rule_of_version is None:
        return _decide_by_score(candidate, champion, by_hand)
    return _decide_by_evidence(rule_of_version, candidate, champion, by_hand)


def _decide_by_evidence(
    rule: PromotionRule, candidate: Candidate, champion: Candidate, by_hand: str
) -> Decision:
    other = f"version {champion.version}"
    evidence = candidate.evidence.get(champion.version)
    if evidence is None and candidate.decided is not None:
        # See standing.py, which leaves `decided` only where it was compared with a deleted version.
        reason = "as decided when it was registered, against a version that is deleted"
        return Decision(candidate.decided, reason if candidate.decided else f"{reason}; {by_hand}")
    if evidence is None:
        reason = f"it is not compared with {other}, the champion, yet; {by_hand}"
        return Decision(False, reason, is_waiting=True)
    if evidence.problem:
        problem = f"it cannot be compared with {other}, the champion: {evidence.problem}"
        return Decision(False, f"{problem}; {by_hand}")

    note = f" ({evidence.note})" if evidence.note else ""
    difference = evidence.mAP - evidence.champion_mAP
    figures = (
        f"on the same {evidence.images:,} images{note}: {evidence.metric} {evidence.mAP:.4f} "
        f"against {evidence.champion_mAP:.4f}, {difference:+.4f} "
        f"(95 % interval {evidence.low:+.4f} to {evidence.high:+.4f})"
    )
    is_accepted = rule.accepts(evidence.low)
    if rule.kind == "not_worse":
        limit = f"by {rule.margin:g}"
        if is_accepted:
            return Decision(True, f"it is not worse than {other} {limit} {figures}")
        claim = f"it may be worse than {other}, the champion, {limit} {figures}"
        return Decision(False, f"{claim}; {by_hand}")
    if is_accepted:
        return Decision(True, f"it is better than {other} {figures}")
    if evidence.high < 0:
        claim = f"it is worse than {other}, the champion,"
    else:
        claim = f"it is not shown to be better than {other}, the champion,"
    return Decision(False, f"{claim} {figures}; {by_hand}")


def _decide_by_score(candidate: Candidate, champion: Candidate, by_hand: str) -> Decision:
    """Decide as earlier releases of detreg did: the higher mAP on the same dataset wins."""
    score = candidate.score
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
