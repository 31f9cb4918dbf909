"""Judges the file of a checkpoint before torch reads it.

torch's `weights_only=True` keeps a file from running code. It does not keep it from claiming any
amount of memory: torch inflates compressed members, and calls functions that allocate what the file
says. What a checkpoint needs is little, so that is all that a file may have:

- a zip as torch.save writes it, in which nothing is compressed, or the format before (until torch
  1.5, in which MMDetection's older weights are): pickles, and then the tensors' bytes;
- in the pickles, the names of functions and classes that rebuild tensors and plain values.
"""

import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from detreg.errors import DataError, RefusedError, summarize_error

_ZIP_START = b"PK\x03\x04"
_ZIP_END = b"PK\x05\x06"
_ZIP_END_LENGTH = 22
_MAX_MEMBERS = 100_000
_MAX_PICKLE_BYTES = 64 << 20
_MAX_OPERATIONS = 3_000_000
"""Steps of all pickles of a file; a checkpoint of yolox_x with its optimizer has 100,000."""
_NUM_LEGACY_PICKLES = 5
"""Magic number, protocol, system, content, keys of the storages (torch/serialization.py)."""

_ALLOWED_NAMES = {
    "_codecs encode",
    "builtins complex",
    "builtins set",
    "collections Counter",
    "collections OrderedDict",
    "torch BFloat16Storage",
    "torch BoolStorage",
    "torch ByteStorage",
    "torch CharStorage",
    "torch DoubleStorage",
    "torch FloatStorage",
    "torch HalfStorage",
    "torch IntStorage",
    "torch LongStorage",
    "torch ShortStorage",
    "torch Size",
    "torch bfloat16",
    "torch bool",
    "torch device",
    "torch float16",
    "torch float32",
    "torch float64",
    "torch int16",
    "torch int32",
    "torch int64",
    "torch int8",
    "torch uint8",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch.nn.parameter Parameter",
    # Logs beside the weights in MMEngine's checkpoints, of numpy 1 and 2 (see checkpoints.py).
    "__builtin__ getattr",
    "builtins getattr",
    "mmengine.logging.history_buffer HistoryBuffer",
    "numpy dtype",
    "numpy ndarray",
    "numpy._core.multiarray _reconstruct",
    "numpy._core.multiarray scalar",
    "numpy.core.multiarray _reconstruct",
    "numpy.core.multiarray scalar",
    "numpy.dtypes BoolDType",
    "numpy.dtypes Float32DType",
    "numpy.dtypes Float64DType",
    "numpy.dtypes Int32DType",
    "numpy.dtypes Int64DType",
}
# Steps that name or make objects in other ways than torch.save does; torch refuses them too.
_FOREIGN_STEPS = {"INST", "OBJ", "STACK_GLOBAL", "NEWOBJ_EX", "PERSID", "EXT1", "EXT2", "EXT4"}
# Encodings whose time grows as the square of a text's length. numpy asks for latin1.
_SLOW_ENCODING = re.compile(r"\W*(puny|idna)", re.IGNORECASE)


def check_checkpoint_file(file: BinaryIO, path: Path) -> None:
    """Check an open file, and leave it at its start.

    Raises DataError where it is not a checkpoint or claims more than it holds, and RefusedError
    where it would run code.
    """
    size = file.seek(0, 2)
    file.seek(0)
    # torch decides by the same four bytes.
    is_zip = file.read(len(_ZIP_START)) == _ZIP_START
    file.seek(0)
    try:
        if is_zip:
            _check_zip(file, size)
        else:
            _check_pickles(file, _NUM_LEGACY_PICKLES, _MAX_OPERATIONS)
    except (DataError, RefusedError) as error:
        raise type(error)([f"{path} {problem}" for problem in error.problems]) from error
    file.seek(0)


def _check_zip(file: BinaryIO, size: int) -> None:
    """Check a zip whose members lie in it as they are, and the pickles among them."""
    try:
        archive = zipfile.ZipFile(file)
        members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise DataError(
            f"cannot be read as a checkpoint, it is broken or cut off: {error}"
        ) from error

    file.seek(size - _ZIP_END_LENGTH)
    has_end = file.read(len(_ZIP_END)) == _ZIP_END and not archive.comment
    if not has_end or len(members) > _MAX_MEMBERS:
        # Two readers could find two lists of members in it.
        raise DataError("is not a zip as torch.save writes it: save it again with torch.save")
    for member in members:
        is_stored = member.compress_type == zipfile.ZIP_STORED
        if not is_stored or member.compress_size != member.file_size or member.flag_bits & 1:
            raise DataError(
                f"has the compressed member {member.filename[:100]!r}, which torch.save does not "
                "write: save it again with torch.save"
            )
    claimed = sum(member.file_size for member in members)
    if claimed > size:
        raise DataError(f"claims to hold {claimed} bytes and has {size}: it is broken")

    left = _MAX_OPERATIONS
    for member in members:
        if not member.filename.endswith(".pkl"):
            continue
        if member.file_size > _MAX_PICKLE_BYTES:
            raise DataError(
                f"has {member.file_size} bytes beside its tensors: it is not a checkpoint"
            )
        try:
            with archive.open(member) as content:
                left -= _check_pickles(content, 1, left)
        except zipfile.BadZipFile as error:
            raise DataError(_describe_break(error)) from error


def _check_pickles(file: IO[bytes], count: int, max_steps: int) -> int:
    """Check the names in consecutive pickles, and return how many steps they have."""
    names: set[str] = set()
    has_slow_encoding = False
    num_steps = 0
    for _ in range(count):
        for step, argument in _iterate_steps(file):
            num_steps += 1
            if num_steps > max_steps:
                raise DataError(f"has more than {_MAX_OPERATIONS} values beside its tensors")
            if step in _FOREIGN_STEPS:
                raise RefusedError(
                    f"is refused: it holds more than tensors and plain values ({step})"
                )
            if step == "GLOBAL":
                names.add(str(argument))
            elif isinstance(argument, str) and _SLOW_ENCODING.match(argument):
                has_slow_encoding = True

    foreign = sorted(names - _ALLOWED_NAMES)
    if has_slow_encoding and "_codecs encode" in names:
        foreign.append("_codecs encode")
    if foreign:
        name = foreign[0].replace(" ", ".")[:100]
        raise RefusedError(
            f"is refused: it holds more than tensors and plain values ({name}), and may run code"
        )
    return num_steps


def _iterate_steps(file: IO[bytes]) -> Iterator[tuple[str, object]]:
    """Yield the steps of one pickle, with their arguments, without running it."""
    try:
        for step, argument, _ in pickletools.genops(file):
            yield step.name, argument
    except (ValueError, UnicodeError, EOFError) as error:
        raise DataError(_describe_break(error)) from error


def _describe_break(error: Exception) -> str:
    reason = summarize_error(error)[:200]
    return f"cannot be read as a checkpoint, it is broken or cut off: {reason}"
