"""Decoding of Faster R-CNN: proposals of the RPN, each classified and refined."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from detreg.export.decode import selection
from detreg.export.decode.anchors import decode_boxes, make_anchors
from detreg.export.decode.regions import make_regions, pool_regions
from detreg.export.decode.selection import DecodedBoxes, take_best, take_rows, zero_empty_boxes

if TYPE_CHECKING:
    from mmdet.models.dense_heads import RPNHead
    from mmdet.models.detectors import TwoStageDetector

NMS_CANDIDATES = 5000
"""Best-scored pairs of proposal and class that enter NMS.

More than YOLOX's, because several hundred proposals may lie on one object."""


def decode_two_stage(
    network: "TwoStageDetector",
    maps: tuple[Tensor, ...],
    input_size: Tensor,
    has_fixed_size: bool,
) -> DecodedBoxes:
    """Return the detections as StandardRoIHead.predict does.

    Each proposal is classified and refined, with one box for each class or one for all classes.
    """
    proposals, objectness, _ = _find_proposals(network.rpn_head, maps, input_size, has_fixed_size)
    head, config = network.roi_head.bbox_head, network.test_cfg.rcnn
    num_images, num_proposals = objectness.shape
    regions = make_regions(proposals, *proposals.shape[:2])
    features = pool_regions(network.roi_head.bbox_roi_extractor, maps, regions)
    logits, deltas = head(features)

    # The last class is the background. Rows without a proposal get a score of 0.
    class_scores = logits.softmax(-1)[:, :-1].reshape(num_images, num_proposals, -1)
    class_scores = class_scores * (objectness > 0).unsqueeze(-1)
    num_classes = class_scores.shape[-1]
    # With a regressor for each class, deltas are picked by pair; else by proposal.
    num_regressors = 1 if head.reg_class_agnostic else num_classes

    # A pair is the position of a proposal times the number of classes, plus the class.
    num_candidates = min(NMS_CANDIDATES, num_proposals * num_classes)
    scores, pair = take_best(class_scores.flatten(1), num_candidates)
    proposal = torch.div(pair, num_classes, rounding_mode="trunc")
    deltas = deltas.reshape(num_images, num_proposals * num_regressors, 4)
    deltas = take_rows(deltas, pair if num_regressors > 1 else proposal)
    boxes = decode_boxes(head.bbox_coder, take_rows(proposals, proposal), deltas, input_size)

    return selection.select_detections(
        DecodedBoxes(boxes, scores, pair - proposal * num_classes),
        float(config.score_thr),
        float(config.nms.iou_threshold),
        int(config.max_per_img),
    )


def _find_proposals(
    head: "RPNHead", maps: tuple[Tensor, ...], input_size: Tensor, has_fixed_size: bool
) -> DecodedBoxes:
    """Return the proposals as RPNHead.predict_by_feat does; their labels are their levels.

    Candidates are the best anchors of each level, and NMS runs within each level.
    """
    config = head.test_cfg
    all_anchors, all_deltas, all_scores, all_levels = [], [], [], []
    for level, (logits, deltas) in enumerate(zip(*head(maps), strict=True)):
        scores = logits.permute(0, 2, 3, 1).flatten(1).sigmoid()
        best, anchor = take_best(scores, int(config.nms_pre), has_fixed_size)

        deltas = deltas.permute(0, 2, 3, 1).reshape(deltas.shape[0], -1, 4)
        all_deltas.append(take_rows(deltas, anchor))
        all_anchors.append(make_anchors(head, maps[level], level, has_fixed_size)[anchor])
        all_scores.append(best)
        all_levels.append(torch.full_like(anchor, level))

    anchors, deltas = torch.cat(all_anchors, dim=1), torch.cat(all_deltas, dim=1)
    scores, levels = torch.cat(all_scores, dim=1), torch.cat(all_levels, dim=1)
    boxes = decode_boxes(head.bbox_coder, anchors, deltas, input_size)
    scores = zero_empty_boxes(boxes, scores)
    return selection.select_detections(
        DecodedBoxes(boxes, scores, levels),
        0.0,
        float(config.nms.iou_threshold),
        int(config.max_per_img),
    )
