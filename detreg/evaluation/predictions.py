"""A detector over the pictures of a split."""

from detreg.evaluation.ground_truth import GroundTruth
from detreg.inference.detections import MAX_DETECTIONS, Detections
from detreg.inference.detector import Detector
from detreg.inference.images import read_image

BATCH = 8
"""Pictures in memory at once."""


def predict_split(detector: Detector, truth: GroundTruth) -> dict[int, Detections]:
    """Everything the model finds in each picture, by image id, for scoring: no threshold but the graph's own."""
    ids = sorted(truth.pictures)
    found: dict[int, Detections] = {}
    for first in range(0, len(ids), BATCH):
        some = ids[first : first + BATCH]
        images = [read_image(truth.pictures[image].file) for image in some]
        found |= zip(
            some,
            detector.batch(images, score_threshold=0.0, max_detections=MAX_DETECTIONS),
            strict=True,
        )
    return found
