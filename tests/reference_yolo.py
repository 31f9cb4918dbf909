"""Reads YOLO by the letter."""

from pathlib import PurePosixPath
from typing import Any

import yaml
from dataset_builders import Files
from dataset_readings import ReadBox
from reference_readers import (
    SPLITS,
    BadDatasetError,
    Reference,
    UnclearError,
    add_image,
    finish,
    is_image,
    read_number,
    read_size,
    repair_box,
)


def read_yolo(
    files: Files, images: str = "images/{split}", labels: str = "labels/{split}"
) -> Reference:
    """Read data.yaml, images and labels."""
    document = _parse_yaml(files.get("data.yaml", b""))
    names = _read_names(document)
    named = [split for split in SPLITS if document.get(split)]
    if named and "train" not in named:
        raise BadDatasetError("data.yaml does not name train")
    splits: dict[str, dict[str, list[ReadBox | None]]] = {}
    used = set()
    for split in named or SPLITS:
        folder = images.format(split=split) + "/"
        paths = [path for path in files if path.startswith(folder) and is_image(path)]
        splits[split] = {}
        for path in paths:
            label_path = f"{labels.format(split=split)}/{PurePosixPath(path).stem}.txt"
            used.add(label_path)
            if any(other.startswith(f"{label_path}/") for other in files):
                raise BadDatasetError(f"{label_path} is a folder")
            text = files.get(label_path, b"").decode("utf-8-sig", "replace")
            size = read_size(files[path])
            boxes = [read_label(line, names, size) for line in text.splitlines() if line.strip()]
            add_image(splits[split], files[path], boxes)
    labels_there = {path for path in files if "labels/" in path and path.endswith(".txt")}
    orphans = {path for path in labels_there - used if "/." not in path}
    if named:
        # Those of splits that data.yaml does not name are left out with their images.
        orphans = {path for path in orphans if any(f"/{split}/" in path for split in named)}
    if orphans:
        raise BadDatasetError(f"labels without images: {orphans}")
    return finish(tuple(names[number] for number in sorted(names)), splits)


def _parse_yaml(content: bytes) -> dict[str, Any]:
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadDatasetError("not YAML") from error
    except ValueError as error:
        raise UnclearError("a value that YAML cannot read") from error
    if not isinstance(document, dict):
        raise BadDatasetError("no mapping")
    return document


def _read_names(document: dict[str, Any]) -> dict[int, str]:
    names = document.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise BadDatasetError("no names")
    if not all(isinstance(key, int) for key in names):
        raise UnclearError("names by text")
    if len(set(names.values())) < len(names):
        raise BadDatasetError("a name twice")
    return {key: name.strip() for key, name in names.items()}


def read_label(line: str, names: dict[int, str], size: tuple[int, int]) -> ReadBox | None:
    """Return the box of a line, None where it is dropped as it is too small."""
    number, *values = (read_number(word) for word in line.split())
    if number not in names:
        raise BadDatasetError(f"class {number}")
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise BadDatasetError(f"{len(values)} values")
    if not all(abs(value) <= 2 for value in values):
        raise BadDatasetError("not in fractions")
    if len(values) == 4:
        x, y, width, height = values
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    else:
        xs, ys = values[::2], values[1::2]
        corners = (min(xs), min(ys), max(xs), max(ys))
    x1, y1, x2, y2 = (value * size for value, size in zip(corners, size * 2, strict=True))
    return repair_box(names[int(number)], (x1, y1, x2, y2), False, size)
