"""Whether the exported model finds what the trained network finds, on real images.

The first comparison takes the detections that both sides report anyway. It leaves two questions
open, for which `TrainedModel` lets the network predict on the same images again:

- Nothing scores over MIN_SCORE: then the best candidates are compared, whatever their score.
- Boxes have the same score: rounding decides which of them NMS keeps, or which is the last of the
  list. Such a detection counts as matched only where the network has that very candidate, with its
  box, class and score, before NMS, and where a tie explains that it is not in the other list.

Where models have masks, those of partners are compared too, as pixels of the image
(mask_parity.py).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detreg.errors import RefusedError
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.matching import match_detections
from detreg.evaluation.scores import Scores, score, score_masks_if_any
from detreg.export.mask_parity import MaskMatches, compare_masks
from detreg.export.ties import CORNER_TOLERANCE, IOU, SCORE_TOLERANCE, Positions, count_ties
from detreg.export.trained_model import Predictions, TrainedModel
from detreg.inference.detections import MAX_DETECTIONS, Detections

MIN_MATCHED_SHARE = 0.99
MAX_MAP_DIFFERENCE = 0.001
MIN_SCORE = 0.05
"""Detections under this score are not compared: there are many, and nobody ever looks at them."""
MAX_CANDIDATES = 100
"""The most candidates of an image that are compared where nothing reaches MIN_SCORE."""


@dataclass(frozen=True)
class MatchSummary:
    """How many of both models' detections have a partner in the other model.

    Of `total` detections `matched` have a partner; `ties` of these have none themselves, but an
    equal score explains why. `are_candidates` says that boxes of any score were compared, because
    nothing reached MIN_SCORE. `masks` are those of partners, None from models without.
    """

    matched: int
    total: int
    num_images: int
    ties: int = 0
    are_candidates: bool = False
    masks: MaskMatches | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.ties <= self.matched <= self.total:
            raise ValueError(
                "0 <= ties <= matched <= total must hold, "
                f"got ties={self.ties}, matched={self.matched}, total={self.total}"
            )

    @property
    def matched_share(self) -> float:
        """The part that has a partner, from 0 to 1; 0 where there is nothing to compare."""
        return self.matched / self.total if self.total else 0.0

    @property
    def have_boxes_passed(self) -> bool:
        """Whether there was something to compare, and enough of it has a partner."""
        return self.total > 0 and self.matched >= MIN_MATCHED_SHARE * self.total

    @property
    def has_passed(self) -> bool:
        """Whether boxes have passed, and enough masks are equal where there are some."""
        if self.masks is not None and self.masks.matched < MIN_MATCHED_SHARE * self.masks.total:
            return False
        return self.have_boxes_passed

    @property
    def summary(self) -> str:
        """The figures in words."""
        if not self.total:
            floor = "score 0" if self.are_candidates else f"score {MIN_SCORE}"
            return f"nothing over {floor} to compare on {self.num_images} images"

        compared = f"{self.total} detections over score {MIN_SCORE}"
        if self.are_candidates:
            compared = (
                f"{self.total} candidates (nothing scores over {MIN_SCORE}, so the best "
                f"{MAX_CANDIDATES} of each image were compared, whatever their score)"
            )
        ties = f", {self.ties} of them in place of one of equal score" if self.ties else ""
        masks = f", and {self.masks.summary}" if self.masks else ""
        return f"{self.matched} of {compared} on {self.num_images} images matched{ties}{masks}"


@dataclass(frozen=True)
class ParityResult:
    """The comparison of the exported and the trained model on the same images.

    `matches` is of their detections; `exported` and `trained` are their scores, `exported_masks`
    and `trained_masks` those of their masks, None where there are none to score.
    """

    matches: MatchSummary
    exported: Scores
    trained: Scores
    exported_masks: Scores | None = None
    trained_masks: Scores | None = None

    @property
    def has_passed(self) -> bool:
        """Whether the exported model may replace the trained one; not if nothing was compared."""
        differences = (self.map_difference, self.mask_map_difference)
        are_small = all(abs(difference) <= MAX_MAP_DIFFERENCE for difference in differences)
        return self.matches.has_passed and are_small

    @property
    def map_difference(self) -> float:
        """The mAP of the exported model minus that of the trained one, from -1 to 1."""
        return _get_map(self.exported) - _get_map(self.trained)

    @property
    def mask_map_difference(self) -> float:
        """The same of masks; 0 without masks."""
        return _get_map(self.exported_masks) - _get_map(self.trained_masks)

    @property
    def summary(self) -> str:
        """The comparison in words."""
        share = f"{self.matches.matched_share:.2%} matched: " if self.matches.total else ""
        exported, trained = _get_map(self.exported), _get_map(self.trained)
        scores = f"mAP {exported:.4f} exported and {trained:.4f} trained"
        if self.exported_masks or self.trained_masks:
            exported, trained = _get_map(self.exported_masks), _get_map(self.trained_masks)
            scores += f", of masks {exported:.4f} and {trained:.4f}"
        verdict = "passed" if self.has_passed else "failed"
        return (
            f"{share}{self.matches.summary}; {scores} "
            f"({verdict}: at least {MIN_MATCHED_SHARE:.0%} must match and mAP may differ by at "
            f"most {MAX_MAP_DIFFERENCE})"
        )

    def as_metrics(self) -> dict[str, float]:
        """Return the metrics that are logged."""
        metrics = {
            "parity/matched": self.matches.matched_share,
            "parity/detections": float(self.matches.total),
            "parity/mAP_exported": _get_map(self.exported),
            "parity/mAP_trained": _get_map(self.trained),
        }
        if self.matches.masks is not None:
            metrics |= {
                "parity/masks_matched": self.matches.masks.matched_share,
                "parity/segm_mAP_exported": _get_map(self.exported_masks),
                "parity/segm_mAP_trained": _get_map(self.trained_masks),
            }
        return metrics


def measure_parity(
    truth: GroundTruth,
    exported: Predictions,
    trained: Predictions,
    model: TrainedModel | None = None,
) -> ParityResult:
    """Match and score two models' predictions for the same split.

    With `model`, the trained network, candidates and ties are looked at too.
    """
    return ParityResult(
        match_models(truth, exported, trained, model),
        score(truth, exported),
        score(truth, trained),
        score_masks_if_any(truth, exported),
        score_masks_if_any(truth, trained),
    )


def require_match(
    truth: GroundTruth,
    exported: Predictions,
    trained: Predictions,
    model: TrainedModel | None = None,
) -> str:
    """Return in words how far two models agree, on images without ground truth.

    Raises RefusedError where too few detections match, or there is nothing to compare.
    """
    matches = match_models(truth, exported, trained, model)
    if matches.has_passed:
        return matches.summary

    cause = "the exported model disagrees with the trained one"
    if not matches.total:
        cause = "nothing proves that the exported model finds what the trained one finds"
    rule = f"at least {MIN_MATCHED_SHARE:.0%} of what is compared must match"
    raise RefusedError(f"{cause}: {matches.summary}; {rule}")


def match_models(
    truth: GroundTruth,
    exported: Predictions,
    trained: Predictions,
    model: TrainedModel | None = None,
) -> MatchSummary:
    """Match two models' detections; with `model`, look again where that does not pass.

    Boxes of any score are compared where nothing reaches MIN_SCORE, and ties are looked for where
    less than MIN_MATCHED_SHARE has a partner.
    """
    first = count_matches(exported, trained)
    if first.have_boxes_passed or model is None:
        return first
    if first.total:
        return _count_ties_as_matched(first, exported, trained, model)

    # The lists are as long as they can be, so that ties at their ends lie below what is compared.
    with model.override_selection(score_thr=0.0, max_per_img=MAX_DETECTIONS):
        exported = model.export_and_predict(truth)
        trained = {}
        for image, detections in model.predict_all().items():
            trained[image] = detections.filter(0.0, MAX_DETECTIONS)

        second = count_matches(exported, trained, are_candidates=True)
        if second.have_boxes_passed:
            return second
        return _count_ties_as_matched(second, exported, trained, model)


def count_matches(a: Predictions, b: Predictions, are_candidates: bool = False) -> MatchSummary:
    """Count the compared detections of `a` and `b` on all images, and those with a partner.

    Partners have one class, an IoU over IOU or corners within CORNER_TOLERANCE, and scores within
    SCORE_TOLERANCE.
    """
    images = a.keys() | b.keys()
    matched = total = 0
    masks: MaskMatches | None = None
    for image in images:
        compared_a = _find_compared(a[image], are_candidates)
        compared_b = _find_compared(b[image], are_candidates)
        pairs = find_partners(a[image], b[image])
        total += len(compared_a) + len(compared_b)
        matched += len(np.intersect1d(compared_a, pairs[:, 0]))
        matched += len(np.intersect1d(compared_b, pairs[:, 1]))

        if a[image].masks is None and b[image].masks is None:
            continue
        own_masks = compare_masks(a[image], b[image], pairs[np.isin(pairs[:, 0], compared_a)])
        masks = own_masks if masks is None else masks + own_masks
    return MatchSummary(matched, total, len(images), are_candidates=are_candidates, masks=masks)


def find_partners(a: Detections, b: Detections) -> NDArray[np.int64]:
    """Return the positions (k, 2) in one image's `a` and `b` of detections that are partners."""
    return match_detections(a, b, IOU, SCORE_TOLERANCE, CORNER_TOLERANCE)


def find_unmatched(
    a: Detections,
    b: Detections,
    are_candidates: bool = False,
) -> tuple[Positions, Positions]:
    """Return the compared positions of one image's `a` and `b` without a partner in the other."""
    pairs = find_partners(a, b)
    unmatched_a = np.setdiff1d(_find_compared(a, are_candidates), pairs[:, 0])
    unmatched_b = np.setdiff1d(_find_compared(b, are_candidates), pairs[:, 1])
    return unmatched_a, unmatched_b


def _find_compared(detections: Detections, are_candidates: bool) -> Positions:
    """Return the positions that are compared."""
    if are_candidates:
        # A score of exactly 0 stands for nothing in the exported file.
        return np.flatnonzero(detections.scores > 0)[:MAX_CANDIDATES]
    return np.flatnonzero(detections.scores >= MIN_SCORE)


def _count_ties_as_matched(
    summary: MatchSummary, exported: Predictions, trained: Predictions, model: TrainedModel
) -> MatchSummary:
    """Return the summary with the detections that ties explain added to those with a partner."""
    selection = model.selection
    min_score = max(selection.score_threshold - SCORE_TOLERANCE, 0.0)
    candidates = model.predict_candidates(min_score)
    ties = 0
    for image in exported.keys() | trained.keys():
        a, b = exported[image], trained[image]
        unmatched = find_unmatched(a, b, summary.are_candidates)
        ties += count_ties(a, b, unmatched, candidates[image], selection)
    return replace(summary, matched=summary.matched + ties, ties=ties)


def _get_map(scores: Scores | None) -> float:
    """Return the mAP, and 0 where COCO leaves it undefined or nothing was scored."""
    return (scores.mAP if scores else None) or 0.0
