"""Reads Pascal VOC by the letter."""

import xml.etree.ElementTree as ET
from pathlib import PurePosixPath

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
    get_stem,
    is_image,
    read_number,
    read_size,
    repair_box,
)


def read_voc(files: Files, has_lists: bool = True) -> Reference:
    """Read Annotations/, JPEGImages/, and ImageSets/Main/ where there are lists."""
    lists = {"all": _list_xml_stems(files)}
    if has_lists:
        lists = {}
        for split in SPLITS:
            content = files.get(f"ImageSets/Main/{split}.txt")
            if content is not None:
                text = content.decode("utf-8", "replace")
                lists[split] = sorted({line.strip() for line in text.splitlines() if line.strip()})
    splits: dict[str, dict[str, list[ReadBox | None]]] = {}
    labels: set[str] = set()
    for split, stems in lists.items():
        splits[split] = {}
        for stem in stems:
            content, boxes = _read_voc_image(files, stem)
            labels.update(box[0] for box in boxes if box is not None)
            add_image(splits[split], content, boxes)
    reference = finish((), splits)
    return Reference(tuple(sorted(labels)), reference.splits)


def _list_xml_stems(files: Files) -> list[str]:
    paths = [PurePosixPath(path) for path in files]
    return sorted(path.stem for path in paths if path.match("Annotations/*.xml"))


def _read_voc_image(files: Files, stem: str) -> tuple[bytes, list[ReadBox | None]]:
    path = f"Annotations/{stem}.xml"
    if path not in files:
        raise BadDatasetError(f"no {path}")
    try:
        root = ET.fromstring(files[path])
    except (ET.ParseError, ValueError, LookupError) as error:
        raise BadDatasetError("not XML") from error
    if root.tag != "annotation":
        raise BadDatasetError(f"the root {root.tag}")

    stated = get_stem(root.findtext("filename") or stem)
    others = {get_stem(path) for path in files if is_image(path)}
    if stated != stem and stated in others:
        raise UnclearError("filename is that of another image")
    content = find_image(files, "JPEGImages", stem)
    for key, actual in zip(("width", "height"), read_size(content), strict=True):
        check_size(read_number(root.findtext(f"size/{key}") or "0"), actual)
    return content, [_read_voc_box(element) for element in root.findall("object")]


def _read_voc_box(element: ET.Element) -> ReadBox | None:
    label = (element.findtext("name") or "").strip()
    difficult = (element.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise UnclearError(f"difficult {difficult}")
    if not label:
        raise BadDatasetError("no name")
    keys = ("xmin", "ymin", "xmax", "ymax")
    x1, y1, x2, y2 = (read_number(element.findtext(f"bndbox/{key}") or "") for key in keys)
    return repair_box(label, (x1, y1, x2, y2), difficult == "1", SIZE)
