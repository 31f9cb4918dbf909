"""Operators that make constants and sizes, or combine arrays element by element.

Each function returns what comes out of an operator: its size, and its values where they are few.
They are stricter than ONNX: a size that depends on what is in an image is refused, except where it
has an upper bound.
"""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from detreg.errors import DataError
from detreg.inference.onnx_graph.arrays import (
    Array,
    Inputs,
    Part,
    Values,
    broadcast_shapes,
    check_sizes,
    get_input,
    has_bounds,
    is_small,
    make_known,
    rearrange,
    require_exact,
    require_sizes,
)
from detreg.inference.onnx_graph.structure import DTYPES, MAX_VALUES, Node


def keep_shape(node: Node, inputs: Inputs) -> Array:
    """Apply a function to each element, such as Sigmoid."""
    first = get_input(node, inputs, 0)
    return Array(first.shape, first.dtype, has_bounds=first.has_bounds)


def cast(node: Node, inputs: Inputs) -> Array:
    """Change the type."""
    first = get_input(node, inputs, 0)
    data_type = node.get_int("to", 0)
    if data_type not in DTYPES:
        raise DataError(f"Cast to the type {data_type}, which is not exported")
    dtype = DTYPES[data_type]
    moved = rearrange([first], lambda values: values[0].astype(dtype))
    # What a processor makes of a number that the type cannot hold differs.
    has_integers = first.dtype.kind in "iub" and dtype.kind == "i"
    if moved is not None and has_integers and dtype.itemsize >= first.dtype.itemsize:
        return Array(first.shape, dtype, moved.values, first.bounds)
    return Array(first.shape, dtype, has_bounds=first.has_bounds)


def identity(node: Node, inputs: Inputs) -> Array:
    """Return the input."""
    return get_input(node, inputs, 0)


def _divide(a: Values, b: Values) -> Values:
    if a.dtype.kind != "i":
        return np.divide(a, b)
    # ONNX rounds to zero, numpy down.
    return np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))


# Floating point numbers are not computed with: a graph rounds them in its own way.
_COMPUTE: dict[str, Callable[..., Values]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _divide,
    "Equal": np.equal,
    "Where": np.where,
}


def elementwise(node: Node, inputs: Inputs) -> Array:
    """Combine arrays element by element, such as Add, and compute what is known."""
    arrays = [get_input(node, inputs, position) for position in range(len(inputs))]
    if not arrays:
        raise DataError(f"{node.operator} has no inputs")
    dtype = arrays[0 if node.operator == "Pow" else -1].dtype
    if node.operator in ("Equal", "Greater"):
        dtype = np.dtype(np.bool_)
    if node.operator == "Div" and arrays[0].dtype.kind == "i":
        # -2**63 / -1 ends the process with a signal. Bounds are sizes, and never negative.
        divisors = arrays[-1].values
        if divisors is None or (divisors == -1).any():
            raise DataError("Div must divide integers by known numbers other than -1")

    shape = broadcast_shapes(arrays)
    part = _find_part(arrays) if node.operator == "Equal" else None
    unknown = Array(shape, dtype, has_bounds=has_bounds(inputs), part=part)
    known = [array.values for array in arrays]
    if unknown.has_bounds or unknown.size > MAX_VALUES or node.operator not in _COMPUTE:
        return unknown
    if not all(is_small(values) for values in known):
        return unknown
    has_bound_values = any(array.exact_values is None for array in arrays)
    if has_bound_values and not _keeps_bounds(node, arrays):
        return unknown
    try:
        with np.errstate(all="ignore"):
            values = _COMPUTE[node.operator](*known)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise DataError(f"{node.operator} cannot combine its inputs: {error}") from error
    # One bound makes all results bounds.
    bounds = np.full(shape, True) if has_bound_values else None
    return Array(shape, dtype, values.astype(dtype).reshape(shape), bounds)


def _find_part(arrays: Sequence[Array]) -> Part | None:
    """Return which part of an array the elements are that equal one known number."""
    whole, other = arrays
    number = other.exact_values
    if whole.values is not None or number is None or number.size != 1 or number.dtype.kind != "i":
        return None
    return Part(whole, int(number.item())) if len(other.shape) <= len(whole.shape) else None


def _keeps_bounds(node: Node, arrays: Sequence[Array]) -> bool:
    """Whether an operator makes upper bounds of upper bounds."""
    if node.operator not in ("Add", "Mul"):
        return False
    return all(
        (array.values.astype(np.int64) >= 0).all() for array in arrays if array.values is not None
    )


# Constants and sizes.


def constant(node: Node, inputs: Inputs) -> Array:  # noqa: ARG001
    """Return a constant."""
    tensor = node.get_tensor("value")
    return Array(tensor.shape, tensor.dtype, tensor.values)


def read_shape(node: Node, inputs: Inputs) -> Array:
    """Return the sizes of the input, which are upper bounds where the input has such."""
    first = get_input(node, inputs, 0)
    bounds = np.full(len(first.shape), first.has_bounds)
    return make_known(np.array(first.shape, np.int64), bounds)


def constant_of_shape(node: Node, inputs: Inputs) -> Array:
    """Fill an array of a given shape with one value."""
    sizes, is_bound = require_sizes(get_input(node, inputs, 0), "sizes of ConstantOfShape")
    value: Values = np.zeros(1, np.float32)
    if "value" in node.attributes:
        tensor = node.get_tensor("value")
        if tensor.values is None or tensor.values.size != 1:
            raise DataError("ConstantOfShape must have one value")
        value = tensor.values.reshape(1)
    shape = check_sizes(sizes)
    if is_bound or prod(shape) > MAX_VALUES:
        return Array(shape, value.dtype, has_bounds=is_bound)
    return make_known(np.full(shape, value[0]))


def make_range(node: Node, inputs: Inputs) -> Array:
    """Return numbers from a start to a limit."""
    start, limit, delta = (get_input(node, inputs, position) for position in range(3))
    values = [array.exact_values for array in (start, limit, delta)]
    if not all(is_small(value) and value is not None and value.size == 1 for value in values):
        raise DataError("Range must be constant or follow from the size of the images")
    first, last, step = (int(value.item()) for value in values if value is not None)
    if step == 0:
        raise DataError("Range must have a step")
    count = len(range(first, last, step))
    return Array((count,), start.dtype)


def expand(node: Node, inputs: Inputs) -> Array:
    """Broadcast an array to a shape."""
    first = get_input(node, inputs, 0)
    sizes, is_bound = require_sizes(get_input(node, inputs, 1), "sizes of Expand")
    target = Array(check_sizes(sizes), first.dtype, has_bounds=is_bound)
    shape = broadcast_shapes([first, target])
    has_bounds = is_bound or first.has_bounds
    if not has_bounds and prod(shape) <= MAX_VALUES:
        moved = rearrange([first], lambda values: np.broadcast_to(values[0], shape))
        if moved is not None:
            return moved
    return Array(shape, first.dtype, has_bounds=has_bounds)


def tile(node: Node, inputs: Inputs) -> Array:
    """Repeat an array along its axes."""
    first = get_input(node, inputs, 0)
    repeats = require_exact(get_input(node, inputs, 1), "repeats of Tile")
    if len(repeats) != len(first.shape):
        raise DataError("Tile must have a number of repeats for each axis")
    shape = check_sizes([size * count for size, count in zip(first.shape, repeats, strict=True)])
    return Array(shape, first.dtype, has_bounds=first.has_bounds)
