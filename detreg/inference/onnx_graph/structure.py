"""The structure of an ONNX file as detreg looks at it: nodes, tensors, inputs, outputs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detreg.errors import DataError

MAX_VALUES = 64
"""Tensors of at most this many elements have their values read: sizes, axes and the like."""

DTYPES: Mapping[int, np.dtype[np.generic]] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.uint8),
    6: np.dtype(np.int32),
    7: np.dtype(np.int64),
    9: np.dtype(np.bool_),
    10: np.dtype(np.float16),
    11: np.dtype(np.float64),
}
"""The types of TensorProto.DataType that a graph of detreg may have."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A constant of the graph; `values` is None where there are more than MAX_VALUES."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    values: NDArray[np.generic] | None


Attribute = int | float | str | Tensor | tuple[int, ...] | tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Node:
    """One operator with the names of what it reads and writes."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]

    def get_int(self, name: str, default: int) -> int:
        """Return an attribute that is an integer. Raises DataError where it is something else."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise DataError(f"{self.operator}'s attribute {name} must be an integer")
        return value

    def get_ints(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return an attribute that is a list of integers. Raises DataError for anything else."""
        value = self.attributes.get(name, default)
        if not isinstance(value, tuple) or not all(isinstance(number, int) for number in value):
            raise DataError(f"{self.operator}'s attribute {name} must be a list of integers")
        return tuple(int(number) for number in value)

    def get_tensor(self, name: str) -> Tensor:
        """Return an attribute that is a tensor. Raises DataError where there is none."""
        value = self.attributes.get(name)
        if not isinstance(value, Tensor):
            raise DataError(f"{self.operator}'s attribute {name} must be a tensor")
        return value


@dataclass(frozen=True)
class ValueInfo:
    """What the graph declares of an input or an output; None is an axis without a fixed size."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """The structure of an ONNX file of `file_bytes`.

    `opset` is the version of the standard operators.
    """

    file_bytes: int
    opset: int
    nodes: tuple[Node, ...]
    initializers: tuple[Tensor, ...]
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
