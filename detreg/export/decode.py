"""From the maps of a detector to its detections, for a batch and in operators that ONNX has: MMDetection's post-processing, equal to it.

Boxes are clipped to the padded picture, which is what the network sees, before NMS, as MMDetection does.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms, roi_align

from detreg.inference.detections import MAX_DETECTIONS

Decoded = tuple[Tensor, Tensor, Tensor]
"""Boxes (n, p, 4) xyxy in input pixels, scores (n, p), labels (n, p); rows with score 0 stand for nothing."""
Decode = Callable[[Any, tuple[Tensor, ...], Tensor, bool], Decoded]
"""From a detector, its maps, the input's (height, width) and whether these are fixed, to the detections, best first."""

CANDIDATES = 1000
"""Best-scored boxes of YOLOX that enter NMS. Those beyond cannot be among the detections unless NMS drops 700 better ones."""
PROPOSAL_CANDIDATES = 5000
"""The same for the classes of Faster R-CNN's proposals, of which several hundred may lie on one object."""


def decoder(detector: Any) -> Decode:
    """What turns the maps of this kind of detector into detections."""
    if hasattr(detector, "roi_head"):
        return _two_stage
    return _yolox if type(detector.bbox_head).__name__ == "YOLOXHead" else _one_stage


def _yolox(detector: Any, maps: tuple[Tensor, ...], sides: Tensor, fixed: bool) -> Decoded:  # noqa: ARG001
    """As YOLOXHead.predict_by_feat: the best class of each cell, scored by class times objectness; nothing is clipped."""
    head = detector.bbox_head
    boxes, scores, labels = [], [], []
    for classes, deltas, objectness, stride in zip(
        *head(maps), head.prior_generator.strides, strict=True
    ):
        centre = _cells(classes, stride, fixed).T.reshape(2, *classes.shape[-2:]) + deltas[
            :, :2
        ] * _pair(stride, deltas)
        half = deltas[:, 2:].exp() * _pair(stride, deltas) / 2
        boxes.append(torch.cat((centre - half, centre + half), dim=1).flatten(2).transpose(1, 2))
        best, label = classes.sigmoid().max(dim=1)
        scores.append((best * objectness.sigmoid().squeeze(1)).flatten(1))
        labels.append(label.flatten(1))
    best, order = _best(torch.cat(scores, dim=1), CANDIDATES, fixed)
    candidates = (
        _rows(torch.cat(boxes, dim=1), order),
        best,
        torch.cat(labels, dim=1).gather(1, order),
    )
    config = detector.test_cfg
    # This head alone keeps what equals the threshold.
    above = torch.nextafter(torch.tensor(float(config.score_thr)), torch.tensor(0.0)).item()
    return select(*candidates, above, float(config.nms.iou_threshold), MAX_DETECTIONS)


def _one_stage(detector: Any, maps: tuple[Tensor, ...], sides: Tensor, fixed: bool) -> Decoded:
    """As BaseDenseHead.predict_by_feat (RetinaNet, SSD, YOLOF): the best pairs of anchor and class on each level."""
    head, config = detector.bbox_head, detector.test_cfg
    found = []
    for level, (logits, deltas) in enumerate(zip(*head(maps), strict=True)):
        logits = logits.permute(0, 2, 3, 1).reshape(logits.shape[0], -1, head.cls_out_channels)
        scores = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(-1)[..., :-1]
        best, pair = _best(scores.flatten(1), int(config.nms_pre), fixed)
        prior = torch.div(pair, head.num_classes, rounding_mode="trunc")
        deltas = deltas.permute(0, 2, 3, 1).reshape(deltas.shape[0], -1, 4)
        own = _rows(deltas, pair if getattr(head, "per_class_regression", False) else prior)
        found.append(
            (
                _anchors(head, maps[level], level, fixed)[prior],
                own,
                best,
                pair - prior * head.num_classes,
            )
        )
    # All levels at once: a small network feels every node of its graph.
    anchors, deltas, scores, labels = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
    boxes = _decoded(head.bbox_coder, anchors, deltas, sides)
    scores = _with_extent(boxes, scores)
    return select(
        boxes,
        scores,
        labels,
        float(config.score_thr),
        float(config.nms.iou_threshold),
        int(config.max_per_img),
    )


def _two_stage(detector: Any, maps: tuple[Tensor, ...], sides: Tensor, fixed: bool) -> Decoded:
    """As StandardRoIHead.predict: proposals of the RPN, each classified and refined, one box for each class or for all."""
    proposals, objectness, _ = _proposals(detector.rpn_head, maps, sides, fixed)
    head, config = detector.roi_head.bbox_head, detector.test_cfg.rcnn
    images, count = objectness.shape
    logits, deltas = head(_pooled(detector.roi_head.bbox_roi_extractor, maps, proposals))
    scores = logits.softmax(-1)[:, :-1].reshape(images, count, -1) * (objectness > 0).unsqueeze(-1)
    classes = scores.shape[-1]
    regressors = 1 if head.reg_class_agnostic else classes
    best, pair = _best(scores.flatten(1), min(PROPOSAL_CANDIDATES, count * classes))
    roi = torch.div(pair, classes, rounding_mode="trunc")
    own = _rows(deltas.reshape(images, count * regressors, 4), pair if regressors > 1 else roi)
    boxes = _decoded(head.bbox_coder, _rows(proposals, roi), own, sides)
    return select(
        boxes,
        best,
        pair - roi * classes,
        float(config.score_thr),
        float(config.nms.iou_threshold),
        int(config.max_per_img),
    )


def _proposals(head: Any, maps: tuple[Tensor, ...], sides: Tensor, fixed: bool) -> Decoded:
    """As RPNHead.predict_by_feat: the best anchors of each level, NMS within the level; labels are levels."""
    config = head.test_cfg
    found = []
    for level, (logits, deltas) in enumerate(zip(*head(maps), strict=True)):
        best, prior = _best(
            logits.permute(0, 2, 3, 1).flatten(1).sigmoid(), int(config.nms_pre), fixed
        )
        own = _rows(deltas.permute(0, 2, 3, 1).reshape(deltas.shape[0], -1, 4), prior)
        found.append(
            (
                _anchors(head, maps[level], level, fixed)[prior],
                own,
                best,
                torch.full_like(prior, level),
            )
        )
    anchors, deltas, scores, labels = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
    boxes = _decoded(head.bbox_coder, anchors, deltas, sides)
    scores = _with_extent(boxes, scores)
    return select(
        boxes, scores, labels, 0.0, float(config.nms.iou_threshold), int(config.max_per_img)
    )


def _pooled(extractor: Any, maps: tuple[Tensor, ...], proposals: Tensor) -> Tensor:
    """As SingleRoIExtractor: each of (n, k, 4) proposals pooled from the level of its size, (n * k, channels, 7, 7)."""
    images, count = proposals.shape[:2]
    image = torch.arange(images, device=proposals.device).view(-1, 1, 1).expand(-1, count, 1)
    rois = torch.cat((image.to(proposals.dtype), proposals), dim=2).reshape(-1, 5)
    levels = extractor.map_roi_levels(rois, len(extractor.roi_layers))
    where = [(levels == level).nonzero().squeeze(1) for level in range(len(extractor.roi_layers))]
    pooled = [
        roi_align(
            level,
            rois[own],
            layer.output_size,
            layer.spatial_scale,
            layer.sampling_ratio,
            layer.aligned,
        )
        for level, layer, own in zip(maps, extractor.roi_layers, where, strict=False)
    ]
    order = torch.cat(where)
    return torch.zeros_like(torch.cat(pooled)).index_put((order,), torch.cat(pooled))


def _cells(level: Tensor, stride: tuple[int, int], fixed: bool) -> Tensor:
    """The corners (height * width, 2) of a map's cells, x and y in input pixels, row by row; constants of the graph if they can be."""
    height, width = map(int, level.shape[-2:]) if fixed else level.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=level.device) * float(stride[1]),
        torch.arange(width, device=level.device) * float(stride[0]),
        indexing="ij",
    )
    return torch.stack((x, y), dim=-1).reshape(-1, 2).float()


def _pair(stride: tuple[int, int], like: Tensor) -> Tensor:
    return like.new_tensor([float(side) for side in stride]).view(1, 2, 1, 1)


def _anchors(head: Any, level_map: Tensor, level: int, fixed: bool) -> Tensor:
    """All anchors (height * width * anchors, 4) of a level."""
    generator = head.prior_generator
    shifts = _cells(level_map, generator.strides[level], fixed).repeat(1, 2)
    base = generator.base_anchors[level].to(shifts)
    return (shifts.unsqueeze(1) + base.unsqueeze(0)).reshape(-1, 4)


def _decoded(coder: Any, priors: Tensor, deltas: Tensor, sides: Tensor) -> Tensor:
    """As DeltaXYWHBBoxCoder.decode: boxes (n, p, 4) from priors and deltas of that shape, clipped to the input."""
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    centre, extent = (priors[..., :2] + priors[..., 2:]) * 0.5, priors[..., 2:] - priors[..., :2]
    shift, growth, most = extent * deltas[..., :2], deltas[..., 2:], abs(math.log(16 / 1000))
    if coder.add_ctr_clamp:
        shift, growth = shift.clamp(-coder.ctr_clamp, coder.ctr_clamp), growth.clamp(max=most)
    else:
        growth = growth.clamp(-most, most)
    centre, half = centre + shift, extent * growth.exp() * 0.5
    corner = sides.flip(0).to(priors).repeat(2)
    return torch.minimum(torch.cat((centre - half, centre + half), dim=-1).clamp(min=0), corner)


def _with_extent(boxes: Tensor, scores: Tensor) -> Tensor:
    """Scores without those of boxes that have no extent inside the input."""
    return scores * (boxes[..., 2:] > boxes[..., :2]).all(-1)


def _best(scores: Tensor, count: int, fixed: bool = False) -> tuple[Tensor, Tensor]:
    """The `count` highest of (n, p) scores, and where they are. Where there are not so many: all of them if p is fixed, else zeros too."""
    if fixed:
        return scores.topk(min(count, int(scores.shape[1])), dim=1)
    best, order = torch.nn.functional.pad(scores, (0, count)).topk(count, dim=1)
    return best, torch.minimum(order, torch._shape_as_tensor(scores)[1] - 1)


def _rows(values: Tensor, order: Tensor) -> Tensor:
    """Rows (n, k, 4) of (n, p, 4) values."""
    return values.gather(1, order.unsqueeze(-1).expand(-1, -1, 4))


def select(
    boxes: Tensor, scores: Tensor, labels: Tensor, above: float, iou_threshold: float, count: int
) -> Decoded:
    """The detections among candidates that score above a threshold: NMS within each class, the best `count`, with zeros after them.

    Boxes of different classes are moved apart so that one NMS serves all of them; one NMS per class takes ten times as long.
    """
    apart = (labels.to(boxes.dtype) * (boxes.amax(dim=(1, 2)).unsqueeze(1) + 1)).unsqueeze(-1)
    kept = NonMaxSuppression.apply(boxes + apart, scores, iou_threshold, above, count)
    scores, order = _best(scores * kept, count)
    return _rows(boxes, order), scores, labels.gather(1, order)


class NonMaxSuppression(torch.autograd.Function):
    """ONNX's operator of that name for a batch: 1.0 for each box that is kept, 0.0 for the others.

    torchvision's export handles one image only.
    """

    @staticmethod
    def forward(
        ctx: Any, boxes: Tensor, scores: Tensor, iou_threshold: float, above: float, count: int
    ) -> Tensor:  # noqa: ARG004
        """`boxes` (n, p, 4), `scores` (n, p)."""
        kept = torch.zeros_like(scores)
        for image in range(len(boxes)):
            candidates = (scores[image] > above).nonzero().squeeze(1)
            chosen = nms(boxes[image, candidates], scores[image, candidates], iou_threshold)[:count]
            kept[image, candidates[chosen]] = 1.0
        return kept

    @staticmethod
    def symbolic(
        g: Any, boxes: Any, scores: Any, iou_threshold: float, above: float, count: int
    ) -> Any:
        """The operator, and a scatter of its (image, class, box) triples."""

        def constant(value: Any, dtype: torch.dtype) -> Any:
            return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))

        chosen = g.op(
            "NonMaxSuppression",
            boxes,
            g.op("Unsqueeze", scores, constant([1], torch.int64)),
            constant([count], torch.int64),
            constant([iou_threshold], torch.float32),
            constant([above], torch.float32),
        )
        where = g.op("Gather", chosen, constant([0, 2], torch.int64), axis_i=1)
        zeros = g.op("Mul", scores, constant(0.0, torch.float32))
        found = g.op(
            "Slice", g.op("Shape", where), constant([0], torch.int64), constant([1], torch.int64)
        )
        ones = g.op("Expand", constant([1.0], torch.float32), found)
        return g.op("ScatterND", zeros, where, ones).setType(scores.type())
