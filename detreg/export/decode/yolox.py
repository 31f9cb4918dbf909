"""Decoding of YOLOX's head: one box for each cell, scored by class times objectness."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from detreg.export.decode import selection
from detreg.export.decode.anchors import make_cell_corners
from detreg.export.decode.selection import DecodedBoxes, take_best, take_rows
from detreg.inference.detections import MAX_DETECTIONS

if TYPE_CHECKING:
    from mmdet.models.detectors import YOLOX

NMS_CANDIDATES = 1000
"""Best-scored boxes that enter NMS.

Those beyond cannot be among the detections unless NMS drops 700 better ones."""


def decode_yolox(
    network: "YOLOX",
    maps: tuple[Tensor, ...],
    input_size: Tensor,  # noqa: ARG001
    has_fixed_size: bool,
) -> DecodedBoxes:
    """Return the detections as YOLOXHead.predict_by_feat does.

    The best class of each cell counts. Boxes are not clipped to the input.
    """
    head = network.bbox_head
    levels = []
    for logits, deltas, objectness, stride in zip(
        *head(maps), head.prior_generator.strides, strict=True
    ):
        levels.append(_decode_level(logits, deltas, objectness, stride, has_fixed_size))

    boxes = torch.cat([level.boxes for level in levels], dim=1)
    scores = torch.cat([level.scores for level in levels], dim=1)
    labels = torch.cat([level.labels for level in levels], dim=1)

    best, order = take_best(scores, NMS_CANDIDATES, has_fixed_size)
    candidates = DecodedBoxes(take_rows(boxes, order), best, labels.gather(1, order))

    config = network.test_cfg
    # This head alone keeps what equals the threshold: pass the next smaller float32.
    threshold = torch.tensor(float(config.score_thr))
    just_below = torch.nextafter(threshold, torch.tensor(0.0)).item()
    iou_threshold = float(config.nms.iou_threshold)
    # MMDetection gives no limit here, so the graph's own number of rows is the limit.
    return selection.select_detections(candidates, just_below, iou_threshold, MAX_DETECTIONS)


def _decode_level(
    logits: Tensor,
    deltas: Tensor,
    objectness: Tensor,
    stride: tuple[int, int],
    has_fixed_size: bool,
) -> DecodedBoxes:
    """Return one box for each cell of one map (n, channels, height, width)."""
    corners = make_cell_corners(logits, stride, has_fixed_size)
    corners = corners.T.reshape(2, *logits.shape[-2:])
    cell_size = deltas.new_tensor([float(side) for side in stride]).view(1, 2, 1, 1)
    # The head predicts the center as an offset from the cell's corner, in cells, and the logarithm
    # of width and height in cells (YOLOXHead._bbox_decode).
    center = corners + deltas[:, :2] * cell_size
    half = deltas[:, 2:].exp() * cell_size / 2
    boxes = torch.cat((center - half, center + half), dim=1)

    class_score, label = logits.sigmoid().max(dim=1)
    score = class_score * objectness.sigmoid().squeeze(1)
    return DecodedBoxes(
        boxes.flatten(2).transpose(1, 2),
        score.flatten(1),
        label.flatten(1),
    )
