"""Whether the exported model finds what the trained network finds, on real images."""

from collections.abc import Mapping
from dataclasses import dataclass

from detreg.errors import RefusedError
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.matching import match
from detreg.evaluation.scores import Scores, score
from detreg.inference.detections import Detections

MATCHED_AT_LEAST = 0.99
MAP_APART_AT_MOST = 0.001
SCORE_FROM = 0.05
"""Detections under this score are not compared: there are many, and none is ever looked at."""
IOU = 0.99
SCORE_TOLERANCE = 0.001
CORNER_TOLERANCE = 0.1
"""Pixels. A box of less than ten pixels can have less than IOU for this rounding alone."""


@dataclass(frozen=True)
class Parity:
    """The comparison of two models on the same images. `matched` is the share of both models' detections that have a partner."""

    matched: float
    detections: int
    exported: Scores
    trained: Scores

    @property
    def passed(self) -> bool:
        """Whether the exported model may stand for the trained one."""
        return self.matched >= MATCHED_AT_LEAST and abs(self.difference) <= MAP_APART_AT_MOST

    @property
    def difference(self) -> float:
        """mAP of the exported model minus that of the trained one, from -1 to 1."""
        return (self.exported.mAP or 0.0) - (self.trained.mAP or 0.0)

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        return (
            f"{self.matched:.2%} of {self.detections} detections matched, mAP {self.exported.mAP or 0.0:.4f} exported and "
            f"{self.trained.mAP or 0.0:.4f} trained ({'passed' if self.passed else 'failed'}: at least {MATCHED_AT_LEAST:.0%} "
            f"and at most {MAP_APART_AT_MOST} apart are wanted)"
        )

    def as_metrics(self) -> dict[str, float]:
        """What is logged of it."""
        return {
            "parity/matched": self.matched,
            "parity/detections": float(self.detections),
            "parity/mAP_exported": self.exported.mAP or 0.0,
            "parity/mAP_trained": self.trained.mAP or 0.0,
        }


def matched(a: Mapping[int, Detections], b: Mapping[int, Detections]) -> tuple[int, int]:
    """How many detections of `a` and `b` over SCORE_FROM have a partner in the other model, and how many there are.

    Partners have one class, an IoU over IOU or corners within CORNER_TOLERANCE, and scores within SCORE_TOLERANCE.
    """
    with_partner = total = 0
    for image in a.keys() | b.keys():
        pairs = match(a[image], b[image], iou=IOU, score_tolerance=SCORE_TOLERANCE, corner_tolerance=CORNER_TOLERANCE)
        for detections, partners in ((a[image], {i for i, _ in pairs}), (b[image], {j for _, j in pairs})):
            compared = {position for position, value in enumerate(detections.scores) if value >= SCORE_FROM}
            with_partner += len(compared & partners)
            total += len(compared)
    return with_partner, total


def agreement(exported: Mapping[int, Detections], trained: Mapping[int, Detections]) -> str:
    """The share of matched detections in words, where there is nothing to score. Raises RefusedError when it is too low."""
    partners, total = matched(exported, trained)
    sentence = f"{partners} of {total} detections over score {SCORE_FROM} on {len(exported)} pictures matched"
    if partners < MATCHED_AT_LEAST * total:
        raise RefusedError(f"the exported model disagrees with the trained one: {sentence}, at least {MATCHED_AT_LEAST:.0%} are wanted")
    return sentence


def compare(truth: GroundTruth, exported: Mapping[int, Detections], trained: Mapping[int, Detections]) -> Parity:
    """Scores and matches two models' predictions for the same split."""
    partners, total = matched(exported, trained)
    share = partners / total if total else 1.0
    return Parity(share, total, score(truth, exported), score(truth, trained))
