"""The network with everything around it as one ONNX graph: uint8 RGB in; boxes, scores and labels out.

Inside: channel order and normalisation, network, decoding, and one class-aware NMS, equal to MMDetection's own post-processing.
Operators are standard ones of opset 17, for which onnxruntime has CUDA kernels; decoding and NMS stay float32.
"""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torchvision.ops import nms

from detreg.inference.card import METADATA_KEY, Card
from detreg.inference.detections import MAX_DETECTIONS
from detreg.templates.template import InputSpec

OPSET = 17
CANDIDATES = 1000
"""Best-scored boxes that enter NMS. Those beyond cannot be among the detections unless NMS drops 700 better ones."""

Decoded = tuple[Tensor, Tensor, Tensor]
"""Boxes (n, p, 4) xyxy in input pixels, scores (n, p), labels (n, p)."""


class Graph(nn.Module):
    """A detector from uint8 images (n, height, width, 3) RGB to boxes (n, k, 4), scores (n, k) and labels (n, k).

    Rows past the detections have score 0 and label -1.
    """

    def __init__(self, detector: Any, spec: InputSpec) -> None:
        super().__init__()
        self.detector = detector
        self.bgr = spec.channels == "bgr"
        self.decode = _decoder(detector)
        self.score_threshold, self.iou_threshold = _thresholds(detector)
        self.normalised = any(spec.mean) or any(value != 1 for value in spec.std)
        self.mean = nn.Buffer(torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.std = nn.Buffer(torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Decoded:
        """See the class."""
        pixels = images.permute(0, 3, 1, 2)
        pixels = (pixels.flip(1) if self.bgr else pixels).float()
        if self.normalised:
            pixels = (pixels - self.mean) / self.std
        features = self.detector.extract_feat(pixels)
        return select(*self.decode(self.detector, features), self.score_threshold, self.iou_threshold)


def select(boxes: Tensor, scores: Tensor, labels: Tensor, score_threshold: float, iou_threshold: float) -> Decoded:
    """The detections among decoded boxes: NMS within each class, best first, padded to MAX_DETECTIONS.

    Boxes of different classes are moved apart so that one NMS serves all of them; one NMS per class takes ten times as long.
    """
    # Padding makes sure that there are enough for top-k, whatever the image's size.
    boxes = nn.functional.pad(boxes, (0, 0, 0, CANDIDATES))
    labels = nn.functional.pad(labels, (0, CANDIDATES))
    scores, order = nn.functional.pad(scores, (0, CANDIDATES)).topk(CANDIDATES, dim=1)
    boxes = boxes.gather(1, order.unsqueeze(-1).expand(-1, -1, 4))
    labels = labels.gather(1, order)
    apart = (labels.to(boxes.dtype) * (boxes.amax(dim=(1, 2)).unsqueeze(1) + 1)).unsqueeze(-1)
    kept = NonMaxSuppression.apply(boxes + apart, scores, iou_threshold, score_threshold)
    scores, order = (scores * kept).topk(MAX_DETECTIONS, dim=1)
    boxes = boxes.gather(1, order.unsqueeze(-1).expand(-1, -1, 4))
    labels = labels.gather(1, order)
    found = scores > 0
    return boxes * found.unsqueeze(-1), scores, torch.where(found, labels, torch.full_like(labels, -1))


class NonMaxSuppression(torch.autograd.Function):
    """ONNX's operator of that name for a batch: 1.0 for each box that is kept, 0.0 for the others.

    torchvision's export handles one image only.
    """

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:  # noqa: ARG004
        """`boxes` (n, p, 4), `scores` (n, p)."""
        kept = torch.zeros_like(scores)
        for image in range(len(boxes)):
            candidates = (scores[image] >= score_threshold).nonzero().squeeze(1)
            chosen = nms(boxes[image, candidates], scores[image, candidates], iou_threshold)[:MAX_DETECTIONS]
            kept[image, candidates[chosen]] = 1.0
        return kept

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, iou_threshold: float, score_threshold: float) -> Any:
        """The operator, and a scatter of its (image, class, box) triples."""

        def constant(value: Any, dtype: torch.dtype) -> Any:
            return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))

        # onnxruntime keeps what is above the threshold, MMDetection what is not below it.
        above = torch.nextafter(torch.tensor(score_threshold), torch.tensor(0.0)).item()
        chosen = g.op(
            "NonMaxSuppression",
            boxes,
            g.op("Unsqueeze", scores, constant([1], torch.int64)),
            constant([MAX_DETECTIONS], torch.int64),
            constant([iou_threshold], torch.float32),
            constant([above], torch.float32),
        )
        where = g.op("Gather", chosen, constant([0, 2], torch.int64), axis_i=1)
        zeros = g.op("Mul", scores, constant(0.0, torch.float32))
        count = g.op("Slice", g.op("Shape", where), constant([0], torch.int64), constant([1], torch.int64))
        ones = g.op("Expand", constant([1.0], torch.float32), count)
        return g.op("ScatterND", zeros, where, ones).setType(scores.type())


def _decode_yolox(detector: Any, features: tuple[Tensor, ...]) -> Decoded:
    """As YOLOXHead.predict_by_feat: the best class of each cell, scored by class times objectness."""
    head = detector.bbox_head
    boxes, scores, labels = [], [], []
    for classes, deltas, objectness, stride in zip(*head(features), head.prior_generator.strides, strict=True):
        height, width = classes.shape[-2:]
        step_x, step_y = (float(side) for side in stride)
        y, x = torch.meshgrid(
            torch.arange(height, device=classes.device) * step_y, torch.arange(width, device=classes.device) * step_x, indexing="ij"
        )
        centre = torch.stack((x, y), dim=0).float() + deltas[:, :2] * deltas.new_tensor([step_x, step_y]).view(1, 2, 1, 1)
        half = deltas[:, 2:].exp() * deltas.new_tensor([step_x, step_y]).view(1, 2, 1, 1) / 2
        boxes.append(torch.cat((centre - half, centre + half), dim=1).flatten(2).transpose(1, 2))
        best, label = classes.sigmoid().max(dim=1)
        scores.append((best * objectness.sigmoid().squeeze(1)).flatten(1))
        labels.append(label.flatten(1))
    return torch.cat(boxes, dim=1), torch.cat(scores, dim=1), torch.cat(labels, dim=1)


_DECODERS: dict[str, Callable[[Any, tuple[Tensor, ...]], Decoded]] = {"YOLOXHead": _decode_yolox}


def _decoder(detector: Any) -> Callable[[Any, tuple[Tensor, ...]], Decoded]:
    return _DECODERS[type(detector.bbox_head).__name__]


def _thresholds(detector: Any) -> tuple[float, float]:
    config = detector.test_cfg
    return float(config.score_thr), float(config.nms.iou_threshold)


def export(detector: nn.Module, spec: InputSpec, card: Card, path: Path) -> Path:
    """Writes `detector` as one ONNX file with `card` in its metadata; batch is dynamic, height and width where images keep their ratio.

    The card's preprocessing gives the input's size. A file appears only when it is whole and onnx's checker passes it.
    """
    # A wrapper in training mode would put the detector back into it while exporting.
    graph = Graph(detector, spec).cpu().eval()
    canvas = card.preprocessing.fixed_canvas
    width, height = canvas or card.preprocessing.canvas(*card.preprocessing.resized(640, 480))
    axes = {0: "batch"} if canvas else {0: "batch", 1: "height", 2: "width"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        raw = Path(folder) / "graph.onnx"
        torch.onnx.export(
            graph,
            (torch.zeros(2, height, width, 3, dtype=torch.uint8),),
            str(raw),
            input_names=["images"],
            output_names=["boxes", "scores", "labels"],
            dynamic_axes={"images": axes, "boxes": {0: "batch"}, "scores": {0: "batch"}, "labels": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(raw)
    for output in model.graph.output:  # the exporter does not see that top-k makes this size fixed
        output.type.tensor_type.shape.dim[1].dim_value = MAX_DETECTIONS
    model.metadata_props.add(key=METADATA_KEY, value=card.to_json())
    onnx.checker.check_model(model, full_check=True)
    temporary = path.with_suffix(".tmp")
    onnx.save(model, temporary)
    temporary.replace(path)
    return path
