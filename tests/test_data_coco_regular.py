"""What the quick reader of COCO's files reads, coco_file.py reads equally, with equal findings."""

import copy
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from msgspec.json import Decoder

from detreg.data.findings import ProblemCollector
from detreg.data.formats import coco, coco_file
from detreg.data.formats.coco_regular import read_regular_file
from detreg.data.formats.file_index import Hint
from detreg.data.formats.lookup import ImageIndex, ImageLocator
from detreg.data.formats.tree import list_files
from detreg.data.raw import RawDataset
from detreg.documents import decode_json

Document = dict[str, Any]

MUTANTS = 200

ODD_VALUES: tuple[object, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7.0, 1.5, 0.0, -0.0, 2**53, 2**64, 1e300, float("nan")),
    *("", "1", "2", "cat", "a.jpg", "../b.jpg", "é.jpg", [], {}, [1], [1, 2, 3, 4]),
    *([0.5, "1", 3, 4], [1, 2, 3, 2**70], [1, 2, 3, True], [[1, 2, 9, 2, 9, 9]]),
    *({"size": [8, 8], "counts": [10, 54]}, {"size": [8, 8], "counts": "P1"}, {"id": 1}),
)


def make_document() -> Document:
    """Return a document with all that is usual, also a mask, and keys that nobody reads."""
    images = []
    for number, name in enumerate(("a.jpg", "b.jpg", "c.jpg"), start=1):
        images.append(
            {"id": number, "file_name": name, "width": 64, "height": 48, "url": 'http://x/"a": b'}
        )
    annotations: list[Document] = []
    for number in range(1, 7):
        x, y = 2.0 * number, 0.1 + number
        annotations.append(
            {
                "id": number,
                "image_id": number % 3 + 1,
                "category_id": number % 2 + 1,
                "bbox": [x, y, 12, 0.2 + number],
                "area": 20 + number,
                "iscrowd": int(number == 5),
                "segmentation": [[x, y, x + 12, y, x + 12, y + number]],
                "attributes": {"occluded": False},
            }
        )
    annotations[4]["segmentation"] = {"size": [48, 64], "counts": "PQ1"}
    return {
        "info": {"year": 2026, "about": {"by": "us"}},
        "licenses": [{"id": 1, "name": "MIT"}],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": 1, "name": "cat", "supercategory": "animal"},
            {"id": 2, "name": "dog", "supercategory": "animal"},
        ],
    }


def mutate(rng: random.Random, document: Document) -> None:
    """Change, add, remove or repeat something in a document."""
    entries = document[rng.choice(("images", "annotations", "annotations", "categories"))]
    if not isinstance(entries, list) or not entries or not isinstance(entries[0], dict):
        return
    entry = rng.choice(entries)
    key = rng.choice([*entry, "ignore", "extra", "coco_url"])
    change = rng.randrange(6)
    if change == 0:
        entry.pop(key, None)
    elif change == 1:
        entries.append(copy.deepcopy(entry))
    elif change == 2:
        document[rng.choice([*document, "type"])] = rng.choice(ODD_VALUES)
    else:
        entry[key] = rng.choice(ODD_VALUES)


def damage(rng: random.Random, text: bytes) -> bytes:
    """Return text with a byte left out, replaced, or an odd value put in."""
    place = rng.randrange(len(text))
    inserted = rng.choice((b"", b"\xff", b'"', b"{", b",", b"1", b"\\", b'"id": 1, ', b"\x01"))
    return text[:place] + inserted + text[place + rng.randrange(2) :]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a dataset's folder with empty files as images: readers do not look into them."""
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        (images / name).touch()
    return tmp_path


@contextmanager
def set_limit(monkeypatch: pytest.MonkeyPatch, limit: int) -> Iterator[None]:
    """Try the quick reader from so many bytes on."""
    with monkeypatch.context() as patch:
        patch.setattr(coco_file, "MIN_LARGE_FILE", limit)
        yield


def read_both(folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> list[RawDataset]:
    """Return what is read with the quick reader and without it."""
    (folder / "annotations.json").write_bytes(content)
    read = []
    for limit in (0, 1 << 40):
        with set_limit(monkeypatch, limit):
            read.append(coco.read(list_files(folder)))
    return read


def is_regular(folder: Path, content: bytes) -> bool:
    """Whether the quick reader reads a file."""
    problems = ProblemCollector()
    locator = ImageLocator(ImageIndex(list_files(folder)), ("images",), Hint("a.json"), problems)
    return read_regular_file(content, "a.json", locator, problems) is not None


def test_regular_file_is_read_as_any_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.dumps(make_document()).encode()
    assert is_regular(folder, content)

    quick, slow = read_both(folder, content, monkeypatch)

    assert quick == slow
    # Equal numbers may be of two types, and zero of two signs.
    assert repr(quick) == repr(slow)
    assert len(quick.splits["pool"]) == 3


@pytest.mark.parametrize("part", range(4))
def test_mutant_is_read_equally(part: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(part)
    num_regular = 0
    for number in range(MUTANTS // 4):
        document = make_document()
        for _ in range(rng.randrange(1, 3)):
            mutate(rng, document)
        content = json.dumps(document).encode()
        if number % 3 == 0:
            content = damage(rng, json.dumps(make_document()).encode())

        quick, slow = read_both(folder, content, monkeypatch)

        assert repr(quick) == repr(slow), f"mutant {number} of part {part}"
        num_regular += is_regular(folder, content)
    assert 0 < num_regular < MUTANTS // 4


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"image_id": 2', '"image_id": 2, "image_id": 3'),
        ('"file_name": "a.jpg"', '"file_name": "d.jpg", "file_name": "a.jpg"'),
        ('"name": "cat"', '"name": "dog", "name": "cat"'),
        ('{"info"', '{"images": [], "info"'),
        ('"size"', '"size": 1, "size"'),
    ],
)
def test_key_that_is_given_twice_is_seen(old: str, new: str, folder: Path) -> None:
    text = json.dumps(make_document())
    assert is_regular(folder, text.encode())
    assert old in text
    assert not is_regular(folder, text.replace(old, new, 1).encode())


def test_key_that_the_only_entry_has_twice_is_seen(folder: Path) -> None:
    document = make_document()
    for key in ("images", "annotations"):
        document[key] = document[key][-1:]
    document["annotations"][0]["image_id"] = document["images"][0]["id"]
    text = json.dumps(document)
    assert is_regular(folder, text.encode())
    assert not is_regular(folder, text.replace('"area"', '"area": 1, "area"').encode())


def test_long_number_is_left_to_the_parser_that_refuses_it() -> None:
    document = make_document()
    document["annotations"][3]["extra"] = 1
    text = json.dumps(document).replace('"extra": 1', f'"extra": {"7" * 5000}')
    decoder = Decoder(dict[str, Raw])
    assert decode_json(text.encode(), decoder) is None
    assert decode_json(text.replace("7" * 3000, "7").encode(), decoder) is not None


def test_large_file_with_polygons_is_regular(folder: Path) -> None:
    document = make_document()
    document["annotations"][0]["segmentation"][0] += [1.5] * 400_000
    content = json.dumps(document).encode()
    assert len(content) > coco_file.MIN_LARGE_FILE
    # The first entry is longer than what is looked at to count its keys.
    assert not is_regular(folder, content)

    document["annotations"].reverse()
    assert is_regular(folder, json.dumps(document).encode())
