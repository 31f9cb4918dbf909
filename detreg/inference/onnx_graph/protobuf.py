"""Reads protobuf's wire format, as far as an ONNX file uses it.

The `onnx` package is not there where models are served, and a file has to be judged before
onnxruntime parses it. This reader copies nothing: values are views of the file. It is stricter than
protobuf's own parsers, so that none of them can understand a file in another way: what a schema
does not name is an error, and so is a field that stands twice where it may stand once.
https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator

from detreg.errors import DataError

Value = int | bytes | memoryview
"""An integer; the 4 or 8 bytes of a float; or a view of a text, packed numbers or a message."""

_VARINT, _BYTES = 0, 2
_WIDTHS = {1: 8, 5: 4}
"""Bytes of a number of a fixed width, by its wire type."""
_MAX_VARINT_BYTES = 10
_BROKEN = "it is not an ONNX file, or it is cut off"


def iterate_fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield the number and the value of each field of a message, in the file's order.

    Raises DataError for bytes that are not a message.
    """
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise DataError(_BROKEN)
        if wire_type == _VARINT:
            value, position = _read_varint(message, position)
            yield number, value
            continue

        if wire_type == _BYTES:
            length, position = _read_varint(message, position)
        elif wire_type in _WIDTHS:
            length = _WIDTHS[wire_type]
        else:  # groups, which ONNX does not have
            raise DataError(_BROKEN)
        end = position + length
        if end > len(message):
            raise DataError(_BROKEN)
        content = message[position:end]
        yield number, content if wire_type == _BYTES else bytes(content)
        position = end


def read_packed(value: memoryview) -> list[int]:
    """Return the signed integers of a packed field."""
    numbers = []
    position = 0
    while position < len(value):
        number, position = _read_varint(value, position)
        numbers.append(to_signed(number))
    return numbers


def to_signed(number: int) -> int:
    """Return an int64 that protobuf wrote as the uint64 with the same bits."""
    return number - (1 << 64) if number >> 63 else number


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return the number that begins at a position, and the position after it."""
    number = 0
    for index in range(_MAX_VARINT_BYTES):
        if position >= len(data):
            raise DataError(_BROKEN)
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if number >> 64:
                raise DataError(_BROKEN)
            return number, position
    raise DataError(_BROKEN)
