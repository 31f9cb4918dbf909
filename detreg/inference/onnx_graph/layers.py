"""Reductions and the layers of networks: what comes out of them.

See values.py.
"""

from collections.abc import Sequence
from math import floor

import numpy as np

from detreg.errors import DataError
from detreg.inference.onnx_graph.arrays import (
    INT64,
    LARGEST,
    Array,
    Inputs,
    Shape,
    broadcast_shapes,
    check_sizes,
    get_input,
    get_optional,
    has_bounds,
    normalize_axis,
    require_exact,
    require_sizes,
)
from detreg.inference.onnx_graph.structure import Node


def reduce(node: Node, inputs: Inputs) -> Array:
    """Combine the elements along axes, which are an attribute or, for ReduceSum, an input."""
    first = get_input(node, inputs, 0)
    rank = len(first.shape)
    axes = node.get_ints("axes", tuple(range(rank)))
    given = get_optional(inputs, 1)
    if given is not None:
        axes = tuple(require_exact(given, "axes of ReduceSum"))
        if not axes and node.get_int("noop_with_empty_axes", 0) == 0:
            axes = tuple(range(rank))
    keeps_axes = node.get_int("keepdims", 1) != 0
    return _remove_axes(first, axes, keeps_axes, first.dtype)


def find_maximum(node: Node, inputs: Inputs) -> Array:
    """Return the position of the highest value along an axis."""
    first = get_input(node, inputs, 0)
    keeps_axes = node.get_int("keepdims", 1) != 0
    return _remove_axes(first, (node.get_int("axis", 0),), keeps_axes, INT64)


def _remove_axes(
    array: Array, axes: Sequence[int], keeps_axes: bool, dtype: np.dtype[np.generic]
) -> Array:
    removed = {normalize_axis(axis, len(array.shape)) for axis in axes}
    shape: list[int] = []
    for axis, size in enumerate(array.shape):
        if axis not in removed:
            shape.append(size)
        elif keeps_axes:
            shape.append(1)
    return Array(tuple(shape), dtype, has_bounds=array.has_bounds)


def pad(node: Node, inputs: Inputs) -> Array:
    """Add elements at both ends of each axis."""
    first = get_input(node, inputs, 0)
    pads, is_bound = require_sizes(get_input(node, inputs, 1), "sizes of Pad")
    rank = len(first.shape)
    if len(pads) != 2 * rank:
        raise DataError("Pad must have two numbers for each axis")
    sizes = [size + pads[axis] + pads[axis + rank] for axis, size in enumerate(first.shape)]
    return Array(check_sizes(sizes), first.dtype, has_bounds=is_bound or first.has_bounds)


def resize(node: Node, inputs: Inputs) -> Array:
    """Scale maps by factors or to sizes."""
    first = get_input(node, inputs, 0)
    region, scales, sizes = (get_optional(inputs, position) for position in (1, 2, 3))
    has_scales = scales is not None and scales.size > 0
    if (region is not None and region.size) or (has_scales and sizes is not None):
        raise DataError("Resize must have either factors or sizes, and no region")
    if sizes is not None:
        new_sizes = require_exact(sizes, "sizes of Resize")
    else:
        new_sizes = _scale_sizes(first.shape, scales)
    if len(new_sizes) != len(first.shape):
        raise DataError("Resize must have a size for each axis")
    return Array(check_sizes(new_sizes), first.dtype, has_bounds=first.has_bounds)


def _scale_sizes(shape: Shape, scales: Array | None) -> list[int]:
    """Return sizes times factors, rounded down in float32, as onnxruntime does."""
    factors = None if scales is None else scales.exact_values
    if factors is None or factors.shape != (len(shape),) or factors.dtype != np.float32:
        raise DataError("Resize must have a constant factor for each axis")
    if not np.isfinite(factors).all() or factors.min(initial=1) <= 0:
        raise DataError("Resize must have positive factors")
    sizes = np.array(shape, np.float32) * factors.astype(np.float32)
    if sizes.max(initial=0) >= LARGEST:
        raise DataError("Resize makes maps that are too large")
    return [floor(size) for size in sizes.tolist()]


def convolve(node: Node, inputs: Inputs) -> Array:
    """Slide filters over maps."""
    maps, weights = get_input(node, inputs, 0), get_input(node, inputs, 1)
    if len(maps.shape) != 4 or len(weights.shape) != 4 or weights.has_bounds:
        raise DataError("Conv must have maps and weights with four axes")
    if weights.shape[1] * node.get_int("group", 1) != maps.shape[1]:
        raise DataError("Conv has weights for another number of channels")
    kernel = node.get_ints("kernel_shape", weights.shape[2:])
    if kernel != weights.shape[2:]:
        raise DataError("Conv has a kernel_shape that is not that of its weights")
    sides = _slide(node, maps.shape[2:], kernel)
    shape = (maps.shape[0], weights.shape[0], *sides)
    return Array(shape, maps.dtype, has_bounds=maps.has_bounds)


def convolve_transposed(node: Node, inputs: Inputs) -> Array:
    """Let each element of maps make a window of new maps, whose sum is the result."""
    maps, weights = get_input(node, inputs, 0), get_input(node, inputs, 1)
    if len(maps.shape) != 4 or len(weights.shape) != 4 or weights.has_bounds:
        raise DataError("ConvTranspose must have maps and weights with four axes")
    # A filter that is not divided has no room for mistakes, and no export divides one.
    group = node.get_int("group", 1)
    if group != 1 or weights.shape[0] != maps.shape[1]:
        raise DataError("ConvTranspose must have one group, and weights for each channel")
    kernel = node.get_ints("kernel_shape", weights.shape[2:])
    if kernel != weights.shape[2:]:
        raise DataError("ConvTranspose has a kernel_shape that is not that of its weights")
    strides, dilations, pads = _read_window(node, kernel)

    sides = []
    for axis, side in enumerate(maps.shape[2:]):
        window = (kernel[axis] - 1) * dilations[axis] + 1
        sides.append((side - 1) * strides[axis] + window - pads[axis] - pads[axis + 2])
    shape = (maps.shape[0], weights.shape[1], *check_sizes(sides))
    return Array(shape, maps.dtype, has_bounds=maps.has_bounds)


def pool(node: Node, inputs: Inputs) -> Array:
    """Slide a window over maps."""
    maps = get_input(node, inputs, 0)
    kernel = node.get_ints("kernel_shape", ())
    if len(maps.shape) != 4 or len(kernel) != 2:
        raise DataError(f"{node.operator} must have maps with four axes")
    sides = _slide(node, maps.shape[2:], kernel)
    return Array((*maps.shape[:2], *sides), maps.dtype, has_bounds=maps.has_bounds)


def _slide(node: Node, sides: Shape, kernel: Shape) -> Shape:
    """Return the sides of what a window makes of maps."""
    strides, dilations, pads = _read_window(node, kernel)
    rounds_up = node.get_int("ceil_mode", 0) != 0
    result = []
    for axis, side in enumerate(sides):
        window = (kernel[axis] - 1) * dilations[axis] + 1
        room = side + pads[axis] + pads[axis + 2] - window
        steps = -(-room // strides[axis]) if rounds_up else room // strides[axis]
        if rounds_up and steps * strides[axis] >= side + pads[axis]:
            # Runtimes do not agree on a window that lies in the padding.
            raise DataError(f"{node.operator} has a window beside its maps")
        result.append(steps + 1)
    if min(result) < 1:
        raise DataError(f"{node.operator} has a window that is larger than its maps")
    return tuple(result)


def _read_window(node: Node, kernel: Shape) -> tuple[Shape, Shape, Shape]:
    """Return strides, dilations and pads of a window."""
    strides = node.get_ints("strides", (1, 1))
    dilations = node.get_ints("dilations", (1, 1))
    pads = node.get_ints("pads", (0, 0, 0, 0))
    if (len(strides), len(dilations), len(pads)) != (2, 2, 4):
        raise DataError(f"{node.operator} must have two strides and dilations, and four pads")
    if min(*strides, *dilations, *kernel) < 1 or min(pads) < 0:
        raise DataError(f"{node.operator} must have positive strides, dilations and sizes")
    return strides, dilations, pads


def multiply_matrices(node: Node, inputs: Inputs) -> Array:
    """Multiply matrices, or stacks of them."""
    a, b = get_input(node, inputs, 0), get_input(node, inputs, 1)
    if min(len(a.shape), len(b.shape)) < 2:
        raise DataError(f"{node.operator} must have matrices")
    columns, depth = b.shape[-1], b.shape[-2]
    if node.get_int("transB", 0):
        columns, depth = depth, columns
    is_bounded = has_bounds(inputs)
    if depth != a.shape[-1] and not is_bounded:
        raise DataError(f"{node.operator} has matrices that do not fit: {a.shape} and {b.shape}")
    stacks = broadcast_shapes(
        [Array(array.shape[:-2], array.dtype, has_bounds=array.has_bounds) for array in (a, b)]
    )
    return Array((*stacks, a.shape[-2], columns), a.dtype, has_bounds=is_bounded)


def align_regions(node: Node, inputs: Inputs) -> Array:
    """Pool regions of maps."""
    maps, regions = get_input(node, inputs, 0), get_input(node, inputs, 1)
    if len(maps.shape) != 4 or len(regions.shape) != 2:
        raise DataError("RoiAlign must have maps with four axes and regions with two")
    sides = check_sizes([node.get_int("output_height", 1), node.get_int("output_width", 1)])
    if not 0 <= node.get_int("sampling_ratio", 0) <= 8:
        raise DataError("RoiAlign's sampling_ratio must be between 0 and 8")
    shape = (regions.shape[0], maps.shape[1], *sides)
    part = regions.part if regions.part and regions.part.axis == 0 else None
    return Array(shape, maps.dtype, has_bounds=has_bounds(inputs), part=part)
