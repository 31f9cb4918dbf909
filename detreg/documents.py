"""Parses JSON, XML and YAML that anyone may have written.

What these libraries do with hostile text is known here and nowhere else: every way in which they
fail becomes one `DocumentError`, and what would fill the memory or take hours is refused before.

    nested too deeply                            RecursionError of json and yaml
    a whole number of more than 4300 digits      ValueError of json and yaml
    JSON that becomes more than the memory holds refused from 16 MiB on, by an estimate
    bytes that are not UTF-8                     UnicodeDecodeError
    XML entities, in other files or in entities  refused: annotations have none
    YAML merges of merges of merges              refused from 10,000 keys on
    YAML of megabytes                            refused: Python reads a megabyte in half a minute
"""

import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar
from xml.parsers import expat

from detreg.cgroups import get_free_memory
from detreg.errors import DataError, shorten
from detreg.files import open_regular, read_regular

if TYPE_CHECKING:
    from msgspec.json import Decoder

MAX_JSON_BYTES = 4 << 30
MAX_XML_BYTES = 16 << 20
MAX_TEXT_BYTES = 256 << 20
"""Most bytes of a text file with a line for each image or box."""

_LARGE_JSON = 8 << 20
"""Bytes from which on a faster parser than Python's is worth its import."""

_HEAVY_JSON = 16 << 20
"""Bytes up to which no document fills a memory: 26 times as much, if it is all brackets."""

# What CPython takes at least for an empty list, a dict with one key, and a number or a text, each
# with its place in a list; measured by documents that hold nothing else.
_LIST_BYTES = 80
_DICT_BYTES = 208
_VALUE_BYTES = 32

LONG_NUMBER = "the file holds a number of more digits than any program reads; correct it"

_T = TypeVar("_T")

_DIGITS = 2048

_MAX_REASON = 200
_BLOCK = 64 << 10


class DocumentError(ValueError):
    """A document that cannot be parsed. The message says why, and how to mend it."""


def read_text(path: str | os.PathLike[str], max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return the text of a file; bytes that are not UTF-8 become replacement characters.

    Raises OSError, and UnusableFileError where it is not a regular file or too large.
    """
    return read_regular(path, max_bytes).decode("utf-8-sig", errors="replace")


def contains_words(path: str | os.PathLike[str], words: Sequence[bytes], count: int) -> bool:
    """Whether a file holds at least `count` of the words, of which one is in its first 64 KiB.

    The file is read in blocks, and not parsed; False where it cannot be read.
    """
    left = set(words)
    end_of_last = b""
    longest = max(map(len, words))
    try:
        with open_regular(path) as file:
            while block := file.read(_BLOCK):
                text = end_of_last + block
                left = {word for word in left if word not in text}
                if len(words) - len(left) >= count:
                    return True
                if len(left) == len(words):
                    return False
                # A word may be cut by the end of a block.
                end_of_last = text[-longest:]
    except (OSError, DataError):
        return False
    return False


def parse_json(content: bytes) -> object:
    """Return the value of a JSON document. Raises DocumentError."""
    if len(content) >= _HEAVY_JSON:
        _check_memory(content)
    if len(content) >= _LARGE_JSON:
        # Not at the top: it takes longer to import than json takes for a small document.
        from msgspec.json import decode  # noqa: PLC0415

        # Where both accept a document they return equal values. Python's parser accepts more (a
        # byte order mark, halves of characters, deeper nesting), and says what is wrong and where.
        with suppress(ValueError, RecursionError):
            return decode(content)
    return _parse_json_by_python(content)


def decode_json(content: bytes, decoder: "Decoder[_T]") -> _T | None:
    """Return the value of a JSON document of a declared form, None for any other document.

    Raises DocumentError where it becomes more than the free memory holds.
    """
    if len(content) >= _HEAVY_JSON:
        _check_memory(content)
    # In what it leaves out, the decoder accepts texts that are not UTF-8, and any number.
    if not content.isascii() or _has_long_number(content):
        return None
    with suppress(ValueError, RecursionError):
        return decoder.decode(content)
    return None


def _has_long_number(content: bytes) -> bool:
    """Whether a document has a number of more than 4300 digits, which Python does not parse.

    Half as many digits in a row, at the start of a block, are enough to say so.
    """
    starts = range(0, len(content), _DIGITS)
    return any(content[start : start + _DIGITS].isdigit() for start in starts)


def _check_memory(content: bytes) -> None:
    """Raise DocumentError where a JSON document becomes more than the free memory holds.

    The kernel would kill this process, or another one. Real annotations become about seven times
    their bytes, which is more than is counted here: nothing is refused that fits.
    """
    lists = content.count(b"[")
    dicts = content.count(b"{")
    values = max(content.count(b",") - lists - dicts, 0)
    needed = len(content) + lists * _LIST_BYTES + dicts * _DICT_BYTES + values * _VALUE_BYTES
    free = get_free_memory()
    if needed > free:
        raise DocumentError(
            f"the file would take more than {needed / 2**30:.1f} GiB of memory, and "
            f"{free / 2**30:.1f} GiB are free; leave out what is no annotation, or split it"
        )


def _parse_json_by_python(content: bytes) -> object:
    """Return the value of a JSON document. Raises DocumentError."""
    try:
        return json.loads(decode_text(content))
    except json.JSONDecodeError as error:
        raise DocumentError(
            f"line {error.lineno} column {error.colno} is not JSON ({error.msg}); "
            "write the file again"
        ) from error
    except RecursionError as error:
        raise _make_depth_error("JSON") from error
    # A number that is too long, which is a plain ValueError.
    except ValueError as error:
        if isinstance(error, DocumentError):
            raise
        raise DocumentError(LONG_NUMBER) from error


def parse_xml(content: bytes) -> ET.Element:
    """Return the root element of an XML document. Raises DocumentError."""
    try:
        if b"<!DOCTYPE" in content or b"\0" in content:
            _check_entities(content)
        return ET.fromstring(content)
    # An encoding that Python does not know is a LookupError or a ValueError.
    except (ET.ParseError, expat.ExpatError, LookupError, ValueError) as error:
        if isinstance(error, DocumentError):
            raise
        reason = shorten(str(error), _MAX_REASON)
        raise DocumentError(f"the file is not XML ({reason}); write it again") from error


def decode_text(content: bytes) -> str:
    """Return the text of a document in UTF-8, with a byte order mark or without."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"byte {error.start} is not UTF-8 text; write the file again"
        ) from error


def _make_depth_error(language: str) -> DocumentError:
    return DocumentError(f"the file is {language} nested too deeply; write it again")


def _check_entities(content: bytes) -> None:
    """Raise DocumentError where the document declares an entity."""

    def refuse(*_: object) -> None:
        raise DocumentError("the file declares XML entities; write it again without them")

    parser = expat.ParserCreate()
    parser.EntityDeclHandler = refuse
    parser.Parse(content, True)
