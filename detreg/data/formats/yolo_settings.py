"""Parses data.yaml of a YOLO dataset: class names, and where the images of each split are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from detreg.data.findings import BadEntryError, FindingKind, ProblemCollector
from detreg.data.formats.lookup import find_duplicates
from detreg.data.splits import SPLITS
from detreg.errors import quote
from detreg.files import read_regular
from detreg.yaml_documents import MAX_YAML_BYTES, parse_yaml

_USUAL_NAMES = ("data.yaml", "data.yml", "dataset.yaml")
_NAMES_NEEDED = "the file needs the class names, as in `names: [boat, buoy]`; add them"


@dataclass(frozen=True)
class YoloSettings:
    """The content of data.yaml.

    source: the name of the file.
    classes: the class names by the number that label files use, in the order of the numbers.
    path: the folder that places are relative to, as the file states it; may be empty.
    places: for each split that the file names, folders of images or text files that list them.
    """

    source: str
    classes: Mapping[int, str]
    path: str
    places: Mapping[str, tuple[str, ...]]


def find_settings_file(folder: Path) -> Path | None:
    """Return the path of data.yaml, None where there is none.

    Any YAML file is taken for it where there is a folder of labels.
    """
    for name in _USUAL_NAMES:
        path = folder / name
        if path.is_file():
            return path
    if (folder / "labels").is_dir():
        for path in sorted(folder.glob("*.yaml")):
            return path
    return None


def read_settings(path: Path, problems: ProblemCollector) -> YoloSettings:
    """Return the content of data.yaml. Raises BadEntryError where it cannot be used."""
    document = _parse_document(path)
    classes = _parse_classes(document, path.name, problems)
    base = _format_path(document.get("path") or "")
    return YoloSettings(path.name, classes, base, _parse_places(document))


def _parse_document(path: Path) -> Mapping[str, object]:
    """Return the mapping in the file."""
    document = parse_yaml(read_regular(path, MAX_YAML_BYTES))
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

    if "nc" in document and document["nc"] != len(classes):
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
        return names
    raise BadEntryError(FindingKind.MALFORMED_FILE, _NAMES_NEEDED)


def _parse_places(document: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    """Return the places of each split that the file names; each is one path or a list of them."""
    places = {}
    for split in SPLITS:
        entry = document.get(split)
        if split == "val" and not entry:
            entry = document.get("valid")
        if not entry:
            continue
        entries = entry if isinstance(entry, list) else [entry]
        places[split] = tuple(_format_path(item) for item in entries)
    return places


def _format_path(value: object) -> str:
    """Return a path as text; what YAML reads as something else cannot be meant."""
    return value if isinstance(value, str) else quote(value)
