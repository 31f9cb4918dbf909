"""MMDetection's predictions as detreg's detections, and their scores after each epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric

from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.scores import score, score_masks_if_any
from detreg.inference.detections import MAX_DETECTIONS, Detections

Sample = Mapping[str, Any]
"""What MMDetection knows of one image: a DetDataSample as a dict."""


def convert_predictions(
    sample: Sample, classes: Sequence[str], limit: int | None = MAX_DETECTIONS
) -> Detections:
    """Return what MMDetection predicted for one image, best first.

    `limit` is the largest number of detections; None keeps all.
    """
    predicted = sample["pred_instances"]
    scores, order = predicted["scores"].detach().float().cpu().sort(descending=True, stable=True)

    best = order[:limit]
    boxes = predicted["bboxes"].detach().cpu()[best]
    labels = predicted["labels"].detach().cpu()[best]

    masks = None
    if "masks" in predicted:
        masks = predicted["masks"].detach().float().cpu()[best].numpy()

    height, width = sample["ori_shape"]
    return Detections.clip_to_image(
        boxes.float().numpy(),
        scores[:limit].numpy(),
        labels.long().numpy(),
        tuple(classes),
        (width, height),
        masks,
    )


@METRICS.register_module()
class CocoScores(BaseMetric):
    """COCO's mAP after each epoch, by the same code that scores the exported model.

    Of boxes, and where masks are trained, of masks.
    """

    default_prefix = "val"

    def __init__(self, annotations: str) -> None:
        # "gpu" collects the results by messages; "cpu" would do it by files in the working folder.
        super().__init__(collect_device="gpu")
        self.truth = GroundTruth.load(Path(annotations))

    def process(self, data_batch: object, data_samples: Sequence[Sample]) -> None:  # noqa: ARG002
        """Keep the detections of a batch."""
        classes = self.dataset_meta["classes"]
        for sample in data_samples:
            detections = convert_predictions(sample, classes)
            self.results.append((sample["img_id"], detections))

    def compute_metrics(self, results: list[tuple[int, Detections]]) -> dict[str, float]:
        """Return `mAP`, `mAP_50` ... as fractions, without those that COCO leaves undefined.

        Beside them `segm_mAP`, `segm_mAP_50` ... of masks.
        """
        detections_by_image = dict(results)
        metrics = score(self.truth, detections_by_image).as_metrics()
        of_masks = score_masks_if_any(self.truth, detections_by_image)
        return metrics if of_masks is None else metrics | of_masks.as_metrics()
