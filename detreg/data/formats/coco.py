"""COCO's detection format (https://cocodataset.org/#format-data), also as Roboflow exports it.

Accepted: `annotations/*.json`, `*.json`, or a file in a folder per split (`train/_annotations.coco.json`). Pictures lie beside the file,
in the folder, in `images/`, or in a folder named after the split or the file (`train2017/`, `images/val/`).
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from detreg.data.raw import (
    MISSING_AREA,
    MISSING_SIZE,
    POOL,
    AnnotatedImage,
    BadEntry,
    Box,
    ProblemCollector,
    RawDataset,
    Record,
    duplicates,
    locate,
)
from detreg.data.splits import SPLITS, split_of

LOOKED_FOR = "COCO (annotations/*.json, *.json or train/_annotations.coco.json)"

_ROBOFLOW = "_annotations.coco.json"
_Entry = dict[str, Any]


def detect(folder: Path) -> bool:
    """Whether `folder` holds annotation files where COCO or Roboflow puts them."""
    return bool(_annotation_files(folder))


def read(folder: Path) -> RawDataset:
    """Reads every annotation file; categories of several files are matched by name, in the order of train's category ids."""
    notes = ProblemCollector()
    splits: dict[str, list[Record]] = {}
    classes: dict[str, None] = {}
    files = _annotation_files(folder)
    for split, file in _by_split(folder, files, notes):
        with notes.at(file.relative_to(folder).as_posix()):
            names, records = _read_file(folder, file, split, notes)
            classes.update(dict.fromkeys(names))
            splits.setdefault(split, []).extend(records)
    format = "roboflow" if all(file.name == _ROBOFLOW for file in files) else "coco"
    return RawDataset(format, folder, tuple(classes), splits, tuple(notes.problems), notes.repairs)


def write(
    folder: Path, classes: Sequence[str], splits: Mapping[str, Sequence[AnnotatedImage]]
) -> None:
    """Writes `annotations/<split>.json` and `images/<split>/`."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    for split, pictures in splits.items():
        (folder / "images" / split).mkdir(parents=True, exist_ok=True)
        images: list[_Entry] = []
        annotations: list[_Entry] = []
        for number, picture in enumerate(pictures, start=1):
            (folder / "images" / split / picture.file_name).write_bytes(picture.content)
            images.append(
                {
                    "id": number,
                    "file_name": picture.file_name,
                    "width": picture.width,
                    "height": picture.height,
                }
            )
            for box in picture.boxes:
                category = classes.index(box.label) + 1
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": category,
                        **box_entry(box),
                    }
                )
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"{split}.json").write_text(
            json.dumps(document, indent=1), encoding="utf-8"
        )


def box_entry(box: Box) -> _Entry:
    """The keys of a COCO annotation that a box decides: bbox as x, y, width, height in pixels, area and iscrowd."""
    x1, y1, x2, y2 = box.corners
    width, height = round(x2 - x1, 3), round(y2 - y1, 3)
    return {
        "bbox": [x1, y1, width, height],
        "area": box.area or round(width * height, 3),
        "iscrowd": int(box.crowd),
    }


def _annotation_files(folder: Path) -> list[Path]:
    found = [
        file
        for child in sorted(folder.glob("*/"))
        if split_of(child.name)
        for file in sorted(child.glob("*.json"))
    ]
    found = found or sorted(folder.glob("annotations/*.json")) or sorted(folder.glob("*.json"))
    # COCO's own download has captions and keypoints beside the boxes.
    return [file for file in found if file.name.startswith("instances_")] or found


def _by_split(
    folder: Path, files: Sequence[Path], notes: ProblemCollector
) -> list[tuple[str, Path]]:
    """Each file with its split, train first; a single file that names no split is the pool."""
    named = [
        (
            (split_of(file.parent.name) if file.parent != folder else None)
            or split_of(file.stem)
            or POOL,
            file,
        )
        for file in files
    ]
    for split in duplicates(split for split, _ in named):
        names = ", ".join(file.relative_to(folder).as_posix() for of, file in named if of == split)
        say = (
            "name no split; put train, val or test into each name"
            if split == POOL
            else f"are all for {split}; merge them or keep one"
        )
        notes.problems.append(f"{names}: these annotation files {say}")
    return sorted(named, key=lambda pair: ((*SPLITS, POOL).index(pair[0]), pair[1]))


def _read_file(
    folder: Path, file: Path, split: str, notes: ProblemCollector
) -> tuple[list[str], list[Record]]:
    """The class names and the records of one annotation file."""
    source = file.relative_to(folder).as_posix()
    document = _document(file)
    categories = _categories(document, source, notes)
    images = _entries(document, "images", source)
    annotations = _entries(document, "annotations", source)
    _refuse_duplicates(source, images, annotations, notes)
    known = {str(image["id"]) for image in images if "id" in image}
    boxes: dict[str, list[Box]] = {}
    for position, annotation in enumerate(annotations, start=1):
        where = (
            f"annotation {annotation['id']}"
            if "id" in annotation
            else f"annotation at position {position}"
        )
        with notes.at(f"{source} {where}"):
            box = _box(annotation, where, known, categories)
            boxes.setdefault(str(annotation["image_id"]), []).append(box)
            notes.repairs[MISSING_AREA] += box.area is None
    roots = _roots(folder, file, split)
    records = []
    for position, image in enumerate(images, start=1):
        with notes.at(f"{source} image {image.get('id', f'at position {position}')}"):
            records.append(
                _record(image, source, boxes.get(str(image.get("id")), []), roots, folder)
            )
            notes.repairs[MISSING_SIZE] += records[-1].width is None or records[-1].height is None
    return list(categories.values()), records


def _document(file: Path) -> _Entry:
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise BadEntry(
            f"line {error.lineno} column {error.colno} is not JSON ({error.msg}); write the file again"
        ) from error
    except UnicodeDecodeError as error:
        raise BadEntry(f"byte {error.start} is not UTF-8 text; write the file again") from error
    if not isinstance(document, dict):
        raise BadEntry(
            "the file is not a JSON object with images, annotations and categories; export it as COCO detection"
        )
    return document


def _entries(document: _Entry, key: str, source: str) -> list[_Entry]:
    entries = document.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadEntry(f"has no list of objects under {key!r}; export {source} as COCO detection")
    return entries


def _categories(document: _Entry, source: str, notes: ProblemCollector) -> dict[str, str]:
    """Category names by id (as text), in the order of the ids, without Roboflow's unused category that stands for the whole project."""
    entries = _entries(document, "categories", source)
    for position, entry in enumerate(entries, start=1):
        if not isinstance(entry.get("name"), str) or not isinstance(entry.get("id"), int):
            raise BadEntry(
                f"category at position {position} needs a number as id and a text as name; correct it"
            )
    unused = not any(
        annotation.get("category_id") == 0
        for annotation in _entries(document, "annotations", source)
    )
    above = [entry.get("supercategory") for entry in entries if entry["id"] != 0]
    dummy = unused and above and all(name == above[0] for name in above)
    kept = [
        entry for entry in entries if not (dummy and entry["id"] == 0 and entry["name"] == above[0])
    ]
    kept.sort(key=lambda entry: entry["id"])
    for number in duplicates(entry["id"] for entry in kept):
        notes.problems.append(
            f"{source}: category id {number} is given twice; give each category an id of its own"
        )
    for name in duplicates(entry["name"] for entry in kept):
        notes.problems.append(
            f"{source}: two categories are named {name!r}; merge them or rename one"
        )
    return {str(entry["id"]): entry["name"] for entry in kept}


def _refuse_duplicates(
    source: str, images: Sequence[_Entry], annotations: Sequence[_Entry], notes: ProblemCollector
) -> None:
    rules = (
        (
            images,
            "id",
            "image id",
            "number the images afresh, or boxes end up on the wrong picture",
        ),
        (images, "file_name", "file name", "merge the entries into one"),
        (annotations, "id", "annotation id", "number the annotations afresh"),
    )
    for entries, key, noun, advice in rules:
        for value in duplicates(str(entry[key]) for entry in entries if key in entry):
            notes.problems.append(f"{source}: {noun} {value} is given more than once; {advice}")


def _box(annotation: _Entry, where: str, images: set[str], categories: Mapping[str, str]) -> Box:
    image, category, bbox = (annotation.get(key) for key in ("image_id", "category_id", "bbox"))
    if str(image) not in images:
        raise BadEntry(
            f"image_id {image} is no image of this file; add the image or remove the annotation"
        )
    if str(category) not in categories:
        raise BadEntry(
            f"category_id {category} is no category of this file (there are {_listed(categories)}); correct it or add the category"
        )
    label = categories[str(category)]
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_number(value) for value in bbox):
        raise BadEntry(
            f"(class {label}) bbox {bbox} is not four numbers; write [x, y, width, height] in pixels"
        )
    x, y, width, height = map(float, bbox)
    area = annotation.get("area")
    stated = float(area) if _is_number(area) and 0 < area < math.inf else None
    return Box(
        (x, y, x + width, y + height),
        label,
        str(annotation.get("iscrowd")) in ("1", "True"),
        f"{where} (class {label})",
        stated,
    )


def _record(
    image: _Entry, source: str, boxes: Sequence[Box], roots: Sequence[Path], folder: Path
) -> Record:
    name = image.get("file_name")
    if "id" not in image or not isinstance(name, str) or not name:
        raise BadEntry("an image needs an id and a file_name; add them")
    sizes = [image.get(key) or None for key in ("width", "height")]
    if not all(size is None or (_is_number(size) and math.isfinite(size)) for size in sizes):
        raise BadEntry(
            f"({name}) width {sizes[0]!r} and height {sizes[1]!r} are not numbers; correct or remove them"
        )
    width, height = (None if size is None else round(size) for size in sizes)
    return Record(locate(name, roots, folder), source, tuple(boxes), width, height)


def _roots(folder: Path, file: Path, split: str) -> list[Path]:
    """The folders that a file's pictures may lie in, the most particular first: two splits may use the same picture names."""
    stem = file.stem.removeprefix("instances_")
    children = [child for base in (folder, folder / "images") for child in sorted(base.glob("*/"))]
    particular = [child for child in children if child.name == stem] + [
        child for child in children if split_of(child.name) == split
    ]
    return [
        *particular,
        file.parent,
        file.parent / "images",
        file.parent / "data",
        folder,
        folder / "images",
        folder / "data",
    ]


def _is_number(value: Any) -> TypeGuard[float]:
    # JSON allows whole numbers that are too long for a float.
    return isinstance(value, float) or (
        isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    )


def _listed(categories: Mapping[str, str]) -> str:
    names = [f"{number} {name}" for number, name in categories.items()]
    return ", ".join(names[:10]) + (" and more" if len(names) > 10 else "")
