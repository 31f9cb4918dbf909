"""Pascal VOC (http://host.robots.ox.ac.uk/pascal/VOC): an XML file per image, and lists per split.

An XML file is known by its root `<annotation>`, wherever it lies, and an image belongs to it by its
stem. Splits come from lists such as `ImageSets/Main/train.txt`, else from the names of folders.

This module knows which images belong to which split; voc_lists.py reads the lists, and voc_file.py
the file of one image.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from detreg.data.findings import FindingKind, ProblemCollector, Severity
from detreg.data.formats.evidence import Evidence
from detreg.data.formats.file_index import Hint
from detreg.data.formats.lookup import ImageIndex, ImageLocator
from detreg.data.formats.tree import FileTree, get_folder
from detreg.data.formats.voc_file import read_annotation_file, write_annotation_file
from detreg.data.formats.voc_lists import read_split_lists
from detreg.data.formats.voc_outlines import read_outlines as read_outlines
from detreg.data.formats.voc_outlines import write_masks
from detreg.data.images import AnnotatedImage
from detreg.data.raw import POOL, ImageRecord, RawDataset
from detreg.data.splits import choose_splits_by_folder, parse_split, parse_split_of_folder

EXPECTED_FILES = "Pascal VOC (<annotation> in .xml, as Annotations/*.xml)"

_HEAD = 4096  # bytes
_ROOT = re.compile(rb"<annotation[\s>/]")


def detect(tree: FileTree) -> Evidence:
    """Return whether there is an XML file whose root is `<annotation>`."""
    is_found = any(_is_voc(tree, path) for path in tree.select(".xml"))
    return Evidence.SURE if is_found else Evidence.NONE


def read(tree: FileTree) -> RawDataset:
    """Read the XML file of every listed image.

    Classes are the sorted names of all objects. Difficult objects become crowd regions.
    """
    problems = ProblemCollector()
    paths = _find_annotation_files(tree, problems)
    listed = read_split_lists(tree, paths, problems)
    if listed:
        _note_unlisted(paths, listed, problems)

    index = ImageIndex(tree)
    splits: dict[str, list[ImageRecord]] = {}
    if listed:
        for split, sources in listed.items():
            splits[split] = _read_annotation_files(sources, index, problems)
    else:
        splits = _read_by_folder(paths, index, problems)

    index.check_companions(problems)
    # VOC has no list of classes: those are the classes that some object has.
    labels: set[str] = set()
    for records in splits.values():
        for record in records:
            labels.update(box.label for box in record.boxes)
    findings = tuple(problems.findings)
    return RawDataset("voc", tree.folder, tuple(sorted(labels)), splits, findings)


def write(
    folder: Path,
    classes: Sequence[str],  # noqa: ARG001 (VOC has no list of classes)
    splits: Mapping[str, Sequence[AnnotatedImage]],
) -> None:
    """Write `Annotations/`, `JPEGImages/`, `ImageSets/Main/<split>.txt`, and any masks."""
    annotation_folder = folder / "Annotations"
    image_folder = folder / "JPEGImages"
    list_folder = folder / "ImageSets" / "Main"
    for child in (annotation_folder, image_folder, list_folder):
        child.mkdir(parents=True, exist_ok=True)

    for split, images in splits.items():
        names = []
        for image in images:
            name = Path(image.file_name).stem
            names.append(name)
            image.store(image_folder)
            write_annotation_file(annotation_folder / f"{name}.xml", image)
            write_masks(folder, name, image)

        lines = "".join(f"{name}\n" for name in names)
        (list_folder / f"{split}.txt").write_text(lines, encoding="utf-8")


def _is_voc(tree: FileTree, path: str) -> bool:
    """Whether the root of an XML file is `<annotation>`, also in UTF-16."""
    head = tree.read_head(path, _HEAD).replace(b"\0", b"")
    return _ROOT.search(head) is not None


def _find_annotation_files(tree: FileTree, problems: ProblemCollector) -> list[str]:
    """Return the XML files of each folder that has one of VOC.

    The others in such a folder are broken, and must not be passed over. Where there is a folder
    Annotations, or folders of splits, copies that lie elsewhere are left out with a note.
    """
    paths_by_folder: dict[str, list[str]] = {}
    for path in tree.select(".xml"):
        paths_by_folder.setdefault(get_folder(path), []).append(path)

    found = []
    for paths in paths_by_folder.values():
        if any(_is_voc(tree, path) for path in paths):
            found.extend(paths)

    layout = min(map(_rank_layout, found))
    for path in sorted(found):
        if _rank_layout(path) != layout:
            problems.add(
                FindingKind.UNUSED_FILE,
                Severity.NOTE,
                path,
                "annotation file in another folder than the others left out",
            )
    return sorted(path for path in found if _rank_layout(path) == layout)


def _rank_layout(path: str) -> int:
    """Return which of the usual places an XML file is in; the first that is used counts."""
    folder = get_folder(path)
    top = folder.partition("/")[0]
    if top.lower() == "annotations":
        return 0
    return 1 if parse_split(top) is not None else 2


def _note_unlisted(
    paths: Sequence[str], listed: Mapping[str, Sequence[str]], problems: ProblemCollector
) -> None:
    """Add a note for each XML file that no list names."""
    used = {path for sources in listed.values() for path in sources}
    for path in paths:
        if path not in used:
            problems.add(
                FindingKind.UNUSED_FILE,
                Severity.NOTE,
                path,
                "annotated image that no list of a split names left out",
            )


def _read_by_folder(
    paths: Sequence[str], index: ImageIndex, problems: ProblemCollector
) -> dict[str, list[ImageRecord]]:
    """Return the records of each split that the folders of XML files or else of images name."""
    splits: dict[str, list[ImageRecord]] = {}
    for split, path in zip(choose_splits_by_folder(map(get_folder, paths)), paths, strict=True):
        splits.setdefault(split, []).extend(_read_annotation_files((path,), index, problems))
    if set(splits) != {POOL}:
        return splits

    root = f"{index.tree.folder}/"
    records = splits.pop(POOL)
    folders = [get_folder(str(record.image).removeprefix(root)) for record in records]
    for split, record in zip(choose_splits_by_folder(folders), records, strict=True):
        splits.setdefault(split, []).append(record)
    return splits


def _read_annotation_files(
    sources: Sequence[str], index: ImageIndex, problems: ProblemCollector
) -> list[ImageRecord]:
    """Return the records of XML files."""
    records = []
    for source in sources:
        # A path in the file is relative to its folder or to the dataset's.
        # The split of a list says nothing about folders.
        hint = Hint(source, parse_split_of_folder(get_folder(source)))
        of_image = problems.for_image(source)
        locator = ImageLocator(index, (get_folder(source), ""), hint, of_image)
        with of_image.catch_bad_entry(source):
            path = index.tree.folder / source
            records.append(read_annotation_file(path, source, locator, of_image))
    return records
