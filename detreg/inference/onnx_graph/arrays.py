"""What is known of an array in a graph without running it: its sizes, and few values.

Values are followed where they may become sizes: small arrays of numbers. A number that depends on
what is in an image, such as how many boxes NMS keeps, is known as an upper bound only. Bounds may
be moved about, but not computed with: the difference of a size and a bound is not bounded by it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from detreg.errors import DataError
from detreg.inference.onnx_graph.structure import MAX_VALUES, Node

Shape = tuple[int, ...]
Values = NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Part:
    """Says that the rows along `axis` are those of `whole` that equal one number.

    Parts of the same array with other numbers have other rows, so that all together have at most as
    many as the array has elements.
    """

    whole: "Array"
    number: int
    axis: int = -1


@dataclass(frozen=True, eq=False)
class Array:
    """An array as far as it is known.

    `shape` is what it has at most; `has_bounds` says that some sizes may be smaller. `values` is
    None where they are unknown; `bounds` then says of each whether it is an upper bound.
    """

    shape: Shape
    dtype: np.dtype[np.generic]
    values: Values | None = None
    bounds: NDArray[np.bool_] | None = None
    has_bounds: bool = False
    part: Part | None = None

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """The memory that it takes."""
        return self.size * self.dtype.itemsize

    @property
    def exact_values(self) -> Values | None:
        """The values, or None where one is unknown or a bound."""
        if self.values is None or (self.bounds is not None and self.bounds.any()):
            return None
        return self.values


Inputs = Sequence[Array | None]
"""The inputs of an operator; None where one is left out."""


def make_known(values: Values, bounds: NDArray[np.bool_] | None = None) -> Array:
    """Return an array whose values are known, or their upper bounds where `bounds` is True."""
    kept = values if values.size <= MAX_VALUES else None
    return Array(values.shape, values.dtype, kept, bounds if kept is not None else None)


def rearrange(arrays: list[Array], change: Callable[[list[Values]], Values]) -> Array | None:
    """Return what `change` makes of known values by moving them; None where one is unknown."""
    values, bounds = [], []
    for array in arrays:
        if array.values is None or array.has_bounds:
            return None
        values.append(array.values)
        none_is_bound = np.zeros(array.values.shape, np.bool_)
        bounds.append(none_is_bound if array.bounds is None else array.bounds)

    changed_bounds = change(list(bounds)).astype(np.bool_)
    return make_known(change(values), changed_bounds)


def move_part(array: Array, axis: int | None) -> Part | None:
    """Return the part that an array is, with another axis; None where it is none or has none."""
    if array.part is None or axis is None:
        return None
    return Part(array.part.whole, array.part.number, axis)


def count_joined_rows(arrays: list[Array], axis: int) -> int:
    """Return how many rows arrays have along an axis at most, when they are joined along it."""
    total = sum(array.shape[axis] for array in arrays)
    parts = [array.part for array in arrays if array.part is not None and array.part.axis == axis]
    if len(parts) != len(arrays) or len({id(part.whole) for part in parts}) != 1:
        return total
    if len({part.number for part in parts}) != len(parts):
        return total
    return min(total, parts[0].whole.size)


def require_exact(array: Array | None, what: str) -> list[int]:
    """Return known values as integers. Raises DataError where they depend on an image."""
    values = None if array is None else array.exact_values
    if values is None or values.ndim > 1:
        raise DataError(f"{what} must be constants or follow from the size of the images")
    return [int(value) for value in values.ravel()]


def require_sizes(array: Array, what: str) -> tuple[list[int], bool]:
    """Return values that become sizes, and whether one of them is an upper bound.

    Raises DataError where they are unknown.
    """
    if array.values is None or array.values.ndim > 1 or array.values.dtype.kind != "i":
        raise DataError(f"{what} must be constants or follow from the size of the images")
    return [int(value) for value in array.values.ravel()], array.exact_values is None


def broadcast_shapes(arrays: list[Array]) -> Shape:
    """Return the shape that arrays have together.

    Sizes that may be smaller than stated need not fit, so the largest counts.
    """
    rank = max(len(array.shape) for array in arrays)
    padded = [(1,) * (rank - len(array.shape)) + array.shape for array in arrays]
    shape = []
    for sizes in zip(*padded, strict=True):
        # Nothing and one make nothing.
        is_empty = 0 in sizes and not any(array.has_bounds for array in arrays)
        shape.append(0 if is_empty else max(sizes))
    return tuple(shape)


def normalize_axis(axis: int, rank: int) -> int:
    """Return an axis counted from the front. Raises DataError for one that is not there."""
    if not -rank <= axis < max(rank, 1):
        raise DataError(f"an operator has the axis {axis} of an array with {rank}")
    return axis % rank if rank else 0


INT64 = np.dtype(np.int64)
LARGEST = 1 << 31
"""Known integers from here on are not computed with: two of them could overflow."""


def get_input(node: Node, inputs: Inputs, position: int) -> Array:
    """Return an input that the operator must have. Raises DataError where it is missing."""
    array = get_optional(inputs, position)
    if array is None:
        raise DataError(f"{node.operator} lacks its input {position}")
    return array


def get_optional(inputs: Inputs, position: int) -> Array | None:
    """Return an input that may be left out."""
    return inputs[position] if position < len(inputs) else None


def has_bounds(inputs: Inputs) -> bool:
    """Whether a size of an input may be smaller than stated."""
    return any(array is not None and array.has_bounds for array in inputs)


def is_small(values: Values | None) -> bool:
    """Whether values are known integers that no operator makes too large for their type."""
    if values is None or values.dtype.kind not in "ib":
        return False
    numbers = values.astype(np.int64)
    return bool(((numbers > -LARGEST) & (numbers < LARGEST)).all())


def check_sizes(sizes: Sequence[int]) -> Shape:
    """Return sizes as a shape. Raises DataError for negative ones."""
    if any(size < 0 for size in sizes):
        raise DataError(f"a size must not be negative, got {str(sizes)[:200]}")
    return tuple(sizes)
