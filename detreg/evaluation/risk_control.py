"""Conformal risk control: a score threshold that promises how few objects are missed.

The loss of an image is the share of its objects that no detection over the threshold finds. It
never falls when the threshold rises, since a detection takes its object before those below it
choose (score_curve.py). For calibration images and a new one that are exchangeable, the expected
loss of the new one is at most `allowed` at the highest threshold with

    (loss of image 1 + ... + loss of image n + 1) / (n + 1) <= allowed.

The 1 is the loss that the new image could have at most. Images without objects have nothing to
miss: they are neither counted nor promised anything. Sources: Angelopoulos et al., Conformal Risk
Control, https://arxiv.org/abs/2208.02814; for detectors https://arxiv.org/abs/2505.24038.
"""

import numpy as np

from detreg.evaluation.score_curve import Floats, JudgedDetections, find_score_ends

_ROUNDING = 1e-9
"""Of a sum of losses, such as three times a third."""


def find_controlled_position(judged: JudgedDetections, allowed: float) -> int | None:
    """Return the position of the highest score that keeps the promise, among different scores.

    None where even all detections together miss too much, or there are too few images for any
    promise.
    """
    num_images = int((judged.objects_per_image > 0).sum())
    sum_of_losses = num_images - _sum_found_shares(judged)
    is_kept = sum_of_losses + 1 <= allowed * (num_images + 1) + _ROUNDING
    return int(is_kept.argmax()) if is_kept.any() else None


def find_last_gain(judged: JudgedDetections) -> int:
    """Return the position of the highest score at which all is found that is found at all."""
    return int(_sum_found_shares(judged).argmax())


def _sum_found_shares(judged: JudgedDetections) -> Floats:
    """Return the shares of objects found, added up over images, for each different score (k,)."""
    objects = judged.objects_per_image[judged.images]
    shares = np.zeros(len(judged))
    shares[judged.is_right] = 1.0 / objects[judged.is_right]
    return np.cumsum(shares)[find_score_ends(judged.scores)]
