"""Cases of what COCO's entries and files hold."""

import json
import unicodedata
from functools import partial
from typing import Literal

from dataset_builders import (
    PHOTOS,
    Change,
    Document,
    Files,
    Photo,
    Thing,
    add_bom,
    at,
    build_coco,
    change_annotations,
    make_coco,
    rename,
    rewrite,
    to_json,
)
from dataset_cases import Case
from dataset_readings import expect, expect_any

GIVEN = expect()
POOL = expect_any()


def _set_ids(document: Document, convert: type, keys: str = "iac") -> None:
    """Convert the ids of images, annotations and categories."""
    for entry in document["images"] if "i" in keys else []:
        entry["id"] = convert(entry["id"])
    for entry in document["annotations"]:
        if "i" in keys or "r" in keys:
            entry["image_id"] = convert(entry["image_id"])
        if "c" in keys or "k" in keys:
            entry["category_id"] = convert(entry["category_id"])
        if "a" in keys:
            entry["id"] = convert(entry["id"])
    for entry in document["categories"] if "c" in keys else []:
        entry["id"] = convert(entry["id"])


_NO_BBOX = object()


def _make_segmentation(
    entry: Document, split_in_two: bool = False, bbox: object = _NO_BBOX
) -> None:
    """Replace the bbox by the polygon around it."""
    x, y, width, height = entry.pop("bbox")
    x2, y2 = x + width, y + height
    polygon = [x, y, x2, y, x2, y2, x, y2]
    middle = x + width / 2
    halves = [[x, y, middle, y, middle, y2, x, y2], [middle, y, x2, y, x2, y2, middle, y2]]
    entry["segmentation"] = halves if split_in_two else [polygon]
    if bbox is not _NO_BBOX:
        entry["bbox"] = bbox


def _use_sparse_categories(document: Document) -> None:
    """Give the categories the ids 18 and 7, the last first."""
    new_ids = {1: 7, 2: 18}
    document["categories"] = [{"id": 18, "name": "dog"}, {"id": 7, "name": "cat"}]
    for entry in document["annotations"]:
        entry["category_id"] = new_ids[entry["category_id"]]


def _count_categories_from_zero(document: Document) -> None:
    for entry in (*document["categories"],):
        entry["id"] -= 1
    for entry in document["annotations"]:
        entry["category_id"] -= 1


def _add_super_category(document: Document) -> None:
    """Add the category that Roboflow adds for the whole project."""
    document["categories"].insert(0, {"id": 0, "name": "boats", "supercategory": "none"})
    for category in document["categories"][1:]:
        category["supercategory"] = "boats"


def _drop_key(group: str, key: str) -> Change:
    return lambda document: [entry.pop(key) for entry in document[group]]


def _set_key(group: str, key: str, value: object) -> Change:
    return lambda document: [entry.update({key: value}) for entry in document[group]]


_HARMLESS: dict[str, Change] = {
    "ids as whole floats": partial(_set_ids, convert=float),
    "ids as text": partial(_set_ids, convert=str),
    "image_id as text": partial(_set_ids, convert=str, keys="r"),
    "category_id as text": partial(_set_ids, convert=str, keys="k"),
    "image_id as float": partial(_set_ids, convert=float, keys="r"),
    "ids as text that is a float": partial(_set_ids, convert=lambda value: f"{value}.0"),  # type: ignore[arg-type]
    "image ids that are names": partial(_set_ids, convert=lambda value: f"img-{value}", keys="i"),  # type: ignore[arg-type]
    "large ids": partial(_set_ids, convert=lambda value: value + 10**15, keys="ia"),  # type: ignore[arg-type]
    "categories from zero": _count_categories_from_zero,
    "sparse categories": _use_sparse_categories,
    "Roboflow's category": _add_super_category,
    "no area": _drop_key("annotations", "area"),
    "no iscrowd": _drop_key("annotations", "iscrowd"),
    "no segmentation": _drop_key("annotations", "segmentation"),
    "no annotation ids": _drop_key("annotations", "id"),
    "no sizes": lambda document: [
        (entry.pop("width"), entry.pop("height")) for entry in document["images"]
    ],
    "iscrowd false": _set_key("annotations", "iscrowd", False),
    "iscrowd null": _set_key("annotations", "iscrowd", None),
    "iscrowd 0.0": _set_key("annotations", "iscrowd", 0.0),
    "iscrowd as text": _set_key("annotations", "iscrowd", "0"),
    "ignore 0": _set_key("annotations", "ignore", 0),
    "area null": _set_key("annotations", "area", None),
    "sizes as floats": _set_key("images", "width", 120.0),
    "segmentation only": change_annotations(_make_segmentation),
    "segmentation in two parts": change_annotations(partial(_make_segmentation, split_in_two=True)),
    "bbox null beside segmentation": change_annotations(partial(_make_segmentation, bbox=None)),
    "bbox empty beside segmentation": change_annotations(partial(_make_segmentation, bbox=())),
    "keypoints": lambda document: [
        entry.update(keypoints=[20, 20, 2, 30, 30, 1], num_keypoints=2)
        for entry in document["annotations"]
    ],
    "info and licenses": lambda document: document.update(info={"year": 2024}, licenses=[]),
    "images at the end": lambda document: document.update(images=document.pop("images")),
    "annotations reversed": lambda document: document["annotations"].reverse(),
    "images reversed": lambda document: document["images"].reverse(),
}


def _is_crowd(value: object, key: str = "iscrowd") -> Change:
    """Mark the first annotation of each document as a region to ignore."""
    return lambda document: document["annotations"][0].update({key: value})


def _with_crowd(*numbers: int) -> tuple[Photo, ...]:
    """Return the photos, the cat on those of some numbers as a region to ignore."""
    photos = []
    for photo in PHOTOS:
        cat, dog = photo.things
        if photo.number in numbers:
            cat = Thing(cat.label, cat.corners, crowd=True)
        photos.append(Photo(photo.number, photo.split, (cat, dog)))
    return tuple(photos)


def _make_values() -> list[Case]:
    cases = []
    for name, change in _HARMLESS.items():
        build = partial(build_coco, change=change)
        cases.append(Case(f"coco {name}", build, GIVEN))
    for value in (1, 1.0, "1", True):
        build = partial(build_coco, change=_is_crowd(value))
        cases.append(Case(f"coco iscrowd {value!r}", build, expect(_with_crowd(0, 4))))
    for value in (1, True, 1.0):
        build = partial(build_coco, change=_is_crowd(value, "ignore"))
        cases.append(Case(f"coco ignore {value!r}", build, expect(_with_crowd(0, 4))))

    rle = {"counts": [810, 30, 50, 30, 1480], "size": [80, 120]}
    build = partial(
        build_coco,
        change=lambda document: document["annotations"][0].update(iscrowd=1, segmentation=rle),
    )
    cases.append(Case("coco crowd region as RLE", build, expect(_with_crowd(0, 4))))
    return cases


def _normalize_boxes(document: Document) -> None:
    for entry in document["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x / 120, y / 80, width / 120, height / 80]


def _use_corners(document: Document) -> None:
    """Write corners where width and height belong."""
    for entry in document["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x, y, x + width, y + height]


def _use_centers(document: Document) -> None:
    """Write the center where the upper left corner belongs."""
    for entry in document["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x + 5 * width, y + height / 2, width, height]


def _rename_class(old: str, new: str, only: str = "") -> Change:
    """Rename a class in the documents whose first image is in a split."""

    def change(document: Document) -> None:
        if only and PHOTOS[document["images"][0]["id"] - 1].split != only:
            return
        for category in document["categories"]:
            if category["name"] == old:
                category["name"] = new

    return change


_REFUSED: dict[str, tuple[Change, tuple[str, ...]]] = {
    "corners as bbox": (_use_corners, ("width", "corner")),
    "fractions": (_normalize_boxes, ("fraction",)),
    "empty bbox": (_set_key("annotations", "bbox", []), ("bbox",)),
    "bbox of three numbers": (_set_key("annotations", "bbox", [1, 2, 3]), ("bbox", "four")),
    "bbox of five numbers": (_set_key("annotations", "bbox", [9, 9, 30, 30, 45]), ("bbox",)),
    "bbox as object": (_set_key("annotations", "bbox", {"x": 1}), ("bbox",)),
    "bbox as words": (_set_key("annotations", "bbox", ["a", "b", "c", "d"]), ("bbox",)),
    "negative width": (_set_key("annotations", "bbox", [50, 50, -30, 20]), ("width",)),
    "boxes outside": (_set_key("annotations", "bbox", [500, 50, 30, 20]), ("outside",)),
    "no file_name": (_drop_key("images", "file_name"), ("file_name",)),
    "LVIS's coco_url": (
        lambda document: [
            entry.update(coco_url=f"http://images.cocodataset.org/{entry.pop('file_name')}")
            for entry in document["images"]
        ],
        ("LVIS", "file_name"),
    ),
    "no categories": (lambda document: document.pop("categories"), ("categories",)),
    "empty categories": (lambda document: document.update(categories=[]), ("categor",)),
    "no images": (lambda document: document.pop("images"), ("images",)),
    "no annotations": (lambda document: document.pop("annotations"), ("annotations",)),
    "unknown category": (_set_key("annotations", "category_id", 9), ("category_id", "9")),
    "unknown image": (_set_key("annotations", "image_id", 99), ("image_id", "99")),
    "category null as VIA writes it": (_set_key("annotations", "category_id", None), ("category",)),
    "image id twice": (_set_key("images", "id", 1), ("image id",)),
    "names twice": (_set_key("images", "file_name", "p0.jpg"), ("file name|p0.jpg",)),
    "category id twice": (_set_key("categories", "id", 1), ("category id",)),
    "two categories of a name": (_set_key("categories", "name", "cat"), ("cat", "merge|rename")),
    "another size": (_set_key("images", "width", 640), ("640x80", "120x80")),
    "a class only in val": (_rename_class("dog", "fox", "val"), ("fox", "val")),
    "a typo in val": (_rename_class("dog", "dogg", "val"), ("dogg", "dog")),
    "another case in val": (_rename_class("dog", "Dog", "val"), ("Dog", "dog")),
    "an image that is missing": (
        lambda document: document["images"][0].update(file_name="gone.jpg"),
        ("gone.jpg", "missing"),
    ),
    "images out of the folder": (
        lambda document: document["images"][0].update(file_name="../../../../etc/passwd"),
        ("passwd",),
    ),
}


def _make_refused() -> list[Case]:
    cases = []
    for name, (change, words) in _REFUSED.items():
        build = partial(build_coco, change=change)
        cases.append(Case(f"coco {name}", build, refused=(".json|.jpg|classes", *words)))
    return cases


_Form = Literal["NFC", "NFD"]


def _normalize(form: _Form, text: str) -> str:
    return unicodedata.normalize(form, text)


def _write_text(content: bytes) -> Files:
    """Return a dataset whose annotations of all photos are some bytes."""
    files = build_coco(annotations="annotations.json", place=at("images/{name}"))
    return {**files, "annotations.json": content}


def _encode(encoding: str) -> Files:
    return _write_text(json.dumps(make_coco(PHOTOS)).encode(encoding))


def _repeat(old: str, new: str) -> Files:
    """Return a dataset whose text says a key twice at its first place."""
    text = json.dumps(make_coco(PHOTOS))
    return _write_text(text.replace(old, new, 1).encode())


def _make_rotations() -> list[Case]:
    cases = []
    for value, told in ((30.0, ("rotation",)), (0.0, ()), ("x", ())):
        change = change_annotations(
            lambda entry, value=value: entry.update(attributes={"rotation": value})  # type: ignore[misc]
        )
        build = partial(build_coco, change=change)
        cases.append(Case(f"coco rotation {value}", build, GIVEN, told=told))
    return cases


# A text that has the key twice, and what the refusal names.
_REPEATED: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "box": ('"bbox": [', '"bbox": [1, 1, 20, 20], "bbox": [', ("'bbox'", "id 1")),
    "box with a space": ('"bbox": [', '"bbox" : [1, 1, 20, 20], "bbox": [', ("'bbox'", "id 1")),
    "class": ('"category_id": 1', '"category_id": 1, "category_id": 2', ("'category_id'",)),
    "file name": ('"width": 120', '"file_name": "p1.jpg", "width": 120', ("'file_name'",)),
    "list": ('"categories"', '"annotations": [], "categories"', ("'annotations'",)),
    "key of an attribute": ('"iscrowd": 0', '"iscrowd": 0, "x": {"a": 1, "a": 2}', ("'a'",)),
    "key in a list of lists": ('"iscrowd": 0', '"iscrowd": 0, "x": [[{"a": 1, "a": 2}]]', ("'a'",)),
}
_NOT_REPEATED = {
    "a text like a key": ('"iscrowd": 0', '"iscrowd": 0, "note": "a\\": b\\" : c"'),
    "objects in lists of lists": ('"iscrowd": 0', '"iscrowd": 0, "x": [[{"a": 1}], [{"a": 2}]]'),
    "attributes": ('"iscrowd": 0', '"iscrowd": 0, "attributes": {"id": 3, "tags": [{"id": 4}]}'),
    "spaces": ('"bbox": [', '"bbox"  :  ['),
}


def _make_repeated_keys() -> list[Case]:
    cases = [
        Case(f"coco {name} twice", partial(_repeat, old, new), None, ("annotations.json", *words))
        for name, (old, new, words) in _REPEATED.items()
    ]
    for name, (old, new) in _NOT_REPEATED.items():
        cases.append(Case(f"coco no key twice but {name}", partial(_repeat, old, new), POOL))
    return cases


def _make_files() -> list[Case]:
    def compose(form: _Form) -> Files:
        files = build_coco(place=at("images/{split}/été {name}"), name=at("été {name}"))
        return {_normalize(form, path): content for path, content in files.items()}

    def name_in_other_form(name_form: _Form, file_form: _Form) -> Files:
        text = _normalize(name_form, "été {name}")
        path = _normalize(file_form, "images/{split}/été {name}")
        return build_coco(place=at(path), name=at(text))

    lists = to_json([make_coco(PHOTOS)])
    lines = b"\n".join(to_json(entry) for entry in make_coco(PHOTOS)["images"])
    digits = to_json(make_coco(PHOTOS)).replace(b'"id": 1,', b'"id": ' + b"9" * 5000 + b",")
    return [
        Case("coco with a BOM", lambda: rewrite(build_coco(), ".json", add_bom), GIVEN),
        Case("coco in UTF-16", partial(_encode, "utf-16"), POOL, ("annotations.json",)),
        Case("coco names in NFC", partial(compose, "NFC"), GIVEN),
        Case("coco names in NFD", partial(compose, "NFD"), GIVEN),
        Case("coco names NFC in JSON", partial(name_in_other_form, "NFC", "NFD"), GIVEN),
        Case("coco names NFD in JSON", partial(name_in_other_form, "NFD", "NFC"), GIVEN),
        Case("coco of a list", partial(_write_text, lists), POOL, ("annotations.json", "COCO")),
        Case("coco of lines", partial(_write_text, lines), refused=("annotations.json", "JSON")),
        Case(
            "coco cut short",
            partial(_write_text, lists[1:-40]),
            refused=("annotations.json", "JSON"),
        ),
        Case("coco that is empty", partial(_write_text, b""), refused=("annotations.json",)),
        Case(
            "coco of 5000 digits",
            partial(_write_text, digits),
            refused=("annotations.json", "digits"),
        ),
        Case("coco with upper extensions", lambda: rename(build_coco(), ".jpg", ".JPG"), GIVEN),
        Case(
            "coco with jpeg for jpg",
            lambda: rename(build_coco(), ".jpg", ".jpeg"),
            GIVEN,
            ("p0.jpg",),
        ),
    ]


COCO_VALUE_CASES = [
    *_make_values(),
    *_make_refused(),
    *_make_rotations(),
    *_make_repeated_keys(),
    *_make_files(),
]
