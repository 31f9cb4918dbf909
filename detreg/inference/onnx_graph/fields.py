"""Reads the fields of protobuf messages, of one file and within limits."""

from collections.abc import Collection, Mapping

from detreg.errors import DataError
from detreg.inference.onnx_graph.protobuf import Value, iterate_fields, read_packed, to_signed

_MAX_FIELDS = 500_000
"""Fields of all messages together, so that reading takes seconds at most; yolox_x has 20,000."""
_MAX_NUMBERS = 100_000
"""Numbers that stand one by one, not as the bytes of an array."""

Fields = Mapping[int, list[Value]]
"""The values of each field of a message, by the field's number."""


class FieldReader:
    """Reads the fields of the messages of one file, and counts them."""

    def __init__(self) -> None:
        self._num_fields = 0
        self._num_numbers = 0

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
            self._num_fields += 1
            if self._num_fields > _MAX_FIELDS:
                raise DataError(f"the graph has more than {_MAX_FIELDS} parts")
            if number not in fields:
                raise DataError(f"{what} has a field {number} that is not exported")
            if fields[number] and number in once:
                raise DataError(f"{what} has two values of field {number}: the file is broken")
            fields[number].append(value)
        return fields

    def read_numbers(self, values: list[Value]) -> tuple[int, ...]:
        """Return the integers of a repeated field. Raises DataError for too many in the file."""
        numbers: list[int] = []
        for value in values:
            # Packed numbers take a byte each at least.
            self._num_numbers += 1 if isinstance(value, int) else len(value)
            if self._num_numbers > _MAX_NUMBERS:
                raise DataError(f"the graph has more than {_MAX_NUMBERS} numbers one by one")
            if isinstance(value, int):
                numbers.append(to_signed(value))
            else:
                numbers += read_packed(as_bytes(value))
        return tuple(numbers)


def as_bytes(value: Value) -> memoryview:
    """Return a value that is bytes. Raises DataError for a number."""
    if not isinstance(value, memoryview):
        raise DataError("a field has a number where bytes belong: the file is broken")
    return value


def join_floats(values: list[Value], width: int) -> bytes:
    """Return the bytes of floats of 4 or 8 bytes, which stand one by one or packed.

    Raises DataError for anything else.
    """
    for value in values:
        is_alone = isinstance(value, bytes) and len(value) == width
        is_packed = isinstance(value, memoryview) and len(value) % width == 0
        if not is_alone and not is_packed:
            raise DataError("a field has something else where floats belong: the file is broken")
    return b"".join(bytes(value) for value in values if not isinstance(value, int))


def read_text(values: list[Value]) -> str:
    """Return the text of a field that stands once, empty where it is missing."""
    return bytes(as_bytes(values[0])).decode(errors="backslashreplace") if values else ""


def read_int(values: list[Value], default: int) -> int:
    """Return the integer of a field that stands once. Raises DataError for bytes."""
    if not values:
        return default
    if not isinstance(values[0], int):
        raise DataError("a field has bytes where a number belongs: the file is broken")
    return to_signed(values[0])
