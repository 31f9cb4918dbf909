"""Finds and parses what names the classes of a YOLO dataset, and the images of its splits.

That is data.yaml, in the dataset's folder or above it (yolo_outer_settings.py), or files of Darknet
and of labeling tools (yolo_class_files.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detreg.data.findings import BadEntryError, FindingKind, ProblemCollector, Severity
from detreg.data.formats.lookup import find_duplicates
from detreg.data.formats.tree import FileTree, split_name
from detreg.data.formats.yolo_class_files import (
    find_class_files,
    read_class_names,
    read_darknet_document,
)
from detreg.data.formats.yolo_outer_settings import (
    find_inside,
    find_outer_settings,
    is_outer,
)
from detreg.data.splits import SPLITS, is_split_name, parse_split
from detreg.documents import DocumentError
from detreg.errors import DataError, quote, shorten
from detreg.files import read_regular
from detreg.yaml_documents import MAX_YAML_BYTES, parse_yaml

_USUAL_NAMES = ("data.yaml", "data.yml", "dataset.yaml")
_MAX_DIGITS = 9
_NAMES_NEEDED = "the file needs the class names, as in `names: [boat, buoy]`; add them"


@dataclass(frozen=True)
class YoloSettings:
    """Classes and places of a dataset.

    source: the path of the file, relative to the dataset's folder.
    classes: the class names by the number that label files use, in the order of the numbers.
    path: the folder that places are relative to, as the file states it; may be empty.
    places: for each split that the file names, folders of images or text files that list them.
    """

    source: str
    classes: Mapping[int, str]
    path: str
    places: Mapping[str, tuple[str, ...]]


def find_settings_file(tree: FileTree) -> str | None:
    """Return the path of data.yaml, or of another YAML file with class names; None without one.

    The one that lies in the fewest folders is taken, and one above the folder where nothing in it
    names classes. Raises BadEntryError where several of these differ in their classes.
    """
    paths = tree.select(".yaml", ".yml")
    for name in _USUAL_NAMES:
        if name in paths:
            return name

    found = [path for path in paths if _is_settings_file(tree, path)]
    depth = min((path.count("/") for path in found), default=0)
    found = [path for path in found if path.count("/") == depth]
    if not found and tree.select(".txt") and not find_class_files(tree):
        found = find_outer_settings(tree)
    if len(found) > 1:
        contents = [_parse_yaml(tree, path).get("names") for path in found]
        if any(content != contents[0] for content in contents):
            raise BadEntryError(
                FindingKind.DUPLICATE_ENTRY,
                f"{shorten(found[0])} and {shorten(found[1])} both name classes, and differ; "
                "keep the one that belongs to the labels",
            )
    return found[0] if found else None


def read_settings(tree: FileTree, path: str | None, problems: ProblemCollector) -> YoloSettings:
    """Return the settings of a dataset, from its YAML file where it has one.

    Raises BadEntryError where there are none of use.
    """
    class_files = find_class_files(tree)
    if path is not None:
        settings = _read_yaml_settings(tree, path, problems)
        _warn_of_other_names(tree, class_files, settings, problems)
        return settings

    if not class_files:
        raise BadEntryError(
            FindingKind.INVALID_CLASS,
            "the label files number the classes, and nothing names them; add data.yaml with "
            "`names: [boat, buoy]`, or classes.txt with a name in each line",
        )
    source, document = read_darknet_document(tree, class_files)
    classes = _parse_classes(document, source, problems)
    return YoloSettings(source, classes, "", _parse_places(document))


def _is_settings_file(tree: FileTree, path: str) -> bool:
    """Whether a YAML file is called data.yaml or the like, or names classes."""
    if split_name(path)[1] in _USUAL_NAMES:
        return True
    try:
        return isinstance(_parse_yaml(tree, path).get("names"), list | dict)
    except (BadEntryError, DocumentError, DataError, OSError):
        return False


def _read_yaml_settings(tree: FileTree, path: str, problems: ProblemCollector) -> YoloSettings:
    """Return the content of data.yaml."""
    document = _parse_yaml(tree, path)
    if document.get("kpt_shape") is not None:
        raise BadEntryError(
            FindingKind.MALFORMED_FILE,
            "this is a YOLO pose dataset (kpt_shape), whose labels hold keypoints behind the box; "
            "export it for detection, or remove kpt_shape and all columns but the first five",
        )
    classes = _parse_classes(document, path, problems)
    base = _format_path(document.get("path") or "")
    places = _parse_places(document)
    if is_outer(path):
        message = "class names and splits taken from a YAML file above the folder that names it"
        problems.add(FindingKind.FILE_ELSEWHERE, Severity.NOTE, path, message)
        base, places = "", _keep_places_inside(tree, path, base, places)
    return YoloSettings(path, classes, base, places)


def _keep_places_inside(
    tree: FileTree, source: str, base: str, places: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Return those places of settings above the folder that are in it, relative to it."""
    kept: dict[str, tuple[str, ...]] = {}
    for split, stated in places.items():
        found = [find_inside(tree, source, base, place) for place in stated]
        inside = tuple(place for place in found if place is not None)
        if inside:
            kept[split] = inside
    return kept


def _warn_of_other_names(
    tree: FileTree, class_files: Sequence[str], settings: YoloSettings, problems: ProblemCollector
) -> None:
    """Add a warning for each file of class names that numbers them otherwise than data.yaml."""
    names = list(settings.classes.values())
    for path in class_files:
        try:
            others = read_class_names(tree, path)
        # Nothing depends on this file.
        except (DocumentError, DataError, OSError):
            continue
        if others != names[: len(others)]:
            problems.add(
                FindingKind.DUPLICATE_CLASS,
                Severity.WARNING,
                path,
                f"the classes of {settings.source} are used, which classes.txt and the like number "
                "otherwise; see which of them the labels were made with, and remove the other",
            )


def _parse_yaml(tree: FileTree, path: str) -> Mapping[str, object]:
    """Return the mapping in the file."""
    document = parse_yaml(read_regular(tree.folder / path, MAX_YAML_BYTES))
    if not isinstance(document, dict):
        raise BadEntryError(FindingKind.MALFORMED_FILE, _NAMES_NEEDED)
    return document


def _parse_classes(
    document: Mapping[str, object], source: str, problems: ProblemCollector
) -> dict[int, str]:
    """Return the class names by number, in the order of the numbers."""
    names = _number_names(document.get("names"))
    classes = {}
    for number, name in names.items():
        if not isinstance(number, int):
            raise BadEntryError(
                FindingKind.INVALID_CLASS,
                f"names has keys that are not whole numbers ({quote(list(names))}); "
                "number the classes from 0",
            )
        # YAML reads names such as `no` or `1` as other things than text.
        if not isinstance(name, str):
            raise BadEntryError(
                FindingKind.INVALID_CLASS,
                "names has entries that YAML does not read as text "
                f"({quote(list(names.values()))}); "
                "put them in quotes",
            )
        classes[number] = name

    if "nc" in document and _parse_number(document["nc"]) != len(classes):
        problems.add_error(
            FindingKind.CLASS_COUNT_MISMATCH,
            source,
            f"nc says {quote(document['nc'])} classes and names has {len(classes)}; "
            "correct one of them",
        )
    for name in find_duplicates(classes.values()):
        problems.add_error(
            FindingKind.DUPLICATE_CLASS,
            source,
            f"two classes are named {quote(name)}; merge them or rename one",
        )
    return {number: classes[number] for number in sorted(classes)}


def _number_names(names: object) -> dict[object, object]:
    """Return the value of "names", a list or a mapping, as a mapping from numbers to names."""
    if isinstance(names, list):
        return dict(enumerate(names))
    if isinstance(names, dict):
        return {_parse_number(key): name for key, name in names.items()}
    raise BadEntryError(FindingKind.MALFORMED_FILE, _NAMES_NEEDED)


def _parse_number(value: object) -> object:
    """Return a number that is written as text as a number, and anything else as it is."""
    is_digits = isinstance(value, str) and value.isdecimal() and len(value) <= _MAX_DIGITS
    return int(str(value)) if is_digits else value


def _parse_places(document: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    """Return the places of each split that the file names; each is one path or a list of them."""
    places: dict[str, tuple[str, ...]] = {}
    for key in sorted(map(str, document)):
        split = parse_split(key) if is_split_name(key) else None
        entry = document.get(key)
        # "val" comes before "valid" in this order, and is what YOLO calls it.
        if split is None or split in places or not entry:
            continue
        entries = entry if isinstance(entry, list) else [entry]
        places[split] = tuple(_format_path(item) for item in entries)
    return {split: places[split] for split in SPLITS if split in places}


def _format_path(value: object) -> str:
    """Return a path as text; what YAML reads as something else cannot be meant."""
    return value if isinstance(value, str) else quote(value)
