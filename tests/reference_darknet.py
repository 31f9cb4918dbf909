"""Reads Darknet's lists by the letter: obj.data, obj.names, a list of each split, labels beside."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from dataset_builders import Files
from dataset_readings import ReadBox
from reference_readers import (
    BadDatasetError,
    Reference,
    UnclearError,
    add_image,
    finish,
    get_stem,
    is_image,
    read_size,
)
from reference_yolo import read_label

_KEYS = {"train": "train", "valid": "val", "test": "test"}


def read_darknet(files: Files) -> Reference:
    """Read what obj.data names."""
    names = _read_lines(files, "obj.names")
    if not all(names) or len(set(names)) < len(names):
        raise BadDatasetError(f"the names {names}")
    pairs = dict(_split(line) for line in _read_lines(files, "obj.data"))
    if pairs.pop("classes", None) != str(len(names)) or pairs.pop("names", None) != "obj.names":
        raise UnclearError("obj.data says something else")
    if not set(pairs) <= set(_KEYS) or "train" not in pairs:
        raise UnclearError("other splits")

    splits: dict[str, dict[str, list[ReadBox | None]]] = {}
    used = set()
    for key, path in pairs.items():
        splits[_KEYS[key]] = {}
        for line in sorted({line for line in _read_lines(files, path) if line}):
            image = _find_image(files, line)
            label = f"{image.rpartition('.')[0]}.txt"
            used.add(label)
            text = files.get(label, b"").decode("utf-8-sig", "replace")
            size = read_size(files[image])
            numbered = dict(enumerate(names))
            boxes = [read_label(row, numbered, size) for row in text.splitlines() if row.strip()]
            add_image(splits[_KEYS[key]], files[image], boxes)
    _check_orphans(files)
    return finish(tuple(names), splits)


def _read_lines(files: Mapping[str, bytes], path: str) -> list[str]:
    if path not in files:
        raise UnclearError(f"no {path}")
    try:
        text = files[path].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnclearError("names in another encoding") from error
    return [line.strip() for line in text.rstrip().splitlines()]


def _split(line: str) -> tuple[str, str]:
    key, _, value = line.partition("=")
    return key.strip(), value.strip()


def _find_image(files: Files, line: str) -> str:
    if line in files and is_image(line):
        return line
    if line.startswith("#"):
        raise UnclearError("a comment")
    if not any(is_image(path) and get_stem(path) == get_stem(line) for path in files):
        raise BadDatasetError(f"no image {line}")
    raise UnclearError(f"the path {line}")


def _check_orphans(files: Files) -> None:
    images = {path.rpartition(".")[0] for path in files if is_image(path)}
    for path in files:
        is_label = path.startswith("frames/") and path.endswith(".txt")
        is_hidden = PurePosixPath(path).name.startswith(".")
        if is_label and not is_hidden and path[:-4] not in images:
            raise UnclearError(f"{path} without image")
