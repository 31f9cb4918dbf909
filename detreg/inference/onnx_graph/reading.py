"""Reads the structure of an ONNX file before any runtime sees it: nodes, tensors, inputs, outputs.

Field numbers are those of onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
What detreg's exporter never writes, such as functions, subgraphs and tensors outside the file, is
refused while it is read.
"""

from math import prod

import numpy as np

from detreg.errors import DataError, RefusedError
from detreg.inference.onnx_graph.fields import (
    FieldReader,
    Fields,
    as_bytes,
    join_floats,
    read_int,
    read_text,
)
from detreg.inference.onnx_graph.protobuf import Value
from detreg.inference.onnx_graph.structure import (
    DTYPES,
    MAX_VALUES,
    Attribute,
    Graph,
    Node,
    Tensor,
    ValueInfo,
)

_MAX_RANK = 8
_MAX_SIDE = 1 << 31
# AttributeProto.AttributeType, and the field that holds a value of each type.
_FLOAT, _INT, _STRING, _TENSOR, _FLOATS, _INTS = 1, 2, 3, 4, 6, 7
_FIELD_OF_TYPE = {_FLOAT: 2, _INT: 3, _STRING: 4, _TENSOR: 5, _FLOATS: 7, _INTS: 8}
_SUBGRAPHS = (6, 11)


def read_graph(model: bytes) -> Graph:
    """Read the graph of an ONNX file's bytes.

    Raises DataError for bytes that are not such a file, and RefusedError for one that names
    operators that are not ONNX's own, or a file beside itself.
    """
    return _GraphReader().read_model(memoryview(model))


class _GraphReader:
    """Reads the messages of one file."""

    def __init__(self) -> None:
        self.reader = FieldReader()

    def read_model(self, message: memoryview) -> Graph:
        """Read a ModelProto."""
        fields = self.reader.collect(
            message, "the model", once=(1, 2, 3, 4, 5, 6, 7), repeated=(8, 14, 20, 25)
        )
        if fields[20] or fields[25]:
            raise DataError("the graph has functions or training steps, which is not exported")
        if not fields[7]:
            raise DataError("it is not an ONNX file, or it is cut off")

        opset = self.read_opset(fields[8])
        graph = self.reader.collect(
            as_bytes(fields[7][0]),
            "the graph",
            once=(2, 10),
            repeated=(1, 5, 11, 12, 13, 15, 16),
        )
        if graph[15]:
            raise DataError("the graph has sparse tensors, which is not exported")
        return Graph(
            file_bytes=len(message),
            opset=opset,
            nodes=tuple(self.read_node(as_bytes(value)) for value in graph[1]),
            initializers=tuple(self.read_tensor(as_bytes(value)) for value in graph[5]),
            inputs=tuple(self.read_value_info(as_bytes(value)) for value in graph[11]),
            outputs=tuple(self.read_value_info(as_bytes(value)) for value in graph[12]),
        )

    def read_opset(self, imports: list[Value]) -> int:
        """Return the version of the standard operators. Raises RefusedError for any others."""
        versions: dict[str, int] = {}
        for value in imports:
            fields = self.reader.collect(as_bytes(value), "an opset", once=(1, 2))
            domain = read_text(fields[1])
            if domain not in ("", "ai.onnx"):
                raise RefusedError(
                    f"the graph has operators of the domain {domain[:80]!r}: only ONNX's own "
                    "are run"
                )
            versions[domain] = read_int(fields[2], 0)
        if len(versions) != 1:
            raise DataError("the graph must name one version of ONNX's operators")
        return next(iter(versions.values()))

    def read_node(self, message: memoryview) -> Node:
        fields = self.reader.collect(message, "a node", once=(3, 4, 6, 7, 8), repeated=(1, 2, 5, 9))
        operator = read_text(fields[4])
        domain = read_text(fields[7])
        if domain not in ("", "ai.onnx"):
            raise RefusedError(
                f"the graph has the operator {operator[:80]!r} of the domain {domain[:80]!r}: only "
                "ONNX's own are run"
            )

        attributes: dict[str, Attribute] = {}
        for value in fields[5]:
            name, attribute = self.read_attribute(as_bytes(value), operator)
            if name in attributes:
                raise DataError(f"{operator[:80]} has two attributes {name[:80]!r}")
            attributes[name] = attribute
        return Node(
            operator=operator,
            inputs=tuple(read_text([value]) for value in fields[1]),
            outputs=tuple(read_text([value]) for value in fields[2]),
            attributes=attributes,
        )

    def read_attribute(self, message: memoryview, operator: str) -> tuple[str, Attribute]:
        """Return the name and the value of an attribute. Raises DataError for a graph within it."""
        numbers = (*_FIELD_OF_TYPE.values(), *_SUBGRAPHS)
        repeated = (_FIELD_OF_TYPE[_FLOATS], _FIELD_OF_TYPE[_INTS], *_SUBGRAPHS)
        once = {1, 13, 20, *numbers} - set(repeated)
        fields = self.reader.collect(message, f"an attribute of {operator[:80]}", once, repeated)
        name = read_text(fields[1])

        kind = read_int(fields[20], 0)
        present = {number for number in numbers if fields[number]}
        if kind not in _FIELD_OF_TYPE or present - {_FIELD_OF_TYPE[kind]}:
            raise DataError(
                f"{operator[:80]}'s attribute {name[:80]!r} is a graph, or of another type that "
                "is not exported"
            )
        return name, self.read_attribute_value(kind, fields[_FIELD_OF_TYPE[kind]])

    def read_attribute_value(self, kind: int, values: list[Value]) -> Attribute:
        if kind == _INT:
            return read_int(values, 0)
        if kind == _STRING:
            return read_text(values)
        if kind == _TENSOR:
            if not values:
                raise DataError("an attribute lacks its tensor")
            return self.read_tensor(as_bytes(values[0]))
        if kind == _INTS:
            return self.reader.read_numbers(values)

        floats = np.frombuffer(join_floats(values, 4), "<f4").tolist()
        if kind == _FLOATS:
            return tuple(floats)
        return float(floats[0]) if floats else 0.0

    def read_tensor(self, message: memoryview) -> Tensor:
        """Read a tensor, whose data must be in the file and have the size that its shape says.

        Raises RefusedError where the data lie in another file, and DataError.
        """
        fields = self.reader.collect(
            message, "a tensor", once=(2, 3, 8, 9, 12, 14), repeated=(1, 4, 5, 6, 7, 10, 11, 13, 16)
        )
        name = read_text(fields[8])
        if fields[13] or read_int(fields[14], 0) != 0:
            raise RefusedError(
                f"the tensor {name[:80]!r} lies in another file (external data): detreg keeps a "
                "model in one file and reads no other; export the model again"
            )

        shape = self.reader.read_numbers(fields[1])
        data_type = read_int(fields[2], 0)
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
            return as_bytes(values[0])
        if values is floats or values is doubles:
            expected = np.float32 if values is floats else np.float64
            if dtype != expected:
                raise DataError(f"a tensor of {dtype} has its data as {np.dtype(expected)}")
            return memoryview(join_floats(values, dtype.itemsize))

        numbers = np.array(self.reader.read_numbers(values), np.int64)
        if (values is int64s) != (dtype == np.int64) or dtype.kind == "f":
            raise DataError(f"a tensor of {dtype} has its data as another type")
        return memoryview(numbers.astype(dtype).tobytes())

    def read_value_info(self, message: memoryview) -> ValueInfo:
        """Read the declaration of an input or an output. Raises DataError unless it is a tensor."""
        fields = self.reader.collect(message, "an input or output", once=(1, 2, 3), repeated=(4,))
        name = read_text(fields[1])
        if not fields[2]:
            raise DataError(f"{name[:80]!r} has no type")
        kind = self.reader.collect(
            as_bytes(fields[2][0]), f"the type of {name[:80]!r}", once=(1, 6)
        )
        if not kind[1]:
            raise DataError(f"{name[:80]!r} is not a tensor")
        tensor = self.reader.collect(
            as_bytes(kind[1][0]), f"the type of {name[:80]!r}", once=(1, 2)
        )
        data_type = read_int(tensor[1], 0)
        if data_type not in DTYPES or not tensor[2]:
            raise DataError(f"{name[:80]!r} has the type {data_type}, or no shape")

        what = f"the shape of {name[:80]!r}"
        axes = self.reader.collect(as_bytes(tensor[2][0]), what, once=(), repeated=(1,))
        sizes: list[int | None] = []
        for value in axes[1]:
            axis = self.reader.collect(as_bytes(value), what, once=(1, 2, 3))
            sizes.append(read_int(axis[1], 0) if axis[1] else None)
        return ValueInfo(name, DTYPES[data_type], tuple(sizes))
