"""Pascal VOC (http://host.robots.ox.ac.uk/pascal/VOC): one XML file per picture, lists of picture names per split.

Accepted: `Annotations/*.xml` with `JPEGImages/` (also `annotations/`, `images/`), or XML files beside their pictures in a folder per split
(`train/`, `valid/`), as Roboflow exports them.

VOC's own pictures count pixels from 1 and include the last one; most tools that write VOC files today count from 0, and nothing in a file
tells which. The four numbers are therefore taken as they are, as MMDetection's XMLDataset does, and at worst a box is off by one pixel.
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path

from detreg.data.raw import (
    MISSING_SIZE,
    POOL,
    AnnotatedImage,
    BadEntry,
    Box,
    ProblemCollector,
    RawDataset,
    Record,
    locate,
    pictures_in,
)
from detreg.data.splits import SPLITS, split_of

LOOKED_FOR = "Pascal VOC (Annotations/*.xml, or train/*.xml)"

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def detect(folder: Path) -> bool:
    """Whether `folder` holds XML files where VOC puts them."""
    return bool(_annotation_folder(folder) or _split_folders(folder))


def read(folder: Path) -> RawDataset:
    """Reads every listed picture's XML file; classes are the sorted names of all objects, difficult objects become crowd regions."""
    notes = ProblemCollector()
    splits: dict[str, list[Record]] = {}
    annotations = _annotation_folder(folder)
    if annotations:
        roots = [folder / "JPEGImages", folder / "images", annotations, folder]
        for split, names in _lists(folder, annotations, notes).items():
            splits[split] = _records(
                [annotations / f"{name}.xml" for name in names], roots, folder, notes
            )
    for split, child in _split_folders(folder).items() if not annotations else ():
        splits[split] = _records(sorted(child.glob("*.xml")), [child], folder, notes)
    classes = sorted(
        {box.label for records in splits.values() for record in records for box in record.boxes}
    )
    return RawDataset("voc", folder, tuple(classes), splits, tuple(notes.problems), notes.repairs)


def write(
    folder: Path, classes: Sequence[str], splits: Mapping[str, Sequence[AnnotatedImage]]
) -> None:  # noqa: ARG001 (VOC lists no classes)
    """Writes `Annotations/`, `JPEGImages/` and `ImageSets/Main/<split>.txt`."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for split, pictures in splits.items():
        names = [Path(picture.file_name).stem for picture in pictures]
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(
            "".join(f"{name}\n" for name in names), encoding="utf-8"
        )
        for name, picture in zip(names, pictures, strict=True):
            (folder / "JPEGImages" / picture.file_name).write_bytes(picture.content)
            tree = ET.ElementTree(_element(picture))
            ET.indent(tree)
            tree.write(folder / "Annotations" / f"{name}.xml", encoding="utf-8")


def _element(picture: AnnotatedImage) -> ET.Element:
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = picture.file_name
    size = ET.SubElement(root, "size")
    for key, value in (("width", picture.width), ("height", picture.height), ("depth", 3)):
        ET.SubElement(size, key).text = str(value)
    for box in picture.boxes:
        thing = ET.SubElement(root, "object")
        ET.SubElement(thing, "name").text = box.label
        ET.SubElement(thing, "difficult").text = str(int(box.crowd))
        corners = ET.SubElement(thing, "bndbox")
        for key, corner in zip(_CORNERS, box.corners, strict=True):
            ET.SubElement(corners, key).text = f"{corner:.10g}"
    return root


def _annotation_folder(folder: Path) -> Path | None:
    return next(
        (
            file.parent
            for name in ("Annotations", "annotations")
            for file in folder.glob(f"{name}/*.xml")
        ),
        None,
    )


def _split_folders(folder: Path) -> dict[str, Path]:
    """Folders that mean a split and hold XML files, by split."""
    children = [child for child in sorted(folder.glob("*/")) if next(child.glob("*.xml"), None)]
    return {split: child for child in children if (split := split_of(child.name))}


def _lists(folder: Path, annotations: Path, notes: ProblemCollector) -> dict[str, list[str]]:
    """The picture names of each split: those of ImageSets/Main, or all as one pool where there are no lists.

    trainval is looked at only where train or val is missing: it stands for train, or for what the other list leaves of it.
    """
    lists = folder / "ImageSets" / "Main"
    found = {
        split: _names(lists / f"{split}.txt")
        for split in (*SPLITS, "trainval")
        if (lists / f"{split}.txt").is_file()
    }
    both = found.pop("trainval", [])
    if both and not ("train" in found and "val" in found):
        missing = "val" if "train" in found else "train"
        taken = {name for split in ("train", "val") for name in found.get(split, [])}
        found[missing] = [name for name in both if name not in taken]
    if not found:
        return {POOL: sorted(file.stem for file in annotations.glob("*.xml"))}
    for split, names in found.items():
        for name in sorted(name for name in names if not (annotations / f"{name}.xml").is_file()):
            notes.problems.append(
                f"ImageSets/Main/{split}.txt: {name} has no {annotations.name}/{name}.xml; "
                "add the file (one without objects where the picture shows none) or remove the name"
            )
    return {
        split: [name for name in names if (annotations / f"{name}.xml").is_file()]
        for split, names in found.items()
    }


def _names(file: Path) -> list[str]:
    return sorted(
        {
            line.split()[0]
            for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
            if line.strip()
        }
    )


def _records(
    files: Sequence[Path], roots: Sequence[Path], folder: Path, notes: ProblemCollector
) -> list[Record]:
    pictures = {picture.stem: picture for root in reversed(roots) for picture in pictures_in(root)}
    records = []
    for file in files:
        source = file.relative_to(folder).as_posix()
        with notes.at(source):
            records.append(_record(file, source, pictures.get(file.stem), roots, folder, notes))
    return records


def _record(
    file: Path,
    source: str,
    picture: Path | None,
    roots: Sequence[Path],
    folder: Path,
    notes: ProblemCollector,
) -> Record:
    try:
        root = ET.fromstring(file.read_bytes())
    # An encoding that Python does not know is a LookupError or a ValueError.
    except (ET.ParseError, LookupError, ValueError) as error:
        raise BadEntry(f"the file is not XML ({error}); write it again") from error
    if root.tag != "annotation":
        raise BadEntry(f"the file holds <{root.tag}> and no <annotation>; export it as Pascal VOC")
    boxes = []
    for number, thing in enumerate(root.findall("object"), start=1):
        with notes.at(f"{source} object {number}"):
            boxes.append(_box(thing, number))
    # The file's own name says which picture it is; <filename> is often that of a picture renamed since.
    name = root.findtext("filename") or f"{file.stem}.jpg"
    width, height = (_size(root, key) for key in ("width", "height"))
    notes.repairs[MISSING_SIZE] += width is None or height is None
    return Record(picture or locate(name, roots, folder), source, tuple(boxes), width, height)


def _size(root: ET.Element, key: str) -> int | None:
    text = (root.findtext(f"size/{key}") or "0").strip()
    try:
        return round(float(text)) or None
    except (ValueError, OverflowError) as error:
        raise BadEntry(f"{key} {text!r} is not a number; correct or remove it") from error


def _box(thing: ET.Element, number: int) -> Box:
    label = thing.findtext("name") or ""
    texts = [thing.findtext(f"bndbox/{key}") for key in _CORNERS]
    try:
        x1, y1, x2, y2 = (float(text or "") for text in texts)
    except ValueError as error:
        raise BadEntry(
            f"(class {label}) bndbox {texts} is not four numbers; write xmin, ymin, xmax and ymax in pixels"
        ) from error
    difficult = (thing.findtext("difficult") or "0").strip() not in ("0", "false", "False")
    return Box((x1, y1, x2, y2), label, difficult, f"object {number} (class {label})")
