"""Whether the exported model finds what the trained network finds, on real images.

The first look compares the detections that both sides report anyway. It leaves two questions open,
for which `Subject` lets the network look at the images again:

- Nothing scores over SCORE_FROM: then the best candidates are compared, whatever their score.
- Boxes have the same score: rounding decides which of them NMS keeps, or which is the last of the
  list. Such a detection counts as matched only where the network has that very candidate, with its
  box, class and score, before NMS, and where a tie explains that it is not in the other list.
"""

from dataclasses import dataclass, replace

import numpy as np

from detreg.errors import RefusedError
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.matching import match_detections
from detreg.evaluation.scores import Scores, score
from detreg.export.subject import Found, Subject, change_selection
from detreg.export.ties import CORNER_TOLERANCE, IOU, SCORE_TOLERANCE, Positions, count_ties
from detreg.inference.detections import MAX_DETECTIONS, Detections

MATCHED_AT_LEAST = 0.99
MAP_APART_AT_MOST = 0.001
SCORE_FROM = 0.05
"""Detections under this score are not compared: there are many, and none is ever looked at."""
CANDIDATES = 100
"""The most candidates of an image that are compared where nothing reaches SCORE_FROM."""


@dataclass(frozen=True)
class Agreement:
    """How many of both models' detections have a partner in the other model.

    `partners` of `detections` have one, `ties` of these in place of another one of equal score.
    `candidates` tells that boxes of any score were compared, as nothing reached SCORE_FROM.
    """

    partners: int
    detections: int
    images: int
    ties: int = 0
    candidates: bool = False

    @property
    def share(self) -> float:
        """The part that has a partner, from 0 to 1; 0 where there is nothing to compare."""
        return self.partners / self.detections if self.detections else 0.0

    @property
    def passed(self) -> bool:
        """Whether there was something to compare, and enough of it has a partner."""
        return self.detections > 0 and self.partners >= MATCHED_AT_LEAST * self.detections

    @property
    def compared(self) -> str:
        """What was compared, in words."""
        if not self.candidates:
            return f"{self.detections} detections over score {SCORE_FROM}"
        return (
            f"{self.detections} candidates (nothing scores over {SCORE_FROM}, so the best "
            f"{CANDIDATES} of each image were compared, whatever their score)"
        )

    @property
    def sentence(self) -> str:
        """The figures in words."""
        if not self.detections:
            floor = "score 0" if self.candidates else f"score {SCORE_FROM}"
            return f"nothing over {floor} to compare on {self.images} images"
        ties = f", {self.ties} of them in place of one of equal score" if self.ties else ""
        return f"{self.partners} of {self.compared} on {self.images} images matched{ties}"


@dataclass(frozen=True)
class Parity:
    """The comparison of two models on the same images.

    `agreement` is of their detections; `exported` and `trained` are their scores.
    """

    agreement: Agreement
    exported: Scores
    trained: Scores

    @property
    def matched(self) -> float:
        """The share of both models' detections that have a partner, from 0 to 1."""
        return self.agreement.share

    @property
    def detections(self) -> int:
        """How many detections of both models were compared."""
        return self.agreement.detections

    @property
    def passed(self) -> bool:
        """Whether the exported model may stand for the trained one; not if nothing was compared."""
        return self.agreement.passed and abs(self.difference) <= MAP_APART_AT_MOST

    @property
    def difference(self) -> float:
        """mAP of the exported model minus that of the trained one, from -1 to 1."""
        return (self.exported.mAP or 0.0) - (self.trained.mAP or 0.0)

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        share = f"{self.matched:.2%} matched: " if self.detections else ""
        verdict = "passed" if self.passed else "failed"
        return (
            f"{share}{self.agreement.sentence}; mAP {self.exported.mAP or 0.0:.4f} exported and "
            f"{self.trained.mAP or 0.0:.4f} trained ({verdict}: at least {MATCHED_AT_LEAST:.0%} "
            f"matched and mAP at most {MAP_APART_AT_MOST} apart are wanted)"
        )

    def as_metrics(self) -> dict[str, float]:
        """What is logged of it."""
        return {
            "parity/matched": self.matched,
            "parity/detections": float(self.detections),
            "parity/mAP_exported": self.exported.mAP or 0.0,
            "parity/mAP_trained": self.trained.mAP or 0.0,
        }


def compare(
    truth: GroundTruth,
    exported: Found,
    trained: Found,
    subject: Subject | None = None,
) -> Parity:
    """Score and match two models' predictions for the same split.

    With `subject`, the trained network, candidates and ties are looked at too.
    """
    agreed = agree(truth, exported, trained, subject)
    return Parity(agreed, score(truth, exported), score(truth, trained))


def agreement(
    truth: GroundTruth,
    exported: Found,
    trained: Found,
    subject: Subject | None = None,
) -> str:
    """Tell in words how far two models agree, where there is nothing to score.

    Raises RefusedError where too few detections match, or there is nothing to compare.
    """
    agreed = agree(truth, exported, trained, subject)
    if agreed.passed:
        return agreed.sentence
    cause = "the exported model disagrees with the trained one"
    if not agreed.detections:
        cause = "nothing proves that the exported model finds what the trained one finds"
    rule = f"at least {MATCHED_AT_LEAST:.0%} of what is compared must match"
    raise RefusedError(f"{cause}: {agreed.sentence}; {rule}")


def agree(
    truth: GroundTruth,
    exported: Found,
    trained: Found,
    subject: Subject | None = None,
) -> Agreement:
    """Match two models' detections; with `subject`, look again where the first look is not enough.

    Boxes of any score are compared where nothing reaches SCORE_FROM, and ties are looked for where
    less than MATCHED_AT_LEAST has a partner.
    """
    first = _count(exported, trained)
    if first.passed or subject is None:
        return first
    if first.detections:
        return _with_ties(first, exported, trained, subject)

    # The lists are as long as they can be, so that ties at their ends lie below what is compared.
    with change_selection(subject.network, score_thr=0.0, max_per_img=MAX_DETECTIONS):
        exported = subject.export_and_predict(truth)
        own = subject.predict().items()
        trained = {image: found.filter(0.0, MAX_DETECTIONS) for image, found in own}
        second = _count(exported, trained, candidates=True)
        return second if second.passed else _with_ties(second, exported, trained, subject)


def matched(a: Found, b: Found) -> tuple[int, int]:
    """Count the detections of `a` and `b` over SCORE_FROM: those with a partner, and all.

    Partners have one class, an IoU over IOU or corners within CORNER_TOLERANCE, and scores within
    SCORE_TOLERANCE.
    """
    counted = _count(a, b)
    return counted.partners, counted.detections


def unmatched(
    a: Detections,
    b: Detections,
    candidates: bool = False,
) -> tuple[Positions, Positions]:
    """Find what is compared of one image's `a` and `b`, and has no partner in the other one."""
    pairs = match_detections(a, b, IOU, SCORE_TOLERANCE, CORNER_TOLERANCE)
    without_a = np.setdiff1d(_compared(a, candidates), pairs[:, 0])
    without_b = np.setdiff1d(_compared(b, candidates), pairs[:, 1])
    return without_a, without_b


def _count(a: Found, b: Found, candidates: bool = False) -> Agreement:
    partners = total = 0
    for image in a.keys() | b.keys():
        compared = len(_compared(a[image], candidates)) + len(_compared(b[image], candidates))
        partners += compared - sum(map(len, unmatched(a[image], b[image], candidates)))
        total += compared
    return Agreement(partners, total, len(a.keys() | b.keys()), candidates=candidates)


def _compared(detections: Detections, candidates: bool) -> Positions:
    """Positions of what is compared; a score of exactly 0 is no row in the exported file."""
    if candidates:
        return np.flatnonzero(detections.scores > 0)[:CANDIDATES]
    return np.flatnonzero(detections.scores >= SCORE_FROM)


def _with_ties(found: Agreement, exported: Found, trained: Found, subject: Subject) -> Agreement:
    """Add what ties explain to the partners."""
    selection = subject.selection
    everything = subject.predict_candidates(above=max(selection.threshold - SCORE_TOLERANCE, 0.0))
    ties = 0
    for image in exported.keys() | trained.keys():
        sides = exported[image], trained[image]
        without = unmatched(*sides, found.candidates)
        ties += count_ties(*sides, without, everything[image], selection)
    return replace(found, partners=found.partners + ties, ties=ties)
