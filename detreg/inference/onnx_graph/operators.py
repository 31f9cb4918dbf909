"""The operators that detreg's exporter makes, and nothing else that a graph may have.

This list is the one place: an operator that an export needs, or another attribute, is added here,
with the function that says what comes out of it (values.py, movement.py, layers.py).
tests/test_graph.py exports every template and loads what comes out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from detreg.inference.onnx_graph import layers, movement, values
from detreg.inference.onnx_graph.arrays import Array, Inputs, get_input
from detreg.inference.onnx_graph.structure import Node

OPSET = 17
"""The version of ONNX's operators that the exporter writes, and the only one that is read."""

_ELEMENT_COST = 16
"""Multiply-adds of a convolution that take as long as one element of any other operator."""

Rule = Callable[[Node, Inputs], Array | tuple[Array, ...]]
Cost = Callable[[Node, Inputs, tuple[Array, ...]], int]
"""The multiply-adds that an operator takes, or work of as much time."""


def _count_elements(node: Node, inputs: Inputs, outputs: tuple[Array, ...]) -> int:  # noqa: ARG001
    arrays = [array for array in (*inputs, *outputs) if array is not None]
    return _ELEMENT_COST * sum(array.size for array in arrays)


def _count_nothing(node: Node, inputs: Inputs, outputs: tuple[Array, ...]) -> int:  # noqa: ARG001
    return 0


def _count_convolution(node: Node, inputs: Inputs, outputs: tuple[Array, ...]) -> int:
    weights = get_input(node, inputs, 1)
    return outputs[0].size * max(prod(weights.shape[1:]), _ELEMENT_COST)


def _count_transposed_convolution(
    node: Node,
    inputs: Inputs,
    outputs: tuple[Array, ...],  # noqa: ARG001
) -> int:
    maps, weights = get_input(node, inputs, 0), get_input(node, inputs, 1)
    return maps.size * max(prod(weights.shape[1:]), _ELEMENT_COST)


def _count_pooling(node: Node, inputs: Inputs, outputs: tuple[Array, ...]) -> int:  # noqa: ARG001
    return outputs[0].size * prod(node.get_ints("kernel_shape", ())) * _ELEMENT_COST


def _count_product(node: Node, inputs: Inputs, outputs: tuple[Array, ...]) -> int:
    depth = get_input(node, inputs, 0).shape[-1]
    return outputs[0].size * max(depth, _ELEMENT_COST)


def _count_suppression(node: Node, inputs: Inputs, outputs: tuple[Array, ...]) -> int:
    # Each box is compared with those that were kept before it.
    boxes = get_input(node, inputs, 0)
    return outputs[0].size * boxes.shape[1] + _count_elements(node, inputs, outputs)


def _count_alignment(node: Node, inputs: Inputs, outputs: tuple[Array, ...]) -> int:
    # A region may be as large as the map, and is read once then.
    maps = get_input(node, inputs, 0)
    samples = max(node.get_int("sampling_ratio", 0) ** 2, 1)
    regions = outputs[0].shape[0] * prod(maps.shape[1:])
    return _ELEMENT_COST * outputs[0].size * samples + regions


@dataclass(frozen=True)
class Operator:
    """What a graph may do with an operator: its attributes, and what comes out of it."""

    rule: Rule
    attributes: tuple[str, ...] = ()
    count_cost: Cost = _count_elements


_REDUCE = Operator(layers.reduce, ("axes", "keepdims"))
_SLIDE = ("ceil_mode", "dilations", "kernel_shape", "pads", "strides")
_ELEMENTWISE = Operator(values.elementwise)
_FUNCTION = Operator(values.keep_shape)

OPERATORS: Mapping[str, Operator] = {
    "Add": _ELEMENTWISE,
    "ArgMax": Operator(layers.find_maximum, ("axis", "keepdims", "select_last_index")),
    "AveragePool": Operator(layers.pool, (*_SLIDE, "count_include_pad"), _count_pooling),
    "Cast": Operator(values.cast, ("to",)),
    "Clip": _FUNCTION,
    "Concat": Operator(movement.concatenate, ("axis",)),
    "Constant": Operator(values.constant, ("value",)),
    "ConstantOfShape": Operator(values.constant_of_shape, ("value",)),
    "Conv": Operator(
        layers.convolve,
        ("dilations", "group", "kernel_shape", "pads", "strides"),
        _count_convolution,
    ),
    "ConvTranspose": Operator(
        layers.convolve_transposed,
        ("dilations", "group", "kernel_shape", "pads", "strides"),
        _count_transposed_convolution,
    ),
    "Div": _ELEMENTWISE,
    "Equal": _ELEMENTWISE,
    "Erf": _FUNCTION,
    "Exp": _FUNCTION,
    "Expand": Operator(values.expand),
    "Flatten": Operator(movement.flatten, ("axis",)),
    "Floor": _FUNCTION,
    "Gather": Operator(movement.gather, ("axis",)),
    "GatherElements": Operator(movement.gather_elements, ("axis",)),
    "Gemm": Operator(layers.multiply_matrices, ("alpha", "beta", "transB"), _count_product),
    "Greater": _ELEMENTWISE,
    "Identity": Operator(values.identity),
    "LayerNormalization": Operator(values.keep_shape, ("axis", "epsilon")),
    "Log": _FUNCTION,
    "MatMul": Operator(layers.multiply_matrices, (), _count_product),
    "MaxPool": Operator(layers.pool, _SLIDE, _count_pooling),
    "Min": _ELEMENTWISE,
    "Mul": _ELEMENTWISE,
    "NonMaxSuppression": Operator(movement.suppress_overlaps, (), _count_suppression),
    "NonZero": Operator(movement.find_nonzero),
    "Not": _FUNCTION,
    "Pad": Operator(layers.pad, ("mode",)),
    "Pow": _ELEMENTWISE,
    "Range": Operator(values.make_range),
    "ReduceMax": _REDUCE,
    "ReduceMean": _REDUCE,
    "ReduceSum": Operator(layers.reduce, ("keepdims", "noop_with_empty_axes")),
    "Relu": _FUNCTION,
    "Reshape": Operator(movement.reshape, ("allowzero",)),
    "Resize": Operator(
        layers.resize,
        ("coordinate_transformation_mode", "cubic_coeff_a", "mode", "nearest_mode"),
    ),
    "RoiAlign": Operator(
        layers.align_regions,
        (
            "coordinate_transformation_mode",
            "output_height",
            "output_width",
            "sampling_ratio",
            "spatial_scale",
        ),
        _count_alignment,
    ),
    "ScatterND": Operator(movement.scatter),
    "Shape": Operator(values.read_shape, (), _count_nothing),
    "Sigmoid": _FUNCTION,
    "Slice": Operator(movement.slice_array),
    "Softmax": Operator(values.keep_shape, ("axis",)),
    "Sqrt": _FUNCTION,
    "Squeeze": Operator(movement.squeeze),
    "Sub": _ELEMENTWISE,
    "Tile": Operator(values.tile),
    "TopK": Operator(movement.take_top, ("axis", "largest", "sorted")),
    "Transpose": Operator(movement.transpose, ("perm",)),
    "Unsqueeze": Operator(movement.unsqueeze),
    "Where": _ELEMENTWISE,
}
