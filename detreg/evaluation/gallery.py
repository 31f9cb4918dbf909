"""The report's galleries: which images are worth a look, and what was found, false and missed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from detreg.evaluation.ground_truth import TruthImage
from detreg.evaluation.outcomes import Outcome
from detreg.evaluation.scenes import read_or_gray
from detreg.mask_patches import MaskPatch, cut_patch
from detreg.report.canvas import Canvas
from detreg.report.drawing import Label
from detreg.report.theme import get_class_color

MISSED_COLOR = "#FFFFFF"
CROWDED = 12
"""With more detections than this, only those that are wrong get a tag."""


def choose_worst(outcomes: Mapping[int, Outcome], limit: int) -> list[int]:
    """Return the ids of the images with most errors, the worst first, none without an error."""

    def rank(image_id: int) -> tuple[int, int]:
        # Images with equally many errors are in the order of their ids, so that reports of the
        # same detector are equal.
        return -outcomes[image_id].errors, image_id

    wrong = [image_id for image_id, outcome in outcomes.items() if outcome.errors]
    wrong.sort(key=rank)
    return wrong[:limit]


def choose_typical(
    outcomes: Mapping[int, Outcome], limit: int, exclude: Sequence[int] = ()
) -> list[int]:
    """Return the ids of the images nearest to the median number of errors, in ascending order.

    Those in `exclude` are left out; those on which nothing was found come only where there are not
    enough others.
    """
    if not outcomes:
        return []
    median = float(np.median([outcome.errors for outcome in outcomes.values()]))

    def rank(image_id: int) -> tuple[bool, float, int]:
        outcome = outcomes[image_id]
        has_found_nothing = len(outcome.found) == 0
        return has_found_nothing, abs(outcome.errors - median), image_id

    candidates = [image_id for image_id in outcomes if image_id not in exclude]
    nearest = sorted(candidates, key=rank)[:limit]
    return sorted(nearest)


def describe_outcome(outcome: Outcome) -> str:
    """Return an image's outcome in words, such as `18 found, 2 missed, 1 false`."""
    words = [f"{len(outcome.found)} found"]
    if len(outcome.confused):
        words.append(f"{len(outcome.confused)} confused")
    if len(outcome.missed):
        words.append(f"{len(outcome.missed)} missed")
    if len(outcome.false):
        words.append(f"{len(outcome.false)} false")
    return ", ".join(words)


def draw_outcome(image: TruthImage, outcome: Outcome, path: Path) -> Path:
    """Write an image as JPEG: objects dashed in white, detections in the color of their class.

    What is wrong, a missed object or a false or confused detection, has a thick line. Masks are
    those of the detections, and white ones of missed objects.
    """
    canvas = Canvas(read_or_gray(image))
    detections = outcome.detections
    names = detections.names
    colors = [get_class_color(label) for label in detections.labels.tolist()]
    canvas.draw_masks(_list_masks(image, outcome, colors))

    # Of a confused pair, the first index is the detection's.
    wrong = {*outcome.false.tolist(), *outcome.confused[:, 0].tolist()}
    for index, box in enumerate(detections.boxes):
        canvas.draw_box(box, colors[index], width=4 if index in wrong else 2)

    missed = set(outcome.missed.tolist())
    for index, box in enumerate(image.boxes):
        canvas.draw_dashed_box(box, is_bold=index in missed)

    labels = []
    # What is wrong is written first, because the first texts have the most room.
    for index in sorted(range(len(detections)), key=lambda index: index not in wrong):
        if index in wrong or len(detections) <= CROWDED:
            x1, y1, x2, y2 = detections.boxes[index].tolist()
            score = f"{detections.scores[index]:.2f}"
            labels.append(Label((x1, y1, x2, y2), names[index], score, colors[index]))
    canvas.write_labels(labels)
    return canvas.save(path)


def _list_masks(
    image: TruthImage, outcome: Outcome, colors: Sequence[str]
) -> list[tuple[MaskPatch, str]]:
    """Return what masks there are, each with its color, the best detection last."""
    masks = []
    for index in outcome.missed.tolist():
        mask = None if image.masks is None else image.masks[index]
        if mask is not None:
            masks.append((cut_patch(mask), MISSED_COLOR))
    if outcome.detections.masks is not None:
        patches = outcome.detections.masks.to_patches()
        masks += reversed([*zip(patches, colors, strict=True)])
    return masks
