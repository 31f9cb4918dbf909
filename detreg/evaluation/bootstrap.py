"""COCO's average precision on many resamples of a split's images at once.

The detections of a model are matched with the objects once, by COCO's rules, which look at one
image at a time. A resample then is a number for each image, how often it was drawn, and its mAP is
computed from the matches with these numbers as weights. On the split itself, where every image
counts once, the result equals scores.score to 1e-9; so does that of a resample and a split made of
copies, where no image has two detections of one class with equal scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detreg.evaluation.coco_matches import IOU_THRESHOLDS, ClassMatches, match_split
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.scores import ALL, IOU_50
from detreg.inference.detections import Detections

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]

RESAMPLES = 1000
CONFIDENCE = 0.95

RECALLS = np.linspace(0, 1, 101)
"""COCO's 101 recalls from 0 to 1."""

MAX_WEIGHTS = 4_000_000
"""Resamples times detections that are in memory at once."""


@dataclass(frozen=True)
class Interval:
    """Where a value lies with the given confidence."""

    low: float
    high: float


@dataclass(frozen=True)
class ResampledScores:
    """Average precisions of resamples, from 0 to 1; NaN where there is no object to score.

    `ap` is float64 (resamples, 10 IoU thresholds, classes).
    """

    ap: Floats

    @property
    def mean_ap(self) -> Floats:
        """The mAP of each resample: the mean over IoU thresholds and classes."""
        return _mean_of_defined(self.ap.reshape(len(self.ap), -1))

    @property
    def mean_ap_50(self) -> Floats:
        """The mAP_50 of each resample: the mean over classes at IoU 0.5."""
        return _mean_of_defined(self.ap[:, IOU_50])

    @property
    def per_class(self) -> Floats:
        """The mean over IoU thresholds (resamples, classes)."""
        return np.asarray(self.ap.mean(axis=1))


@dataclass(frozen=True)
class MatchedDetections:
    """The detections of one model on a split, matched with its objects.

    A row of image counts has a number for each of `image_ids`, which are in ascending order;
    `matches` has an entry for each of `classes`.
    """

    classes: tuple[str, ...]
    image_ids: tuple[int, ...]
    matches: tuple[ClassMatches, ...]

    @classmethod
    def match(
        cls, truth: GroundTruth, predictions: Mapping[int, Detections], *, by_masks: bool = False
    ) -> "MatchedDetections":
        """Match predictions, by image id, with a split, as scores.score does.

        `by_masks` matches masks, as scores.score_masks does. Raises DataError where predictions and
        split have no class in common.
        """
        matches = match_split(truth, predictions, by_masks=by_masks)
        return cls(truth.classes, tuple(sorted(truth.images)), tuple(matches))

    def score_resamples(self, counts: npt.ArrayLike, area: int = ALL) -> ResampledScores:
        """Score resamples: counts (resamples, images) says how often each image was drawn.

        `area` is a position in COCO's ranges of area.
        """
        counts = np.asarray(counts, dtype=np.int32)
        expected = (len(counts), len(self.image_ids))
        if counts.shape != expected:
            raise ValueError(f"counts must have shape {expected}, got {counts.shape}")

        per_class = [_compute_ap(matches, area, counts) for matches in self.matches]
        return ResampledScores(np.stack(per_class, axis=-1))

    def score_split(self, area: int = ALL) -> ResampledScores:
        """Score the split itself, as a single resample in which every image counts once."""
        return self.score_resamples(np.ones((1, len(self.image_ids))), area)


def draw_image_counts(num_images: int, num_resamples: int = RESAMPLES, seed: int = 0) -> Ints:
    """Draw resamples of as many images with replacement: how often each image is in each.

    Returns int32 (resamples, images).
    """
    rng = np.random.default_rng(seed)
    shares = np.full(num_images, 1 / num_images)
    return rng.multinomial(num_images, shares, size=num_resamples).astype(np.int32)


def compute_interval(values: Floats, confidence: float = CONFIDENCE) -> Interval | None:
    """Return the percentile interval of resampled values, None where none of them is defined."""
    defined = values[~np.isnan(values)]
    if not defined.size:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(float(low), float(high))


def join_matches(models: Sequence[MatchedDetections]) -> MatchedDetections:
    """Join models on the same split as if each had images of its own, the first model's first.

    With counts (resamples, models x images) that are 0 for all but one model's copy of an image,
    each image is judged by the model that is chosen for it.
    """
    first = models[0]
    images = len(first.image_ids)
    joined = []
    for per_model in zip(*(model.matches for model in models), strict=True):
        joined.append(ClassMatches.join(per_model, images))
    return MatchedDetections(first.classes, tuple(range(images * len(models))), tuple(joined))


def _compute_ap(matches: ClassMatches, area: int, counts: Ints) -> Floats:
    """Compute one class's AP for each resample and IoU threshold; NaN without objects."""
    num_detections = len(matches.scores)
    chunk = max(1, MAX_WEIGHTS // max(1, num_detections))

    ap = np.empty((len(counts), len(IOU_THRESHOLDS)))
    for first in range(0, len(counts), chunk):
        chosen = slice(first, first + chunk)
        ap[chosen] = _compute_ap_of_chunk(matches, area, counts[chosen])
    return ap


def _compute_ap_of_chunk(matches: ClassMatches, area: int, counts: Ints) -> Floats:
    num_objects = counts @ matches.num_objects[area].astype(np.int32)
    reached = _count_reached_recalls(num_objects)
    weights = counts[:, matches.image_positions]

    ap = np.zeros((len(counts), len(IOU_THRESHOLDS)))
    is_ignored = np.zeros(0, dtype=bool)
    counted = np.zeros_like(weights)
    for threshold in range(len(IOU_THRESHOLDS)):
        # Without crowds nothing is ignored at any threshold, and the sums stay the same.
        if threshold == 0 or not np.array_equal(is_ignored, matches.is_ignored[area, threshold]):
            is_ignored = matches.is_ignored[area, threshold]
            kept = np.where(is_ignored, np.int32(0), weights)
            counted = np.cumsum(kept, axis=1, dtype=np.int32)

        # Precision is highest right after a true positive: only these places matter.
        places = np.flatnonzero(matches.is_true_positive[area, threshold])
        right = np.cumsum(weights[:, places], axis=1, dtype=np.int32)
        precision = right / np.maximum(counted[:, places], 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]

        # Each true positive is worth its precision at as many of the recalls as it reaches first.
        reached_here = np.take_along_axis(reached, right, axis=1)
        newly_reached = np.diff(reached_here, axis=1, prepend=0)
        ap[:, threshold] = (envelope * newly_reached).sum(axis=1) / len(RECALLS)

    ap[num_objects == 0] = np.nan
    return ap


def _count_reached_recalls(num_objects: Ints) -> npt.NDArray[np.int16]:
    """Count COCO's recalls that are reached with 0, 1, 2 ... objects found.

    num_objects (resamples,) is how many there are; the result (resamples, most objects + 1). The
    comparison is that of float64 numbers, as COCO does it: 29 of 100 objects may reach 0.29 or not.
    """
    found = np.arange(num_objects.max(initial=0) + 1)
    recall = found / np.maximum(num_objects, 1)[:, None]
    reached = np.searchsorted(RECALLS, recall, side="right").astype(np.int16)
    # Nothing found is not a place in the list of detections, so no recall is reached there.
    reached[:, 0] = 0
    return reached


def _mean_of_defined(values: Floats) -> Floats:
    """Return the mean of each row (rows, values) without NaN; NaN where nothing else is in it."""
    is_defined = ~np.isnan(values)
    sums = np.where(is_defined, values, 0).sum(axis=1)
    numbers = is_defined.sum(axis=1)
    means = np.full(len(values), np.nan)
    return np.divide(sums, numbers, out=means, where=numbers > 0)
