"""What a file has to be before a runtime opens it, and before it runs for an input."""

from collections.abc import Mapping

import numpy as np

from detreg.errors import DataError
from detreg.inference.onnx_graph.arrays import Shape
from detreg.inference.onnx_graph.operators import OPERATORS, OPSET
from detreg.inference.onnx_graph.reading import read_graph
from detreg.inference.onnx_graph.size import measure_graph
from detreg.inference.onnx_graph.structure import Graph, Node, ValueInfo
from detreg.inference.outputs import MASKS, OUTPUTS

INPUT = "images"

_EXPORT_AGAIN = "export the model again"
_MAX_NODES = 10_000
"""The largest export, of Faster R-CNN with ResNet-101, has 1500."""
_MAX_INPUT_SIDE = 16_384
_MAX_OUTPUTS = 16
_MAX_ROWS = 10_000
"""Detections of an image; detreg exports 300."""

# Memory of arrays and multiply-adds that an image may take beside the constants. detreg's own
# networks take at most 530 bytes and 380,000 multiply-adds for a pixel (SSD's VGG, yolox_x), and
# Faster R-CNN 250 MB and 18 billion for its proposals, however small the image. With a thousand
# classes a RetinaNet takes twelve times as much, and has weights of half a gigabyte.
_IMAGE_BYTES, _PIXEL_BYTES = 512 << 20, 1024
_IMAGE_OPERATIONS, _PIXEL_OPERATIONS = 60 * 10**9, 10**6
# The masks of 300 detections, the most that there are, take 164 billion, whatever is found.
_MASK_OPERATIONS = 200 * 10**9
_FILE_BYTES_PER_PIXEL_BYTE = 1 << 16
_FILE_BYTES_PER_PIXEL_OPERATION = 200

# Where the input has any size, constants are judged with one that every network takes.
_NOMINAL_SIDE = 512


def read_checked_graph(model: bytes) -> Graph:
    """Read an ONNX file's graph, which may then be opened.

    Raises DataError for a file that is not one of detreg's or takes too much, and RefusedError for
    one that needs another file or foreign operators.
    """
    graph = read_graph(model)
    if graph.opset != OPSET:
        raise DataError(
            f"the graph has ONNX's operators of version {graph.opset}, not {OPSET}: {_EXPORT_AGAIN}"
        )
    _check_interface(graph)
    if len(graph.nodes) > _MAX_NODES:
        raise DataError(f"the graph has more than {_MAX_NODES} nodes")
    for node in graph.nodes:
        _check_operator(node)
    _check_names(graph)

    batch, height, width, channels = graph.inputs[0].shape
    nominal = (batch or 1, height or _NOMINAL_SIDE, width or _NOMINAL_SIDE, channels or 3)
    check_size(graph, nominal)
    return graph


def check_size(graph: Graph, input_shape: Shape) -> None:
    """Raise DataError where running a graph for images of a shape would take too much."""
    size = measure_graph(graph, input_shape)
    num_images, height, width, _ = input_shape
    num_pixels = num_images * height * width
    pixel_bytes = _PIXEL_BYTES + graph.file_bytes // _FILE_BYTES_PER_PIXEL_BYTE
    pixel_operations = _PIXEL_OPERATIONS + graph.file_bytes // _FILE_BYTES_PER_PIXEL_OPERATION
    max_bytes = num_images * _IMAGE_BYTES + num_pixels * pixel_bytes
    has_masks = any(output.name == MASKS.name for output in graph.outputs)
    image_operations = _IMAGE_OPERATIONS + (_MASK_OPERATIONS if has_masks else 0)
    max_operations = num_images * image_operations + num_pixels * pixel_operations
    shape = f"{num_images} images of {width} x {height}"
    if size.peak_bytes > max_bytes:
        raise DataError(
            f"the graph takes up to {size.peak_bytes >> 20:,} MiB for {shape}, and networks of "
            f"detreg at most {max_bytes >> 20:,}: it is not one of them"
        )
    if size.operations > max_operations:
        raise DataError(
            f"the graph takes up to {size.operations:.1e} operations for {shape}, and networks of "
            f"detreg at most {max_operations:.1e}: it is not one of them"
        )
    _check_output_shapes(size.output_shapes, num_images)


def _check_interface(graph: Graph) -> None:
    """Check what the graph declares of its input and outputs."""
    names = [value.name[:80] for value in graph.inputs[:_MAX_OUTPUTS]]
    if names != [INPUT]:
        raise DataError(f"The graph has the inputs {names} instead of ['{INPUT}']: {_EXPORT_AGAIN}")
    images = graph.inputs[0]
    sides = [side for side in images.shape if side is not None]
    if images.dtype != np.uint8 or len(images.shape) != 4 or images.shape[3] != 3:
        raise DataError(
            f"the input must be uint8 (batch, height, width, 3), got {_describe(images)}"
        )
    if any(not 1 <= side <= _MAX_INPUT_SIDE for side in sides):
        raise DataError(
            f"the sides of the input must be between 1 and {_MAX_INPUT_SIDE}, got {images.shape}"
        )

    if len(graph.outputs) > _MAX_OUTPUTS:
        raise DataError(f"the graph has more than {_MAX_OUTPUTS} outputs")
    declared = {value.name: value for value in graph.outputs}
    for output in OUTPUTS:
        value = declared.get(output.name)
        if value is None and output.is_optional:
            continue
        if value is None:
            found = ", ".join(name[:80] for name in declared)
            raise DataError(
                f"The graph has the outputs {found}, and lacks {output.name}: {_EXPORT_AGAIN}"
            )
        if value.dtype != output.dtype or len(value.shape) != len(output.axes):
            raise DataError(
                f"the output {output.name} must be {output.dtype} with {len(output.axes)} axes, "
                f"got {_describe(value)}: {_EXPORT_AGAIN}"
            )


def _describe(value: ValueInfo) -> str:
    return f"{value.dtype} {str(value.shape)[:200]}"


def _check_operator(node: Node) -> None:
    operator = OPERATORS.get(node.operator)
    if operator is None:
        raise DataError(
            f"the graph has the operator {node.operator[:80]!r}, which detreg does not export"
        )
    unknown = [name for name in node.attributes if name not in operator.attributes]
    if unknown:
        raise DataError(
            f"{node.operator} has the attribute {unknown[0][:80]!r}, which detreg does not export"
        )


def _check_names(graph: Graph) -> None:
    """Check that every array is made once, and before it is read."""
    known = {INPUT}
    for tensor in graph.initializers:
        if not tensor.name or tensor.name in known:
            raise DataError(f"the graph has two arrays named {tensor.name[:80]!r}")
        known.add(tensor.name)

    for node in graph.nodes:
        for name in node.inputs:
            if name and name not in known:
                raise DataError(f"{node.operator} reads {name[:80]!r}, which is not there yet")
        for name in node.outputs:
            if not name or name in known:
                raise DataError(f"the graph has two arrays named {name[:80]!r}")
            known.add(name)

    for output in graph.outputs:
        if output.name not in known:
            raise DataError(f"the graph lacks its output {output.name[:80]!r}")


def _check_output_shapes(shapes: Mapping[str, Shape], num_images: int) -> None:
    """Check what comes out: a row for each of some detections of each image."""
    for output in OUTPUTS:
        shape = shapes.get(output.name)
        if shape is None:
            continue
        expected = [size for size in output.detection_axes if isinstance(size, int)]
        is_expected = len(shape) == len(output.axes) and [*shape[2:]] == expected
        if not is_expected or shape[0] != num_images or shape[1] > _MAX_ROWS:
            raise DataError(
                f"the output {output.name} must be ({', '.join(map(str, output.axes))}), got "
                f"{str(shape)[:200]} for {num_images} images: {_EXPORT_AGAIN}"
            )
