"""What the decoders share: taking the best candidates, and NMS for a whole batch."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import nms


class DecodedBoxes(NamedTuple):
    """Boxes of a batch of n images, p of each; a row with score 0 stands for nothing.

    `boxes` is (n, p, 4), x1 y1 x2 y2 in pixels of the input; `scores` and `labels` are (n, p).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def select_detections(
    candidates: DecodedBoxes,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
) -> DecodedBoxes:
    """Return the detections among candidates that score above a threshold.

    NMS runs within each class. The best `max_detections` boxes come first, and rows with score 0
    after them.
    """
    boxes, scores, labels = candidates

    # Boxes of different classes are moved apart so that one NMS serves all of them: one NMS for
    # each class takes ten times as long. Only boxes over the threshold count for the distance: one
    # of millions of pixels, which scores nothing, would leave no precision for the others.
    is_over_threshold = (scores > score_threshold).unsqueeze(-1)
    eligible = torch.where(is_over_threshold, boxes, torch.zeros_like(boxes))
    class_distance = eligible.amax(dim=(1, 2)).unsqueeze(1) + 1
    class_offset = (labels.to(boxes.dtype) * class_distance).unsqueeze(-1)
    is_kept = NonMaxSuppression.apply(
        boxes + class_offset, scores, iou_threshold, score_threshold, max_detections
    )

    scores, order = take_best(scores * is_kept, max_detections)
    return DecodedBoxes(take_rows(boxes, order), scores, labels.gather(1, order))


def take_best(scores: Tensor, count: int, has_fixed_size: bool = False) -> tuple[Tensor, Tensor]:
    """Return the `count` highest of (n, p) scores, and their positions.

    If p is less than `count`: all of them where p is fixed; else scores of 0 fill the rest, with
    the last position.
    """
    if has_fixed_size:
        return scores.topk(min(count, int(scores.shape[1])), dim=1)

    # p is unknown when the graph is made, and ONNX's TopK fails if it is less than `count`.
    best, order = functional.pad(scores, (0, count)).topk(count, dim=1)
    last_position = torch._shape_as_tensor(scores)[1] - 1
    return best, torch.minimum(order, last_position)


def take_rows(values: Tensor, order: Tensor) -> Tensor:
    """Return the rows (n, k, 4) of (n, p, 4) values at the positions `order` (n, k)."""
    return values.gather(1, order.unsqueeze(-1).expand(-1, -1, 4))


def zero_empty_boxes(boxes: Tensor, scores: Tensor) -> Tensor:
    """Return the scores with 0 for boxes that have no extent inside the input."""
    has_extent = (boxes[..., 2:] > boxes[..., :2]).all(-1)
    return scores * has_extent


class NonMaxSuppression(torch.autograd.Function):
    """ONNX's operator NonMaxSuppression for a batch: 1.0 for each box that is kept, else 0.0.

    torchvision's export of `nms` handles one image only.
    """

    @staticmethod
    def forward(
        ctx: object,  # noqa: ARG004
        boxes: Tensor,
        scores: Tensor,
        iou_threshold: float,
        score_threshold: float,
        max_detections: int,
    ) -> Tensor:
        """Run NMS on `boxes` (n, p, 4) with `scores` (n, p), image by image."""
        is_kept = torch.zeros_like(scores)
        for image in range(len(boxes)):
            candidates = (scores[image] > score_threshold).nonzero().squeeze(1)
            chosen = nms(boxes[image, candidates], scores[image, candidates], iou_threshold)
            is_kept[image, candidates[chosen[:max_detections]]] = 1.0
        return is_kept

    # `Any` stands for the graph builder and the values of torch.onnx, which have no public types.
    @staticmethod
    def symbolic(
        g: Any,
        boxes: Any,
        scores: Any,
        iou_threshold: float,
        score_threshold: float,
        max_detections: int,
    ) -> Any:
        """Build the ONNX operator, and a scatter of the (image, class, box) triples it returns."""

        def constant(value: object, dtype: torch.dtype) -> Any:
            return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))

        triples = g.op(
            "NonMaxSuppression",
            boxes,
            g.op("Unsqueeze", scores, constant([1], torch.int64)),
            constant([max_detections], torch.int64),
            constant([iou_threshold], torch.float32),
            constant([score_threshold], torch.float32),
        )
        positions = g.op("Gather", triples, constant([0, 2], torch.int64), axis_i=1)
        zeros = g.op("Mul", scores, constant(0.0, torch.float32))
        num_kept = g.op(
            "Slice",
            g.op("Shape", positions),
            constant([0], torch.int64),
            constant([1], torch.int64),
        )
        ones = g.op("Expand", constant([1.0], torch.float32), num_kept)
        return g.op("ScatterND", zeros, positions, ones).setType(scores.type())
