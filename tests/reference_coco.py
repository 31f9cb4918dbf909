"""Reads COCO by the letter."""

import json
from typing import Any

from dataset_builders import Files
from dataset_readings import ReadBox
from reference_readers import (
    SIZE,
    SPLITS,
    BadDatasetError,
    Reference,
    UnclearError,
    add_image,
    check_size,
    find_image,
    finish,
    read_size,
    repair_box,
)


def read_coco(files: Files, one_file: bool = False) -> Reference:
    """Read annotations/instances_<split>.json, or annotations.json for all, with images/."""
    classes: dict[str, None] = {}
    splits: dict[str, dict[str, list[ReadBox | None]]] = {}
    for split in ("all",) if one_file else SPLITS:
        path = "annotations.json" if one_file else f"annotations/instances_{split}.json"
        if path not in files:
            continue
        document = _parse_json(files[path])
        names = _read_categories(document)
        classes.update(dict.fromkeys(name for _, name in sorted(names.items())))
        folder = "images" if one_file else f"images/{split}"
        splits[split] = _read_coco_images(files, folder, document, dict(names))
    if not splits:
        raise BadDatasetError("no annotations")
    return finish(tuple(classes), splits)


def _parse_json(content: bytes) -> dict[str, list[dict[str, Any]]]:
    try:
        document = json.loads(content)
    except ValueError as error:
        raise BadDatasetError("not JSON") from error
    for key in ("images", "annotations", "categories"):
        entries = document.get(key) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise BadDatasetError(f"no list of {key}")
    return document


def _make_key(value: object) -> int | str:
    """Return an id such that 7, 7.0 and "7" are one."""
    if isinstance(value, bool) or value is None or isinstance(value, list | dict):
        raise BadDatasetError(f"{value!r} is no id")
    if isinstance(value, str) and not value.strip().isdigit():
        raise UnclearError(f"the id {value!r}")
    if isinstance(value, float) and not value.is_integer():
        raise UnclearError(f"the id {value!r}")
    return int(value)  # type: ignore[call-overload]


def _read_categories(document: dict[str, Any]) -> dict[int | str, str]:
    names: dict[int | str, str] = {}
    for entry in document["categories"]:
        name = entry.get("name")
        if not isinstance(name, str) or "id" not in entry or not name.strip():
            raise BadDatasetError("a category without id or name")
        key = _make_key(entry["id"])
        if key in names or name.strip() in names.values():
            raise BadDatasetError("a category twice")
        if name != name.strip():
            raise UnclearError(f"blanks around {name!r}")
        names[key] = name
    return names


def _read_coco_images(
    files: Files, folder: str, document: dict[str, Any], names: dict[int | str, str]
) -> dict[str, list[ReadBox | None]]:
    boxes: dict[int | str, list[ReadBox | None]] = {}
    for entry in document["images"]:
        if "id" not in entry or not isinstance(entry.get("file_name"), str):
            raise BadDatasetError("an image without id or file_name")
        key = _make_key(entry["id"])
        if key in boxes:
            raise BadDatasetError("an image id twice")
        boxes[key] = []
    for entry in document["annotations"]:
        image, category = _make_key(entry.get("image_id")), _make_key(entry.get("category_id"))
        if image not in boxes or category not in names:
            raise BadDatasetError("an annotation of nothing")
        boxes[image].append(_read_coco_box(entry, names[category]))

    images: dict[str, list[ReadBox | None]] = {}
    for entry in document["images"]:
        content = find_image(files, folder, entry["file_name"])
        for key, actual in zip(("width", "height"), read_size(content), strict=True):
            check_size(entry.get(key), actual)
        add_image(images, content, boxes[_make_key(entry["id"])])
    return images


def _read_coco_box(entry: dict[str, Any], label: str) -> ReadBox | None:
    bbox = entry.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise BadDatasetError(f"the bbox {bbox!r}")
    if any(isinstance(value, str) for value in bbox):
        raise UnclearError("numbers as text")
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in bbox):
        raise BadDatasetError(f"the bbox {bbox!r}")
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1, None):
        raise UnclearError(f"iscrowd {crowd!r}")
    x, y, width, height = bbox
    return repair_box(label, (x, y, x + width, y + height), bool(crowd), SIZE)
