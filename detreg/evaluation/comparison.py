"""Two models on the same images: how much their scores differ, and how sure that is.

The images are drawn with replacement many times, and both models are scored on each resample. The
interval of the difference holds the middle 95 % of what comes out: the paired bootstrap.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detreg.evaluation.bootstrap import (
    Interval,
    MatchedDetections,
    compute_interval,
    draw_image_counts,
)
from detreg.evaluation.scores import LARGE, MEDIUM, SMALL

Floats = npt.NDArray[np.float64]

SIZES = {"small (< 32² px)": SMALL, "medium": MEDIUM, "large (> 96² px)": LARGE}
"""COCO's ranges of area, by the names that are shown."""


@dataclass(frozen=True)
class Difference:
    """The score of model A and of model B from 0 to 1, and the 95 % interval of B minus A.

    None where the images have no object to score.
    """

    a: float | None
    b: float | None
    interval: Interval | None

    @property
    def value(self) -> float | None:
        """How much higher the score of B is."""
        if self.a is None or self.b is None:
            return None
        return self.b - self.a

    @property
    def is_better(self) -> bool:
        """Whether B is better, and not by luck."""
        return self.interval is not None and self.interval.low > 0

    @property
    def is_worse(self) -> bool:
        """Whether B is worse, and not by luck."""
        return self.interval is not None and self.interval.high < 0


@dataclass(frozen=True)
class Comparison:
    """How the scores of two models differ on so many images.

    `mask_mAP` is None unless both models and the images have masks; all else is of boxes.
    """

    images: int
    mAP: Difference
    mAP_50: Difference
    per_class: Mapping[str, Difference]
    per_size: Mapping[str, Difference]
    mask_mAP: Difference | None = None


def compare_mean_ap(
    a: MatchedDetections, b: MatchedDetections, counts: npt.ArrayLike | None = None
) -> Difference:
    """Compare the mAP of two models that are matched with the same split.

    counts is (resamples, images), by default of 1000 resamples.
    """
    if counts is None:
        counts = draw_image_counts(len(a.image_ids))
    return _measure_difference(
        a.score_split().mean_ap,
        b.score_split().mean_ap,
        a.score_resamples(counts).mean_ap,
        b.score_resamples(counts).mean_ap,
    )


def compare_models(a: MatchedDetections, b: MatchedDetections) -> Comparison:
    """Compare all scores of two models that are matched with the same split."""
    if (a.classes, a.image_ids) != (b.classes, b.image_ids):
        raise ValueError("both models must be matched with the same split")
    counts = draw_image_counts(len(a.image_ids))

    whole_a, whole_b = a.score_split(), b.score_split()
    drawn_a, drawn_b = a.score_resamples(counts), b.score_resamples(counts)
    per_class = {}
    for label, name in enumerate(a.classes):
        per_class[name] = _measure_difference(
            whole_a.per_class[:, label],
            whole_b.per_class[:, label],
            drawn_a.per_class[:, label],
            drawn_b.per_class[:, label],
        )

    return Comparison(
        images=len(a.image_ids),
        mAP=_measure_difference(whole_a.mean_ap, whole_b.mean_ap, drawn_a.mean_ap, drawn_b.mean_ap),
        mAP_50=_measure_difference(
            whole_a.mean_ap_50, whole_b.mean_ap_50, drawn_a.mean_ap_50, drawn_b.mean_ap_50
        ),
        per_class=per_class,
        per_size={name: _compare_size(a, b, counts, area) for name, area in SIZES.items()},
    )


def _compare_size(
    a: MatchedDetections, b: MatchedDetections, counts: npt.ArrayLike, area: int
) -> Difference:
    return _measure_difference(
        a.score_split(area).mean_ap,
        b.score_split(area).mean_ap,
        a.score_resamples(counts, area).mean_ap,
        b.score_resamples(counts, area).mean_ap,
    )


def _measure_difference(
    whole_a: Floats, whole_b: Floats, drawn_a: Floats, drawn_b: Floats
) -> Difference:
    """Return the difference of scores (1,) on the split, with the interval of (resamples,)."""
    return Difference(
        _get_defined(whole_a), _get_defined(whole_b), compute_interval(drawn_b - drawn_a)
    )


def _get_defined(value: Floats) -> float | None:
    return None if np.isnan(value[0]) else float(value[0])
