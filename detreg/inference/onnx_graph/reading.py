"""Reads the structure of an ONNX file before any runtime sees it: nodes, tensors, inputs, outputs.

Field numbers are those of onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
What detreg's exporter never writes, such as functions, subgraphs and tensors outside the file, is
refused while it is read.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from detreg.errors import DataError, RefusedError
from detreg.inference.onnx_graph.protobuf import Value, iterate_fields, read_packed, to_signed

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

_MAX_RANK = 8
_MAX_SIDE = 1 << 31
_MAX_FIELDS = 500_000
"""Fields of all messages together, so that reading takes seconds at most; yolox_x has 20,000."""
_MAX_NUMBERS = 100_000
"""Numbers that stand one by one, not as the bytes of an array."""
# AttributeProto.AttributeType, and the field that holds a value of each type.
_FLOAT, _INT, _STRING, _TENSOR, _FLOATS, _INTS = 1, 2, 3, 4, 6, 7
_FIELD_OF_TYPE = {_FLOAT: 2, _INT: 3, _STRING: 4, _TENSOR: 5, _FLOATS: 7, _INTS: 8}
_SUBGRAPHS = (6, 11)

Fields = Mapping[int, list[Value]]
"""The values of each field of a message, by the field's number."""


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


def read_graph(model: bytes) -> Graph:
    """Read the graph of an ONNX file's bytes.

    Raises DataError for bytes that are not such a file, and RefusedError for one that names
    operators that are not ONNX's own, or a file beside itself.
    """
    return _GraphReader().read_model(memoryview(model))


class _GraphReader:
    """Reads the messages of one file, and counts what it has read."""

    def __init__(self) -> None:
        self.num_fields = 0
        self.num_numbers = 0

    def read_model(self, message: memoryview) -> Graph:
        """Read a ModelProto."""
        fields = self.collect(
            message, "the model", once=(1, 2, 3, 4, 5, 6, 7), repeated=(8, 14, 20, 25)
        )
        if fields[20] or fields[25]:
            raise DataError("the graph has functions or training steps, which is not exported")
        if not fields[7]:
            raise DataError("it is not an ONNX file, or it is cut off")

        opset = self.read_opset(fields[8])
        graph = self.collect(
            _as_bytes(fields[7][0]),
            "the graph",
            once=(2, 10),
            repeated=(1, 5, 11, 12, 13, 15, 16),
        )
        if graph[15]:
            raise DataError("the graph has sparse tensors, which is not exported")
        return Graph(
            file_bytes=len(message),
            opset=opset,
            nodes=tuple(self.read_node(_as_bytes(value)) for value in graph[1]),
            initializers=tuple(self.read_tensor(_as_bytes(value)) for value in graph[5]),
            inputs=tuple(self.read_value_info(_as_bytes(value)) for value in graph[11]),
            outputs=tuple(self.read_value_info(_as_bytes(value)) for value in graph[12]),
        )

    def collect(
        self,
        message: memoryview,
        what: str,
        once: Collection[int],
        repeated: Collection[int] = (),
    ) -> Fields:
        """Return the fields of a message; every number that it may have has a list.

        Raises DataError for another number, and for two values of a field that stands once.
        """
        fields: dict[int, list[Value]] = {number: [] for number in (*once, *repeated)}
        for number, value in iterate_fields(message):
            self.num_fields += 1
            if self.num_fields > _MAX_FIELDS:
                raise DataError(f"the graph has more than {_MAX_FIELDS} parts")
            if number not in fields:
                raise DataError(f"{what} has a field {number} that is not exported")
            if fields[number] and number in once:
                raise DataError(f"{what} has two values of field {number}: the file is broken")
            fields[number].append(value)
        return fields

    def read_numbers(self, values: list[Value]) -> tuple[int, ...]:
        """Return the integers of a repeated field."""
        numbers: list[int] = []
        for value in values:
            # Packed numbers take a byte each at least.
            self.num_numbers += 1 if isinstance(value, int) else len(value)
            if self.num_numbers > _MAX_NUMBERS:
                raise DataError(f"the graph has more than {_MAX_NUMBERS} numbers one by one")
            numbers += [to_signed(value)] if isinstance(value, int) else _unpack(value)
        return tuple(numbers)

    def read_opset(self, imports: list[Value]) -> int:
        """Return the version of the standard operators. Raises RefusedError for any others."""
        versions: dict[str, int] = {}
        for value in imports:
            fields = self.collect(_as_bytes(value), "an opset", once=(1, 2))
            domain = _read_text(fields[1])
            if domain not in ("", "ai.onnx"):
                raise RefusedError(
                    f"the graph has operators of the domain {domain[:80]!r}: only ONNX's own "
                    "are run"
                )
            versions[domain] = _read_int(fields[2], 0)
        if len(versions) != 1:
            raise DataError("the graph must name one version of ONNX's operators")
        return next(iter(versions.values()))

    def read_node(self, message: memoryview) -> Node:
        fields = self.collect(message, "a node", once=(3, 4, 6, 7, 8), repeated=(1, 2, 5, 9))
        operator = _read_text(fields[4])
        domain = _read_text(fields[7])
        if domain not in ("", "ai.onnx"):
            raise RefusedError(
                f"the graph has the operator {operator[:80]!r} of the domain {domain[:80]!r}: only "
                "ONNX's own are run"
            )

        attributes: dict[str, Attribute] = {}
        for value in fields[5]:
            name, attribute = self.read_attribute(_as_bytes(value), operator)
            if name in attributes:
                raise DataError(f"{operator[:80]} has two attributes {name[:80]!r}")
            attributes[name] = attribute
        return Node(
            operator=operator,
            inputs=tuple(_read_text([value]) for value in fields[1]),
            outputs=tuple(_read_text([value]) for value in fields[2]),
            attributes=attributes,
        )

    def read_attribute(self, message: memoryview, operator: str) -> tuple[str, Attribute]:
        """Return the name and the value of an attribute. Raises DataError for a graph within it."""
        numbers = (*_FIELD_OF_TYPE.values(), *_SUBGRAPHS)
        repeated = (_FIELD_OF_TYPE[_FLOATS], _FIELD_OF_TYPE[_INTS], *_SUBGRAPHS)
        once = {1, 13, 20, *numbers} - set(repeated)
        fields = self.collect(message, f"an attribute of {operator[:80]}", once, repeated)
        name = _read_text(fields[1])

        kind = _read_int(fields[20], 0)
        present = {number for number in numbers if fields[number]}
        if kind not in _FIELD_OF_TYPE or present - {_FIELD_OF_TYPE[kind]}:
            raise DataError(
                f"{operator[:80]}'s attribute {name[:80]!r} is a graph, or of another type that "
                "is not exported"
            )
        return name, self.read_attribute_value(kind, fields[_FIELD_OF_TYPE[kind]])

    def read_attribute_value(self, kind: int, values: list[Value]) -> Attribute:
        if kind == _INT:
            return _read_int(values, 0)
        if kind == _STRING:
            return _read_text(values)
        if kind == _TENSOR:
            if not values:
                raise DataError("an attribute lacks its tensor")
            return self.read_tensor(_as_bytes(values[0]))
        if kind == _INTS:
            return self.read_numbers(values)

        floats = np.frombuffer(_join_floats(values, 4), "<f4").tolist()
        if kind == _FLOATS:
            return tuple(floats)
        return float(floats[0]) if floats else 0.0

    def read_tensor(self, message: memoryview) -> Tensor:
        """Read a tensor, whose data must be in the file and have the size that its shape says.

        Raises RefusedError where the data lie in another file, and DataError.
        """
        fields = self.collect(
            message, "a tensor", once=(2, 3, 8, 9, 12, 14), repeated=(1, 4, 5, 6, 7, 10, 11, 13, 16)
        )
        name = _read_text(fields[8])
        if fields[13] or _read_int(fields[14], 0) != 0:
            raise RefusedError(
                f"the tensor {name[:80]!r} lies in another file (external data): detreg keeps a "
                "model in one file and reads no other; export the model again"
            )

        shape = self.read_numbers(fields[1])
        data_type = _read_int(fields[2], 0)
        if data_type not in DTYPES:
            raise DataError(
                f"the tensor {name[:80]!r} has the type {data_type}, which is not exported"
            )
        if len(shape) > _MAX_RANK or any(not 0 <= side < _MAX_SIDE for side in shape):
            raise DataError(f"the tensor {name[:80]!r} has the shape {str(shape)[:200]}")

        dtype = DTYPES[data_type]
        data = self.read_tensor_data(fields, dtype)
        if len(data) != prod(shape) * dtype.itemsize:
            raise DataError(
                f"the tensor {name[:80]!r} of shape {shape} has {len(data)} bytes instead of "
                f"{prod(shape) * dtype.itemsize}: the file is broken"
            )
        values = None
        if prod(shape) <= MAX_VALUES:
            values = np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
        return Tensor(name, shape, dtype, values)

    def read_tensor_data(self, fields: Fields, dtype: np.dtype[np.generic]) -> memoryview:
        """Return the bytes of a tensor's data, from the one field that holds them."""
        # Short tensors may stand as numbers: floats, and integers of up to 32 or of 64 bits.
        floats, int32s, int64s, doubles = fields[4], fields[5], fields[7], fields[10]
        if fields[6] or fields[11] or fields[3]:
            raise DataError(
                "a tensor has texts, unsigned integers or segments, which is not exported"
            )
        holders = [values for values in (floats, int32s, int64s, doubles, fields[9]) if values]
        if len(holders) > 1:
            raise DataError("a tensor has its data twice: the file is broken")
        if not holders:
            return memoryview(b"")

        values = holders[0]
        if values is fields[9]:
            return _as_bytes(values[0])
        if values is floats or values is doubles:
            expected = np.float32 if values is floats else np.float64
            if dtype != expected:
                raise DataError(f"a tensor of {dtype} has its data as {np.dtype(expected)}")
            return memoryview(_join_floats(values, dtype.itemsize))

        numbers = np.array(self.read_numbers(values), np.int64)
        if (values is int64s) != (dtype == np.int64) or dtype.kind == "f":
            raise DataError(f"a tensor of {dtype} has its data as another type")
        return memoryview(numbers.astype(dtype).tobytes())

    def read_value_info(self, message: memoryview) -> ValueInfo:
        """Read the declaration of an input or an output. Raises DataError unless it is a tensor."""
        fields = self.collect(message, "an input or output", once=(1, 2, 3), repeated=(4,))
        name = _read_text(fields[1])
        if not fields[2]:
            raise DataError(f"{name[:80]!r} has no type")
        kind = self.collect(_as_bytes(fields[2][0]), f"the type of {name[:80]!r}", once=(1, 6))
        if not kind[1]:
            raise DataError(f"{name[:80]!r} is not a tensor")
        tensor = self.collect(_as_bytes(kind[1][0]), f"the type of {name[:80]!r}", once=(1, 2))
        data_type = _read_int(tensor[1], 0)
        if data_type not in DTYPES or not tensor[2]:
            raise DataError(f"{name[:80]!r} has the type {data_type}, or no shape")

        axes = self.collect(
            _as_bytes(tensor[2][0]), f"the shape of {name[:80]!r}", once=(), repeated=(1,)
        )
        sizes: list[int | None] = []
        for value in axes[1]:
            axis = self.collect(_as_bytes(value), f"the shape of {name[:80]!r}", once=(1, 2, 3))
            sizes.append(_read_int(axis[1], 0) if axis[1] else None)
        return ValueInfo(name, DTYPES[data_type], tuple(sizes))


def _unpack(value: Value) -> list[int]:
    return read_packed(_as_bytes(value))


def _as_bytes(value: Value) -> memoryview:
    if not isinstance(value, memoryview):
        raise DataError("a field has a number where bytes belong: the file is broken")
    return value


def _join_floats(values: list[Value], width: int) -> bytes:
    """Return the bytes of floats of 4 or 8 bytes, which stand one by one or packed."""
    for value in values:
        is_alone = isinstance(value, bytes) and len(value) == width
        is_packed = isinstance(value, memoryview) and len(value) % width == 0
        if not is_alone and not is_packed:
            raise DataError("a field has something else where floats belong: the file is broken")
    return b"".join(bytes(value) for value in values if not isinstance(value, int))


def _read_text(values: list[Value]) -> str:
    return bytes(_as_bytes(values[0])).decode(errors="backslashreplace") if values else ""


def _read_int(values: list[Value], default: int) -> int:
    if not values:
        return default
    if not isinstance(values[0], int):
        raise DataError("a field has bytes where a number belongs: the file is broken")
    return to_signed(values[0])
