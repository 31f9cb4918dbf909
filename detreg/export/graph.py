"""The network with everything around it as one ONNX graph: uint8 RGB in; boxes, scores and labels out.

Inside: channel order and normalization, network, decoding (decode.py), and one class-aware NMS, equal to MMDetection's own
post-processing. Operators are standard ones of opset 17, for which onnxruntime has CUDA kernels; decoding and NMS stay float32.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from detreg.export.decode import Decoded, decoder
from detreg.inference.card import METADATA_KEY, Card
from detreg.templates.input_spec import InputSpec

OPSET = 17


class Graph(nn.Module):
    """A detector from uint8 images (n, height, width, 3) RGB to boxes (n, k, 4), scores (n, k) and labels (n, k).

    Rows past the detections have score 0 and label -1. `fixed` tells that all images have one size.
    """

    def __init__(self, detector: Any, spec: InputSpec, fixed: bool) -> None:
        super().__init__()
        self.detector = detector
        self.fixed = fixed
        self.bgr = spec.channels == "bgr"
        self.detect = decoder(detector)
        self.is_normalized = spec.is_normalized
        self.mean = nn.Buffer(torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.std = nn.Buffer(torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Decoded:
        """See the class."""
        pixels = images.permute(0, 3, 1, 2)
        pixels = (pixels.flip(1) if self.bgr else pixels).float()
        if self.is_normalized:
            pixels = (pixels - self.mean) / self.std
        maps, sides = self.detector.extract_feat(pixels), torch._shape_as_tensor(pixels)[2:]
        boxes, scores, labels = self.detect(self.detector, maps, sides, self.fixed)
        found = scores > 0
        return (
            boxes * found.unsqueeze(-1),
            scores,
            torch.where(found, labels, torch.full_like(labels, -1)),
        )


def export(detector: nn.Module, spec: InputSpec, card: Card, path: Path) -> Path:
    """Writes `detector` as one ONNX file with `card` in its metadata; batch is dynamic, height and width where images keep their ratio.

    The card's preprocessing gives the input's size. A file appears only when it is whole and onnx's checker passes it.
    """
    canvas = card.preprocessing.fixed_canvas
    # A wrapper in training mode would put the detector back into it while exporting.
    graph = Graph(detector, spec, fixed=canvas is not None).cpu().eval()
    width, height = canvas or card.preprocessing.canvas(*card.preprocessing.resized(640, 480))
    axes = {0: "batch"} if canvas else {0: "batch", 1: "height", 2: "width"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        raw = Path(folder) / "graph.onnx"
        example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
        rows = graph(example)[1].shape[1]
        torch.onnx.export(
            graph,
            (example,),
            str(raw),
            input_names=["images"],
            output_names=["boxes", "scores", "labels"],
            dynamic_axes={
                "images": axes,
                "boxes": {0: "batch"},
                "scores": {0: "batch"},
                "labels": {0: "batch"},
            },
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(raw)
    for output in model.graph.output:  # the exporter does not see that top-k makes this size fixed
        output.type.tensor_type.shape.dim[1].dim_value = rows
    model.metadata_props.add(key=METADATA_KEY, value=card.to_json())
    onnx.checker.check_model(model, full_check=True)
    temporary = path.with_suffix(".tmp")
    onnx.save(model, temporary)
    temporary.replace(path)
    return path
