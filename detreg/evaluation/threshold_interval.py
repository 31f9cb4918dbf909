"""Where other images would put a threshold: a bootstrap over images."""

import functools

import numpy as np

from detreg.evaluation import bootstrap
from detreg.evaluation.bootstrap import RESAMPLES, draw_image_counts
from detreg.evaluation.score_curve import Floats, Ints, JudgedDetections, find_score_ends
from detreg.operating_rule import OperatingRule

PERCENTILES = (2.5, 97.5)
MIN_IMAGES = 5
"""With fewer images with objects, resamples are too much alike to say anything."""

_MAX_CELLS = 1_000_000
"""Of a table of resamples and detections that is in memory at once."""


def choose_positions(precision: Floats, f1: Floats, rule: OperatingRule) -> Ints:
    """Return the position that a rule of kind f1 or precision chooses on each curve.

    The curves are (curves, scores), at descending scores that each find one more object.
    """
    if rule.share is None:
        return f1.argmax(axis=1)

    # The lowest score with the precision finds the most objects. Where none has it, it is the
    # lowest score with the highest precision.
    wanted = np.minimum(precision.max(axis=1, keepdims=True), rule.share)
    is_precise = precision >= wanted
    from_end = is_precise[:, ::-1].argmax(axis=1)
    return precision.shape[1] - 1 - from_end


def find_position_interval(
    judged: JudgedDetections, candidates: Ints, rule: OperatingRule
) -> tuple[int, int] | None:
    """Return the 95 % interval of the position of a rule's score among the different scores.

    `candidates` are the positions that it may be. None where there are too few images with
    objects, or most resamples of them have nothing right.
    """
    num_images_with_objects = int((judged.objects_per_image > 0).sum())
    if num_images_with_objects < MIN_IMAGES:
        return None

    # Nothing below the last candidate matters.
    ends = find_score_ends(judged.scores)[candidates]
    considered = judged.keep_first(int(ends[-1]) + 1)

    counts = _draw_counts(len(judged.num_objects))
    num_rows = max(1, _MAX_CELLS // len(considered))
    chosen = []
    for first in range(0, RESAMPLES, num_rows):
        rows = counts[first : first + num_rows]
        chosen.append(_choose_on_resamples(considered, ends, rows, rule))

    positions = candidates[np.concatenate(chosen)]
    if len(positions) < RESAMPLES / 2:
        return None
    first_position, last_position = np.percentile(
        positions, PERCENTILES, method="closest_observation"
    )
    return int(first_position), int(last_position)


@functools.lru_cache(maxsize=1)  # all classes of a split have the same images
def _draw_counts(num_images: int) -> bootstrap.Ints:
    return draw_image_counts(num_images, RESAMPLES)


def _choose_on_resamples(
    judged: JudgedDetections, ends: Ints, counts: bootstrap.Ints, rule: OperatingRule
) -> Ints:
    """Return what the rule chooses on each resample that has something right.

    `ends` are the last detections of the candidates' scores; `counts` is (resamples, images).
    """
    weights = counts[:, judged.images]
    num_kept = np.cumsum(weights, axis=1)[:, ends].astype(np.float64)
    num_right = np.cumsum(weights * judged.is_right, axis=1)[:, ends]
    num_objects = counts @ judged.objects_per_image

    precision = np.zeros_like(num_kept)
    np.divide(num_right, num_kept, out=precision, where=num_kept > 0)
    f1 = 2 * num_right / np.maximum(num_kept + num_objects[:, None], 1)

    has_right = num_right[:, -1] > 0
    return choose_positions(precision[has_right], f1[has_right], rule)
