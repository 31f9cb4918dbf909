"""Operators that arrange or choose elements: what comes out of them.

See values.py.
"""

from dataclasses import replace
from math import prod

import numpy as np

from detreg.errors import DataError
from detreg.inference.onnx_graph.arrays import (
    INT64,
    Array,
    Inputs,
    Shape,
    broadcast_shapes,
    check_sizes,
    count_joined_rows,
    get_input,
    get_optional,
    has_bounds,
    make_known,
    move_part,
    normalize_axis,
    rearrange,
    require_exact,
    require_sizes,
)
from detreg.inference.onnx_graph.structure import MAX_VALUES, Node


def concatenate(node: Node, inputs: Inputs) -> Array:
    """Put arrays behind each other."""
    arrays = [get_input(node, inputs, position) for position in range(len(inputs))]
    if not arrays or len({len(array.shape) for array in arrays}) != 1:
        raise DataError("Concat must have inputs with the same number of axes")
    axis = normalize_axis(node.get_int("axis", 0), len(arrays[0].shape))
    shape = list(broadcast_shapes(arrays))
    shape[axis] = count_joined_rows(arrays, axis)
    if prod(shape) <= MAX_VALUES:
        try:
            moved = rearrange(arrays, lambda values: np.concatenate(values, axis))
        except ValueError as error:
            raise DataError(f"Concat cannot join its inputs: {error}") from error
        if moved is not None:
            return moved
    return Array(tuple(shape), arrays[0].dtype, has_bounds=has_bounds(inputs))


def reshape(node: Node, inputs: Inputs) -> Array:
    """Give the elements another shape; 0 keeps a size and -1 takes what is left."""
    first = get_input(node, inputs, 0)
    sizes, is_bound = require_sizes(get_input(node, inputs, 1), "sizes of Reshape")
    if node.get_int("allowzero", 0) == 0:
        for axis, size in enumerate(sizes):
            if size == 0 and axis < len(first.shape):
                sizes[axis] = first.shape[axis]
    if -1 in sizes:
        # A bound beside it may be smaller in truth, and what is left larger.
        others = prod(size for size in sizes if size != -1)
        left = first.size if is_bound or others < 1 else -(-first.size // others)
        sizes[sizes.index(-1)] = left
    shape = check_sizes(sizes)
    return _reshape_to(first, shape, is_bound)


def _reshape_to(array: Array, shape: Shape, is_bound: bool = False) -> Array:
    if array.size != prod(shape) and not (is_bound or array.has_bounds):
        raise DataError(f"an array of shape {array.shape} cannot become {shape}")
    if not is_bound and not array.has_bounds:
        moved = rearrange([array], lambda values: values[0].reshape(shape))
        if moved is not None:
            return moved
    return Array(shape, array.dtype, has_bounds=is_bound or array.has_bounds)


def flatten(node: Node, inputs: Inputs) -> Array:
    """Return an array with two axes."""
    first = get_input(node, inputs, 0)
    axis = node.get_int("axis", 1)
    if not -len(first.shape) <= axis <= len(first.shape):
        raise DataError(f"Flatten has the axis {axis} of an array with {len(first.shape)}")
    return _reshape_to(first, (prod(first.shape[:axis]), prod(first.shape[axis:])))


def transpose(node: Node, inputs: Inputs) -> Array:
    """Exchange axes."""
    first = get_input(node, inputs, 0)
    rank = len(first.shape)
    axes = node.get_ints("perm", tuple(reversed(range(rank))))
    if sorted(axes) != list(range(rank)):
        raise DataError(f"Transpose has the axes {axes} of an array with {rank}")
    moved = rearrange([first], lambda values: values[0].transpose(axes))
    if moved is not None:
        return moved
    shape = tuple(first.shape[axis] for axis in axes)
    part = move_part(first, axes.index(first.part.axis)) if first.part else None
    return Array(shape, first.dtype, has_bounds=first.has_bounds, part=part)


def unsqueeze(node: Node, inputs: Inputs) -> Array:
    """Add axes of size 1."""
    first = get_input(node, inputs, 0)
    given = require_exact(get_input(node, inputs, 1), "axes of Unsqueeze")
    rank = len(first.shape) + len(given)
    axes = {normalize_axis(axis, rank) for axis in given}
    if len(axes) != len(given):
        raise DataError("Unsqueeze names an axis twice")
    sizes = iter(first.shape)
    shape = tuple(1 if axis in axes else next(sizes) for axis in range(rank))
    return _reshape_to(first, shape)


def squeeze(node: Node, inputs: Inputs) -> Array:
    """Remove axes of size 1."""
    first = get_input(node, inputs, 0)
    given = require_exact(get_input(node, inputs, 1), "axes of Squeeze")
    axes = {normalize_axis(axis, len(first.shape)) for axis in given}
    if not first.has_bounds and any(first.shape[axis] != 1 for axis in axes):
        raise DataError("Squeeze removes an axis that has not the size 1")
    kept = [axis for axis in range(len(first.shape)) if axis not in axes]
    squeezed = _reshape_to(first, tuple(first.shape[axis] for axis in kept))
    if first.part is None or first.part.axis not in kept:
        return squeezed
    return replace(squeezed, part=move_part(first, kept.index(first.part.axis)))


# Elements that are chosen.


def gather(node: Node, inputs: Inputs) -> Array:
    """Take rows at positions."""
    first, positions = get_input(node, inputs, 0), get_input(node, inputs, 1)
    axis = normalize_axis(node.get_int("axis", 0), len(first.shape))
    if not first.shape:
        raise DataError("Gather needs an array with axes")
    chosen = positions.exact_values
    if chosen is not None:
        if chosen.dtype.kind != "i":
            raise DataError("Gather must have integers as positions")
        try:
            moved = rearrange(
                [first],
                lambda values: np.asarray(np.take(values[0], chosen.astype(np.int64), axis)),
            )
        except IndexError as error:
            raise DataError(f"Gather takes what is not there: {error}") from error
        if moved is not None:
            return moved
    shape = first.shape[:axis] + positions.shape + first.shape[axis + 1 :]
    part = None
    if positions.part is not None:
        part = move_part(positions, axis + positions.part.axis)
    elif first.part is not None and first.part.axis < axis:
        part = first.part
    return Array(shape, first.dtype, has_bounds=has_bounds(inputs), part=part)


def gather_elements(node: Node, inputs: Inputs) -> Array:
    """Take an element for each position."""
    first, positions = get_input(node, inputs, 0), get_input(node, inputs, 1)
    return Array(positions.shape, first.dtype, has_bounds=positions.has_bounds)


def slice_array(node: Node, inputs: Inputs) -> Array:
    """Take a part of some axes. Where the part is unknown, as much as there is."""
    first = get_input(node, inputs, 0)
    rank = len(first.shape)
    given = [get_optional(inputs, position) for position in range(1, 5)]
    if given[0] is None or given[1] is None or len(given[0].shape) != 1:
        raise DataError("Slice lacks its starts or ends")
    count = given[0].shape[0]
    default_axes = make_known(np.arange(count))
    default_steps = make_known(np.ones(count, np.int64))
    arrays = [given[0], given[1], given[2] or default_axes, given[3] or default_steps]
    if any(array.exact_values is None for array in arrays):
        return Array(first.shape, first.dtype, has_bounds=True)

    starts, ends, axes, steps = (require_exact(array, "parts of Slice") for array in arrays)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise DataError("Slice must have a start, an end and a step for each axis")
    if len({normalize_axis(axis, rank) for axis in axes}) != count:
        raise DataError("Slice names an axis twice")
    parts = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        parts[normalize_axis(axis, rank)] = slice(start, end, step)
    moved = rearrange([first], lambda values: values[0][tuple(parts)])
    if moved is not None:
        return moved
    shape = [len(range(*part.indices(size))) for part, size in zip(parts, first.shape, strict=True)]
    return Array(tuple(shape), first.dtype, has_bounds=first.has_bounds, part=first.part)


def scatter(node: Node, inputs: Inputs) -> Array:
    """Overwrite elements."""
    first = get_input(node, inputs, 0)
    return Array(first.shape, first.dtype, has_bounds=first.has_bounds)


def take_top(node: Node, inputs: Inputs) -> tuple[Array, Array]:
    """Return the highest values and their positions."""
    first = get_input(node, inputs, 0)
    axis = normalize_axis(node.get_int("axis", -1), len(first.shape))
    count, is_bound = require_sizes(get_input(node, inputs, 1), "TopK's number")
    if len(count) != 1 or count[0] < 0 or not first.shape:
        raise DataError("TopK must have one number")
    shape = list(first.shape)
    shape[axis] = min(shape[axis], count[0])
    has_bounds = is_bound or first.has_bounds
    return (
        Array(tuple(shape), first.dtype, has_bounds=has_bounds),
        Array(tuple(shape), INT64, has_bounds=has_bounds),
    )


def find_nonzero(node: Node, inputs: Inputs) -> Array:
    """Return the positions of what is not zero: of all elements at most."""
    first = get_input(node, inputs, 0)
    part = move_part(first, 1)
    return Array((len(first.shape), first.size), INT64, has_bounds=True, part=part)


def suppress_overlaps(node: Node, inputs: Inputs) -> Array:
    """Return the (image, class, box) of the boxes that NMS keeps: the most that it may keep."""
    boxes, scores = get_input(node, inputs, 0), get_input(node, inputs, 1)
    most = require_exact(get_input(node, inputs, 2), "NonMaxSuppression's number")
    if len(boxes.shape) != 3 or len(scores.shape) != 3 or len(most) != 1 or most[0] < 0:
        raise DataError("NonMaxSuppression must have boxes (n, p, 4) and scores (n, c, p)")
    num_images, num_classes, num_boxes = scores.shape
    rows = num_images * num_classes * min(num_boxes, most[0])
    return Array((rows, 3), INT64, has_bounds=True)
