"""Changes good datasets at random, as people, tools and disks do."""

import json
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import yaml
from dataset_builders import (
    HEIGHT,
    WIDTH,
    Files,
    Photo,
    Thing,
    draw,
    encode,
)
from PIL import Image

Mutation = Callable[[Files, random.Random], Files]
"""Returns the files with one change; the same for the same state of the random generator."""

LABELS = ("cat", "dog", "sea lion")
_TEXTS = (".json", ".xml", ".txt", ".yaml")
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:e-?\d+)?")
_WORD = re.compile(rb"[A-Za-z_]+")
_NUMBERS = (
    b"0", b"1", b"2", b"-1", b"7", b"0.5", b"1.0", b"119", b"120", b"121", b"80", b"1e9", b"-0.0",
    b"1e-9", b"nan", b"inf", b"1e400", b"NaN", b"", b"9" * 30, b"0x10", b"1,5", b"1_0", b"null",
    b'"1"',
)  # fmt: skip
_BYTES = b"\0\t\n\r \"#%&',-./0159:;<>@AZ[\\]_az{}\x7f\x80\xff"


def make_photos(rng: random.Random, with_crowds: bool) -> list[Photo]:
    """Return photos in two or three splits, each with up to four things; train has all labels."""
    photos = []
    numbers = rng.sample(range(12), 8)
    splits = ["train"] * 4 + ["val"] * 2 + rng.choice([["test"], ["val"], []])
    for position, (number, split) in enumerate(zip(numbers, splits, strict=False)):
        labels = rng.choices(LABELS, k=rng.randrange(5))
        if position < 2:
            labels = list(LABELS)
        things = [_make_thing(rng, label, with_crowds and position >= 2) for label in labels]
        photos.append(Photo(number, split, tuple(dict.fromkeys(things))))
    return photos


def _make_thing(rng: random.Random, label: str, may_be_crowd: bool) -> Thing:
    x, y = rng.randrange(WIDTH - 8), rng.randrange(HEIGHT - 8)
    corners = (x, y, x + rng.randint(4, WIDTH - x), y + rng.randint(4, HEIGHT - y))
    return Thing(label, corners, may_be_crowd and rng.random() < 0.2)


# Inside a text file.


def _choose_text(files: Files, rng: random.Random) -> str:
    """Return the path of a text file that is not empty."""
    return rng.choice([path for path, text in files.items() if path.endswith(_TEXTS) and text])


def _edit(
    change: Callable[[bytes, random.Random], bytes], files: Files, rng: random.Random
) -> Files:
    path = _choose_text(files, rng)
    return {**files, path: change(files[path], rng)}


def _flip(text: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(text))
    return text[:place] + bytes([rng.choice(_BYTES)]) + text[place + 1 :]


def _insert(text: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(text) + 1)
    return text[:place] + bytes(rng.choices(_BYTES, k=rng.randint(1, 3))) + text[place:]


def _delete(text: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(text))
    return text[:place] + text[place + rng.choice([1, 1, 1, 3, 20]) :]


def _cut(text: bytes, rng: random.Random) -> bytes:
    return text[: rng.randrange(len(text))]


def _repeat(text: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(text))
    end = start + rng.randint(1, 60)
    return text[:end] + text[start:end] + text[end:]


def _drop_line(text: bytes, rng: random.Random) -> bytes:
    lines = text.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def _repeat_line(text: bytes, rng: random.Random) -> bytes:
    lines = text.splitlines(keepends=True)
    place = rng.randrange(len(lines))
    return b"".join([*lines[: place + 1], *lines[place:]])


def _swap_lines(text: bytes, rng: random.Random) -> bytes:
    lines = text.splitlines(keepends=True)
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return b"".join(lines)


def _replace_match(
    pattern: re.Pattern[bytes], choices: Sequence[bytes] | None, text: bytes, rng: random.Random
) -> bytes:
    """Replace a match by one of the choices, or by another match in the file."""
    matches = list(pattern.finditer(text))
    if not matches:
        return text
    match = rng.choice(matches)
    new = rng.choice(choices) if choices else rng.choice(matches).group()
    return text[: match.start()] + new + text[match.end() :]


# Inside a document.

_VALUES: tuple[object, ...] = (
    None, True, False, 0, -1, 1.5, 2, 3.0, 10**30, 1e308, float("nan"), float("-inf"), "", " ", "x",
    "1", "1.0", "0", "\ud800", "\0", "a" * 300, [], [1], [[]], {}, {"a": 1}, [1, 2, 3, 4], "p0.jpg",
    "../p0.jpg",
)  # fmt: skip


def _confuse_json(files: Files, rng: random.Random) -> Files:
    """Replace a value of a JSON document, or drop it."""
    path = rng.choice([path for path in files if path.endswith((".json", ".yaml"))] or list(files))
    if path.endswith(".json"):
        document = json.loads(files[path])
        _confuse(document, rng)
        return {**files, path: json.dumps(document).encode()}
    if path.endswith(".yaml"):
        document = yaml.safe_load(files[path])
        _confuse(document, rng)
        # YAML is a superset of JSON, of which some values cannot be written in its own style.
        return {**files, path: json.dumps(document).encode()}
    return files


def _confuse(document: Any, rng: random.Random) -> None:
    """Go down at random, and change what is found there."""
    parent, key = document, rng.choice(list(document))
    while isinstance(parent[key], dict | list) and parent[key] and rng.random() < 0.85:
        parent = parent[key]
        key = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
    if rng.random() < 0.2:
        del parent[key]
    elif rng.random() < 0.2 and isinstance(parent, list):
        parent.append(parent[key])
    else:
        parent[key] = rng.choice(_VALUES)


def _confuse_xml(files: Files, rng: random.Random) -> Files:
    """Change the text of an element, drop it, or write it twice."""
    path = rng.choice([path for path in files if path.endswith(".xml")] or list(files))
    if not path.endswith(".xml"):
        return files
    root = ET.fromstring(files[path])
    parents = [element for element in root.iter() if len(element)]
    parent = rng.choice(parents)
    child = rng.choice(list(parent))
    action = rng.randrange(4)
    if action == 0:
        parent.remove(child)
    elif action == 1:
        parent.append(child)
    elif action == 2:
        child.tag = rng.choice(["object", "name", "bndbox", "xmin", "size", "x"])
    else:
        child.text = rng.choice(
            [value for value in _VALUES if isinstance(value, str) and value.isprintable()]
        )
    return {**files, path: ET.tostring(root)}


# Whole files.


def _choose(files: Files, rng: random.Random) -> str:
    return rng.choice(list(files))


def _drop_file(files: Files, rng: random.Random) -> Files:
    chosen = _choose(files, rng)
    return {path: content for path, content in files.items() if path != chosen}


def _rename_file(files: Files, rng: random.Random) -> Files:
    chosen = _choose(files, rng)
    folder, _, name = chosen.rpartition("/")
    stem, _, suffix = name.rpartition(".")
    names = (
        f"{stem.upper()}.{suffix}", f"{stem}.{suffix.upper()}", f"{stem} .{suffix}",
        f"{stem}.{suffix}.bak",
        f".{name}", f"{stem}-1.{suffix}", f"é{name}", f"old/{name}", stem,
    )  # fmt: skip
    new = f"{folder}/{rng.choice(names)}".lstrip("/")
    return {(new if path == chosen else path): content for path, content in files.items()}


def _copy_file(files: Files, rng: random.Random) -> Files:
    chosen = _choose(files, rng)
    folder, _, name = chosen.rpartition("/")
    stem, _, suffix = name.rpartition(".")
    names = (
        f"{stem} copy.{suffix}",
        f"{stem}.{suffix}~",
        f"._{name}",
        f"backup/{name}",
        f"{stem} (1).{suffix}",
    )
    return {**files, f"{folder}/{rng.choice(names)}".lstrip("/"): files[chosen]}


def _swap_files(files: Files, rng: random.Random) -> Files:
    first = _choose(files, rng)
    same = [path for path in files if path[-4:] == first[-4:]]
    second = rng.choice(same)
    return {**files, first: files[second], second: files[first]}


def _make_folder(files: Files, rng: random.Random) -> Files:
    """Put a folder of a file's name in its place, with the file in it."""
    chosen = _choose(files, rng)
    name = chosen.rpartition("/")[2]
    return {(f"{path}/{name}" if path == chosen else path): text for path, text in files.items()}


def _empty_file(files: Files, rng: random.Random) -> Files:
    return {**files, _choose(files, rng): b""}


def _add_file(files: Files, rng: random.Random) -> Files:
    folders = sorted({path.rpartition("/")[0] for path in files} | {"", "extra"})
    name = rng.choice(
        (
            "zz.json",
            "zz.xml",
            "zz.txt",
            "zz.yaml",
            "zz.jpg",
            "zz.csv",
            ".zz.json",
            "classes.txt",
            "readme",
        )
    )
    content = rng.choice(
        (
            b"",
            b"{}",
            b"[]",
            b"<annotation/>",
            b"0 0.5 0.5 0.1 0.1\n",
            b"cat\ndog\n",
            rng.randbytes(50),
            draw(20),
        )
    )
    return {**files, f"{rng.choice(folders)}/{name}".lstrip("/"): content}


def _damage_image(files: Files, rng: random.Random) -> Files:
    path = rng.choice([path for path in files if path.endswith(".jpg")])
    content = files[path]
    place = rng.randrange(len(content))
    damaged = rng.choice(
        (
            content[:place],
            content[:place] + rng.randbytes(1) + content[place + 1 :],
            content[:place] + bytes(20) + content[place + 20 :],
            content + b"behind the end",
            encode(Image.new("RGB", (WIDTH // 2, HEIGHT)), "JPEG"),
            encode(Image.new("RGB", (HEIGHT, WIDTH)), "PNG"),
        )
    )
    return {**files, path: damaged}


MUTATIONS: dict[str, Mutation] = {
    "flip": partial(_edit, _flip),
    "insert": partial(_edit, _insert),
    "delete": partial(_edit, _delete),
    "cut": partial(_edit, _cut),
    "repeat": partial(_edit, _repeat),
    "drop line": partial(_edit, _drop_line),
    "repeat line": partial(_edit, _repeat_line),
    "swap lines": partial(_edit, _swap_lines),
    "number": partial(_edit, partial(_replace_match, _NUMBER, _NUMBERS)),
    "another number": partial(_edit, partial(_replace_match, _NUMBER, None)),
    "word": partial(_edit, partial(_replace_match, _WORD, None)),
    "JSON value": _confuse_json,
    "another JSON value": _confuse_json,
    "XML value": _confuse_xml,
    "another XML value": _confuse_xml,
    "folder": _make_folder,
    "drop file": _drop_file,
    "rename file": _rename_file,
    "copy file": _copy_file,
    "swap files": _swap_files,
    "empty file": _empty_file,
    "add file": _add_file,
    "damage image": _damage_image,
}

# What may change nothing at all, neither labels nor the digest.
