"""A detector's predictions for the images of a split."""

from detreg.evaluation.ground_truth import GroundTruth
from detreg.inference.detections import MAX_DETECTIONS, Detections
from detreg.inference.detector import Detector
from detreg.inference.images import read_image

BATCH_SIZE = 8
"""Images that are in memory at once."""


def predict_split(detector: Detector, truth: GroundTruth) -> dict[int, Detections]:
    """Return all that a detector finds on each image, by image id, for scoring.

    There is no score threshold but the one of the exported graph.
    """
    image_ids = sorted(truth.images)
    predictions: dict[int, Detections] = {}
    for first in range(0, len(image_ids), BATCH_SIZE):
        batch_ids = image_ids[first : first + BATCH_SIZE]
        images = [read_image(truth.images[image_id].file) for image_id in batch_ids]
        detections = detector.batch(images, score_threshold=0.0, max_detections=MAX_DETECTIONS)
        predictions.update(zip(batch_ids, detections, strict=True))
    return predictions
