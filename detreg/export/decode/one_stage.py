"""Decoding of one-stage heads with anchors: RetinaNet, SSD and YOLOF."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from detreg.export.decode import selection
from detreg.export.decode.anchors import decode_boxes, make_anchors
from detreg.export.decode.selection import DecodedBoxes, take_best, take_rows, zero_empty_boxes

if TYPE_CHECKING:
    from mmdet.models.detectors import SingleStageDetector


def decode_one_stage(
    network: "SingleStageDetector",
    maps: tuple[Tensor, ...],
    input_size: Tensor,
    has_fixed_size: bool,
) -> DecodedBoxes:
    """Return the detections as BaseDenseHead.predict_by_feat does.

    Candidates are the best pairs of anchor and class on each level.
    """
    head, config = network.bbox_head, network.test_cfg
    all_anchors, all_deltas, all_scores, all_labels = [], [], [], []
    for level, (logits, deltas) in enumerate(zip(*head(maps), strict=True)):
        logits = logits.permute(0, 2, 3, 1).reshape(logits.shape[0], -1, head.cls_out_channels)
        # The last channel of a softmax is the background.
        scores = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(-1)[..., :-1]

        # A pair is the position of an anchor times the number of classes, plus the class.
        best, pair = take_best(scores.flatten(1), int(config.nms_pre), has_fixed_size)
        anchor = torch.div(pair, head.num_classes, rounding_mode="trunc")

        deltas = deltas.permute(0, 2, 3, 1).reshape(deltas.shape[0], -1, 4)
        # OneStageHead (training/heads.py) may have a regressor for each class.
        has_deltas_per_class = getattr(head, "per_class_regression", False)
        all_deltas.append(take_rows(deltas, pair if has_deltas_per_class else anchor))
        all_anchors.append(make_anchors(head, maps[level], level, has_fixed_size)[anchor])
        all_scores.append(best)
        all_labels.append(pair - anchor * head.num_classes)

    # All levels at once: every node of the graph costs time, which a small network feels.
    anchors, deltas = torch.cat(all_anchors, dim=1), torch.cat(all_deltas, dim=1)
    scores, labels = torch.cat(all_scores, dim=1), torch.cat(all_labels, dim=1)
    boxes = decode_boxes(head.bbox_coder, anchors, deltas, input_size)
    scores = zero_empty_boxes(boxes, scores)
    return selection.select_detections(
        DecodedBoxes(boxes, scores, labels),
        float(config.score_thr),
        float(config.nms.iou_threshold),
        int(config.max_per_img),
    )
