"""The network with everything around it as one ONNX graph.

Input: uint8 RGB images. Outputs: those of inference/outputs.py. Inside: channel order and
normalization, network, decoding (decode/), one class-aware NMS, equal to MMDetection's own
post-processing, and the masks of what is left. Operators are standard ones of opset 17, for which
onnxruntime has CUDA kernels; decoding and NMS stay float32.
"""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import torch
from torch import Tensor, nn

from detreg.export.decode.masks import DecodedMasks, decode_masks
from detreg.export.decode.selection import DecodedBoxes
from detreg.export.decode.table import DECODERS
from detreg.files import write_atomically
from detreg.inference.card import METADATA_KEY, Card
from detreg.inference.onnx_graph.check import INPUT
from detreg.inference.onnx_graph.operators import OPSET
from detreg.inference.outputs import BATCH, LABELS, OUTPUTS
from detreg.templates.input_spec import InputSpec
from detreg.templates.template import DecoderName

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector

_EXAMPLE_IMAGE = (640, 480)
"""Width and height of the image that gives the traced input its size where sizes vary."""


class DetectionGraph(nn.Module):
    """A detector from uint8 images (n, height, width, 3) RGB to boxes, scores, labels and masks.

    Masks are there where the network has a branch for them. Rows after the detections have score 0
    and label -1. `has_fixed_size` says that all inputs have the same height and width.
    """

    def __init__(
        self,
        network: "BaseDetector",
        decoder: DecoderName,
        input_spec: InputSpec,
        has_fixed_size: bool,
    ) -> None:
        super().__init__()
        self.network = network
        self.decode = DECODERS[decoder].decode
        self.has_fixed_size = has_fixed_size
        self.is_bgr = input_spec.channels == "bgr"
        self.is_normalized = input_spec.is_normalized
        mean = torch.tensor(input_spec.mean).view(1, 3, 1, 1)
        std = torch.tensor(input_spec.std).view(1, 3, 1, 1)
        self.mean = nn.Buffer(mean, persistent=False)
        self.std = nn.Buffer(std, persistent=False)

    def forward(self, images: Tensor) -> DecodedBoxes | DecodedMasks:
        """Return boxes (n, k, 4), scores (n, k), labels (n, k), and any masks, best first."""
        pixels = images.permute(0, 3, 1, 2)
        if self.is_bgr:
            pixels = pixels.flip(1)
        pixels = pixels.float()
        if self.is_normalized:
            pixels = (pixels - self.mean) / self.std

        maps = self.network.extract_feat(pixels)
        input_size = torch._shape_as_tensor(pixels)[2:]
        boxes, scores, labels = self.decode(self.network, maps, input_size, self.has_fixed_size)

        # Rows are always as many as NMS may return; those after the detections get fixed values.
        is_detection = scores > 0
        boxes = boxes * is_detection.unsqueeze(-1)
        labels = torch.where(is_detection, labels, torch.full_like(labels, LABELS.padding))
        detections = DecodedBoxes(boxes, scores, labels)
        if not self.network.with_mask:
            return detections
        return decode_masks(self.network.roi_head, maps, detections)


def export_onnx(
    network: nn.Module,
    decoder: DecoderName,
    input_spec: InputSpec,
    card: Card,
    path: Path,
) -> Path:
    """Write a network as one ONNX file with `card` in its metadata, and return `path`.

    The batch is dynamic; height and width are too, where images keep their ratio and are not
    padded to one size. The card's preprocessing decides that. The file appears only when it is
    complete and onnx's checker accepts it. The network is left on the CPU.
    """
    canvas = card.preprocessing.fixed_canvas
    # Left in training mode, the wrapper would put the network back into it during the export.
    graph = DetectionGraph(network, decoder, input_spec, canvas is not None).cpu().eval()
    width, height = canvas or card.preprocessing.compute_input_size(*_EXAMPLE_IMAGE)
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    model = _trace(graph, example, card.outputs)

    # The card is part of the file, so that the two cannot be separated.
    model.metadata_props.add(key=METADATA_KEY, value=card.to_json())
    onnx.checker.check_model(model, full_check=True)
    with write_atomically(path) as file:
        file.write(model.SerializeToString())
    return path


def _trace(graph: DetectionGraph, example: Tensor, output_names: Sequence[str]) -> onnx.ModelProto:
    """Return the ONNX model of a graph whose results get these names, in this order.

    `example` is uint8 (2, height, width, 3). Its sizes are those of the traced graph, except for
    the axes that are dynamic.
    """
    input_axes = {0: BATCH}
    if not graph.has_fixed_size:
        input_axes |= {1: "height", 2: "width"}
    dynamic_axes = {INPUT: input_axes} | {name: {0: BATCH} for name in output_names}

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        # Tracing warns about every Python number that becomes a constant, as is intended here.
        warnings.simplefilter("ignore")
        num_rows = graph(example).scores.shape[1]
        path = Path(folder) / "graph.onnx"
        torch.onnx.export(
            graph,
            (example,),
            str(path),
            input_names=[INPUT],
            output_names=list(output_names),
            dynamic_axes=dynamic_axes,
            opset_version=OPSET,
            # The symbolic function of NonMaxSuppression exists for this exporter only.
            dynamo=False,
        )
        model = onnx.load(path)

    # The exporter does not see that TopK makes this size constant, and those of a mask.
    axes_of = {output.name: output.axes for output in OUTPUTS}
    for output in model.graph.output:
        dimensions = output.type.tensor_type.shape.dim
        dimensions[1].dim_value = num_rows
        for dimension, size in zip(dimensions, axes_of[output.name], strict=True):
            if isinstance(size, int):
                dimension.dim_value = size
    return model
