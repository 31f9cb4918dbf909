"""The two parsers of JSON: the one for large documents changes neither values nor messages."""

import json
import random
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from msgspec.json import Decoder

from detreg import documents
from detreg.documents import DocumentError, decode_json, parse_json

UNUSUAL = [
    "-0",
    "-0.0",
    "1e400",
    "-1E-400",
    "NaN",
    "[Infinity, -Infinity]",
    "9223372036854775808",
    "9" * 4300,
    '"\\ud83d\\ude00 \\u0000 \\/"',
    '"half of a character: \\ud83d"',
    "\ufeff[1]",
    '{"a": 1, "b": 2, "a": 3}',
    "[" * 500 + "]" * 500,
    " \t\r\n null ",
]

BROKEN = [
    "",
    "[1,]",
    "[01]",
    "-NaN",
    '"\x01"',
    '{"a": 1,\n "b" 2}',
    "[1] 2",
    "9" * 4301,
    "[" * 100_000,
    '"\\x"',
]


@pytest.fixture
def fast_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse every document as a large one."""
    monkeypatch.setattr(documents, "_LARGE_JSON", 0)


@pytest.mark.parametrize("text", UNUSUAL, ids=lambda text: text[:20])
def test_large_document_has_the_value_of_a_small_one(text: str, fast_parser: None) -> None:
    content = text.encode()
    expected = documents._parse_json_by_python(content)
    assert repr(parse_json(content)) == repr(expected)


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: text[:20])
def test_large_document_is_refused_as_a_small_one(text: str, fast_parser: None) -> None:
    content = text.encode()
    with pytest.raises(DocumentError) as small:
        documents._parse_json_by_python(content)
    with pytest.raises(DocumentError) as large:
        parse_json(content)
    assert str(large.value) == str(small.value)


def test_large_document_that_is_not_utf8_is_refused(fast_parser: None) -> None:
    with pytest.raises(DocumentError, match="byte 1 is not UTF-8"):
        parse_json(b'"\xff"')


def test_numbers_of_large_documents_are_equal_to_the_last_bit(fast_parser: None) -> None:
    random_numbers = random.Random(0)
    texts = []
    for _ in range(3000):
        (number,) = struct.unpack("d", random_numbers.randbytes(8))
        digits = "".join(random_numbers.choices("0123456789", k=25))
        texts += [repr(number).replace("nan", "NaN").replace("inf", "1e999"), f"12.{digits}"]
    content = f"[{', '.join(texts)}]".encode()
    assert repr(parse_json(content)) == repr(json.loads(content))


def test_mutants_of_a_document_are_read_alike(fast_parser: None) -> None:
    random_numbers = random.Random(0)
    document = {"images": [{"id": 1, "file_name": "\xe9.jpg"}], "a": [-0.25, 7e3, None, True]}
    whole = json.dumps(document, ensure_ascii=False).encode()
    for _ in range(3000):
        content = bytearray(whole)
        position = random_numbers.randrange(len(content))
        content[position] = random_numbers.choice(b'{}[]",:0123456789eE+-.\\untf \x00\x1f\xff')
        mutant = bytes(content)
        assert parse(parse_json, mutant) == parse(documents._parse_json_by_python, mutant)


def parse(parser: Callable[[bytes], object], content: bytes) -> str:
    """Return what comes of parsing a document: its value or the message."""
    try:
        return repr(parser(content))
    except DocumentError as error:
        return str(error)


@pytest.mark.parametrize(
    ("part", "least"), [(b"[],", 20), (b'{"a":0},', 20), (b"999,", 7), (b'"a b",', 4)]
)
def test_a_document_that_fills_the_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch, part: bytes, least: int
) -> None:
    """`least` times its size, which is less than what it really takes."""
    content = b"[" + part * 10_000 + b"0]"
    monkeypatch.setattr(documents, "_HEAVY_JSON", len(content))
    memory = SimpleNamespace(available=least * len(content))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(DocumentError, match=r"GiB of memory, and 0\.0 GiB are free"):
        parse_json(content)
    with pytest.raises(DocumentError, match=r"GiB of memory, and 0\.0 GiB are free"):
        decode_json(content, Decoder(list[Any]))

    memory.available *= 2
    assert isinstance(parse_json(content), list)
    memory.available = 0
    assert isinstance(parse_json(b"[" + part + b"0]"), list)  # a small one
