"""The formats that a dataset may come in, one module each with `detect`, `read` and `write`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from detreg.data.findings import Finding, FindingKind, ProblemCollector, Severity
from detreg.data.formats import coco, voc, yolo
from detreg.data.formats.evidence import Evidence
from detreg.data.formats.file_index import fold
from detreg.data.formats.foreign import find_foreign_format
from detreg.data.formats.readable_names import link_readable_names
from detreg.data.formats.tree import FileTree, get_folder, get_stem, list_files
from detreg.data.images import AnnotatedImage
from detreg.data.outlines import Outline
from detreg.data.raw import RawDataset
from detreg.data.splits import parse_split_of_folder
from detreg.errors import DataError


class Format(Protocol):
    """What each module of this package offers."""

    EXPECTED_FILES: str
    """Name of the format, and the files by which it is known, in words for users."""

    def detect(self, tree: FileTree) -> Evidence:
        """Return how sure it is that the files are of the format."""

    def read(self, tree: FileTree) -> RawDataset:
        """Return the dataset; what is wrong becomes findings, not exceptions."""

    def write(
        self, folder: Path, classes: Sequence[str], splits: Mapping[str, Sequence[AnnotatedImage]]
    ) -> None:
        """Write a dataset into `folder`, which is made where it is missing."""

    def read_outlines(
        self, folder: Path, source: str, problems: ProblemCollector
    ) -> Mapping[str, Outline]:
        """Return the outlines in an annotation file, by the places of their boxes in it.

        folder: of the dataset; `source` is the path of the file in it.
        """


FORMATS: Mapping[str, Format] = {"yolo": yolo, "voc": voc, "coco": coco}
"""In the order in which they are chosen where a folder holds the annotations of several."""

_MAX_ENTRIES_SHOWN = 12


def read(folder: Path, cache: Path | None = None) -> RawDataset:
    """Return the dataset in `folder`, whatever its format, with findings for what is wrong.

    cache: a folder for links to files whose names are not UTF-8; without it they are errors.

    Raises DataError where no format is recognized.
    """
    tree = list_files(folder)
    notes: list[Finding] = []
    if cache is not None:
        tree, notes = link_readable_names(tree, cache)
    evidence = {name: module.detect(tree) for name, module in FORMATS.items()}
    best = max(evidence.values())
    # The first of those that are equally sure.
    chosen = next(name for name in evidence if evidence[name] == best)
    foreign = find_foreign_format(tree) if best < Evidence.LIKELY else None
    if foreign is not None:
        raise DataError(f"{folder}: {foreign}")
    if best == Evidence.NONE:
        expected = "; ".join(module.EXPECTED_FILES for module in FORMATS.values())
        raise DataError(
            f"{folder}: no dataset is recognized here; looked for {expected}; "
            f"found {_describe_content(folder)}; export or convert it to one of these"
        )

    raw = FORMATS[chosen].read(tree)
    others = [name for name in evidence if name != chosen and evidence[name] >= Evidence.LIKELY]
    findings = (*raw.findings, *notes, *_note_formats(folder, others), *_note_folders(tree))
    raw = replace(raw, findings=findings)
    return replace(raw, findings=(*findings, *_note_unused_images(tree, raw)))


def write(
    format: str,
    folder: Path,
    classes: Sequence[str],
    splits: Mapping[str, Sequence[AnnotatedImage]],
) -> None:
    """Write a dataset in `format` ("coco", "voc" or "yolo") into `folder`."""
    FORMATS[format].write(folder, classes, splits)


def read_outlines(
    raw: RawDataset, source: str, problems: ProblemCollector
) -> Mapping[str, Outline]:
    """Return the outlines in an annotation file of a dataset, by the places of their boxes."""
    name = "coco" if raw.format == "roboflow" else raw.format
    return FORMATS[name].read_outlines(raw.folder, source, problems)


def _note_formats(folder: Path, others: Sequence[str]) -> list[Finding]:
    """Return a note for each format whose annotations were not read."""
    where = folder.name or str(folder)
    message = "annotations in another format than the one that was read left out"
    return [
        Finding(FindingKind.UNUSED_FILE, Severity.NOTE, f"{where} ({name})", message)
        for name in others
    ]


def _note_folders(tree: FileTree) -> list[Finding]:
    """Return a warning for each folder that could not be listed."""
    message = "folder that cannot be listed left out; see its permissions"
    return [
        Finding(FindingKind.UNUSED_FILE, Severity.WARNING, path or ".", message)
        for path in tree.unlisted
    ]


def _note_unused_images(tree: FileTree, raw: RawDataset) -> list[Finding]:
    """Return a note for each image without annotations.

    It lies beside images that have some, or in the folder of a split; others are masks or previews.
    """
    root = f"{tree.folder}/"
    records = [record for records in raw.splits.values() for record in records]
    used = {str(record.image).removeprefix(root) for record in records}
    folders = {get_folder(path) for path in used}
    # What belongs to an annotation file that was left out has been noted already.
    told = {fold(get_stem(finding.where)) for finding in raw.findings}

    findings = []
    for path in tree.images:
        folder = get_folder(path)
        is_meant = folder in folders or parse_split_of_folder(folder) is not None
        if is_meant and path not in used and fold(get_stem(path)) not in told:
            findings.append(
                Finding(
                    FindingKind.UNUSED_FILE,
                    Severity.NOTE,
                    path,
                    "image without annotations left out",
                )
            )
    return findings


def _describe_content(folder: Path) -> str:
    """Return the first names in `folder`, those of folders with a slash, for a message."""
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    if not names:
        return "nothing"

    shown = ", ".join(names[:_MAX_ENTRIES_SHOWN])
    hidden = len(names) - _MAX_ENTRIES_SHOWN
    return f"{shown} and {hidden} more" if hidden > 0 else shown
