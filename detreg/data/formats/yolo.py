"""YOLO (https://docs.ultralytics.com/datasets/detect): data.yaml, pictures, and one text file of labels per picture.

A label is a line `class x y width height` (centre and size) or `class x1 y1 x2 y2 x3 y3 ...` (a polygon, taken as the box around it),
in fractions of the picture. A picture without a label file shows no object.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import dropwhile
from pathlib import Path
from typing import Any

import yaml

from detreg.data.raw import (
    POOL,
    AnnotatedImage,
    BadEntry,
    Box,
    Corners,
    ProblemCollector,
    RawDataset,
    Record,
    duplicates,
    locate,
    pictures_in,
)
from detreg.data.splits import SPLITS, split_of

NO_TEST = "test split that data.yaml names but the folder lacks left out"
LOOKED_FOR = "YOLO (data.yaml with names)"


def detect(folder: Path) -> bool:
    """Whether `folder` holds a data.yaml, or another YAML file with class names beside pictures and labels."""
    return _settings_file(folder) is not None


def read(folder: Path) -> RawDataset:
    """Reads data.yaml, the pictures it names (or those of images/train, images/val ...), and their labels."""
    notes = ProblemCollector()
    classes: dict[int, str] = {}
    splits: dict[str, list[Record]] = {}
    file = _settings_file(folder) or folder / "data.yaml"
    with notes.at(file.name):
        settings = _settings(file)
        classes = _classes(settings, notes, file.name)
        for of, pictures in _pictures(folder, settings, notes, file.name).items():
            splits[of] = [_record(picture, folder, classes, notes) for picture in pictures]
    _refuse_orphans(folder, splits, notes)
    return RawDataset(
        "yolo",
        folder,
        tuple(classes.values()),
        splits,
        tuple(notes.problems),
        notes.repairs,
        fractions=True,
    )


def write(
    folder: Path, classes: Sequence[str], splits: Mapping[str, Sequence[AnnotatedImage]]
) -> None:
    """Writes `data.yaml`, `images/<split>/` and `labels/<split>/`."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**{split: f"images/{split}" for split in splits}, "names": list(classes)}
    (folder / "data.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    for split, labelled in splits.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for picture in labelled:
            (folder / "images" / split / picture.file_name).write_bytes(picture.content)
            lines = [_line(box, classes, picture) for box in picture.boxes]
            (folder / "labels" / split / f"{Path(picture.file_name).stem}.txt").write_text(
                "".join(lines), encoding="utf-8"
            )


def _line(box: Box, classes: Sequence[str], picture: AnnotatedImage) -> str:
    if box.crowd:
        raise BadEntry("YOLO has no crowd regions; write the dataset as COCO or VOC")
    x1, y1, x2, y2 = box.corners
    width, height = picture.width, picture.height
    numbers = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return f"{classes.index(box.label)} {' '.join(f'{number:.8g}' for number in numbers)}\n"


def _settings_file(folder: Path) -> Path | None:
    usual = [
        folder / name
        for name in ("data.yaml", "data.yml", "dataset.yaml")
        if (folder / name).is_file()
    ]
    others = sorted(folder.glob("*.yaml")) if (folder / "labels").is_dir() else []
    return next(iter([*usual, *others]), None)


def _settings(file: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadEntry(f"line {line} is not YAML ({error.problem}); correct it") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadEntry(f"the file is not YAML ({error}); write it again") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("names"), list | dict):
        raise BadEntry("the file needs the class names, as in `names: [boat, buoy]`; add them")
    return settings


def _classes(settings: dict[str, Any], notes: ProblemCollector, source: str) -> dict[int, str]:
    names = settings["names"]
    classes = dict(enumerate(names)) if isinstance(names, list) else names
    if not all(isinstance(number, int) for number in classes):
        raise BadEntry(
            f"names has keys that are not whole numbers ({list(classes)}); number the classes from 0"
        )
    # YAML reads names such as `no` or `1` as other things than text.
    if not all(isinstance(name, str) for name in classes.values()):
        raise BadEntry(
            f"names has entries that YAML does not read as text ({list(classes.values())}); put them in quotes"
        )
    if "nc" in settings and settings["nc"] != len(classes):
        notes.problems.append(
            f"{source}: nc says {settings['nc']} classes and names has {len(classes)}; correct one of them"
        )
    for name in duplicates(classes.values()):
        notes.problems.append(f"{source}: two classes are named {name!r}; merge them or rename one")
    return {number: classes[number] for number in sorted(classes)}


def _pictures(
    folder: Path, settings: dict[str, Any], notes: ProblemCollector, source: str
) -> dict[str, list[Path]]:
    """The picture files of each split that data.yaml names, else of each folder that means a split, else all as one pool."""
    named = {split: settings.get(split) for split in SPLITS}
    named["val"] = named["val"] or settings.get("valid")
    if any(named.values()):
        found: dict[str, list[Path]] = {}
        for split, entry in named.items():
            for name in (entry if isinstance(entry, list) else [entry]) if entry else []:
                with notes.at(f"{source} {split}"):
                    place = _resolve(str(name), folder, settings)
                    if place:
                        found.setdefault(split, []).extend(_listed(place, folder, notes))
                    elif split == "test":
                        # Roboflow names a test split whether the export has one or not.
                        notes.repairs[NO_TEST] += 1
                    else:
                        raise BadEntry(
                            f"{name!r} is not in the dataset's folder; copy the pictures into it and name them relative to it"
                        )
        return {split: sorted(set(pictures)) for split, pictures in found.items()}
    children = [child for base in (folder, folder / "images") for child in sorted(base.glob("*/"))]
    return {meant: pictures_in(child) for child in children if (meant := split_of(child.name))} or {
        POOL: pictures_in(folder)
    }


def _resolve(name: str, folder: Path, settings: dict[str, Any]) -> Path | None:
    """Where an entry of data.yaml points inside the folder: such files often still hold the paths of the machine they come from."""
    inner = "/".join(
        dropwhile(lambda part: part in ("..", "/"), Path(name.replace("\\", "/")).parts)
    )
    roots = [folder / str(settings.get("path") or ""), folder]
    candidates = [Path(os.path.normpath(root / tail)) for tail in (name, inner) for root in roots]
    return next(
        (
            candidate
            for candidate in candidates
            if candidate.is_relative_to(folder) and candidate.exists()
        ),
        None,
    )


def _listed(place: Path, folder: Path, notes: ProblemCollector) -> Iterator[Path]:
    """The pictures in a folder, or those that a text file lists, one a line."""
    if place.is_dir():
        yield from pictures_in(place)
        return
    for number, line in enumerate(
        place.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1
    ):
        if line.strip():
            with notes.at(f"{place.relative_to(folder).as_posix()} line {number}"):
                yield locate(line.strip(), [folder, place.parent], folder)


def _label_file(picture: Path, folder: Path) -> Path:
    """YOLO's rule: the last `images` of the path becomes `labels`; a picture elsewhere has its labels beside it."""
    parts = list(picture.relative_to(folder).parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return folder.joinpath(*parts).with_suffix(".txt")


def _record(
    picture: Path, folder: Path, classes: Mapping[int, str], notes: ProblemCollector
) -> Record:
    file = _label_file(picture, folder)
    source = file.relative_to(folder).as_posix()
    boxes = []
    lines = (
        file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        if file.is_file()
        else []
    )
    for number, line in enumerate(lines, start=1):
        if line.strip():
            with notes.at(f"{source} line {number}"):
                boxes.append(_box(line, number, classes))
    return Record(picture, source, tuple(boxes))


def _box(line: str, number: int, classes: Mapping[int, str]) -> Box:
    try:
        values = [float(word) for word in line.split()]
    except ValueError as error:
        raise BadEntry(
            f"{line!r} is not a row of numbers; write `class x y width height`"
        ) from error
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        raise BadEntry(
            f"has {len(values)} numbers; write `class x y width height`, or a class and a polygon of three points or more"
        )
    if values[0] not in classes:
        raise BadEntry(
            f"class {values[0]:g} is not among the {len(classes)} names of data.yaml; correct it or add the name"
        )
    label = classes[int(values[0])]
    # A box may reach a little over the edge; values far beyond 1 are pixels.
    if any(abs(value) > 2 for value in values[1:]):
        raise BadEntry(
            f"(class {label}) {line!r} is not in fractions of the picture; divide x by its width and y by its height"
        )
    return Box(_corners(values[1:]), label, where=f"line {number} (class {label})")


def _corners(values: Sequence[float]) -> Corners:
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])


def _refuse_orphans(
    folder: Path, splits: Mapping[str, Sequence[Record]], notes: ProblemCollector
) -> None:
    """Labels whose picture is gone: pictures are looked up first in this format, so nothing else would notice."""
    used = {folder / record.source for records in splits.values() for record in records}
    pictures = {_label_file(picture, folder) for picture in pictures_in(folder)}
    for file in sorted(folder.glob("labels/**/*.txt")):
        if file not in used and file not in pictures and file.name != "classes.txt":
            name = file.relative_to(folder).as_posix()
            notes.problems.append(
                f"{name}: the picture of this label file is missing; add it or remove the labels"
            )
