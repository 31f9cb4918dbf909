"""Reads the text files that say which images of a VOC dataset belong to which split."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detreg.data.findings import BadEntryError, FindingKind, ProblemCollector, Severity
from detreg.data.formats.file_index import FileIndex, Hint
from detreg.data.formats.lookup import note_comment
from detreg.data.formats.readable_names import read_names
from detreg.data.formats.tree import FileTree, get_folder, get_stem, split_name
from detreg.data.raw import POOL
from detreg.data.splits import SPLITS, is_split_name, names_trainval, parse_split
from detreg.errors import shorten
from detreg.files import IMAGE_SUFFIXES

_TRAINVAL = "trainval"
_HEAD = 4096  # bytes
_LINES = 10
_SUFFIXES = (".xml", *IMAGE_SUFFIXES)
_ANY_SUFFIX = "|".join(map(re.escape, _SUFFIXES))
_PATH_WITH_SUFFIX = re.compile(rf".+?({_ANY_SUFFIX})(?=\s)", re.IGNORECASE)
_MAX_FLAGS = 8
_FLAG = re.compile("[-+]?[0-9]+")
_DEFAULT = "default"
"""CVAT's name for the list of the images that are in no split."""


@dataclass(frozen=True)
class _SplitList:
    """A list file; `split` is one of the splits, `_TRAINVAL` or `POOL`."""

    source: str
    split: str


def read_split_lists(
    tree: FileTree, annotations: Sequence[str], problems: ProblemCollector
) -> dict[str, list[str]]:
    """Return the annotation files of each split that has a list; empty where there are no lists.

    A name without an annotation file is an error. So is an image that lists of two folders put
    into different splits.
    """
    index = FileIndex(tree.folder, annotations)
    found: dict[str, dict[str, str]] = {}
    for file in _find_lists(tree, index):
        with problems.catch_bad_entry(file.source):
            names = _read_lines(tree, file.source)
            sources = _resolve_names(file, names, tree, index, problems)
            for source in sources:
                found.setdefault(file.split, {}).setdefault(source, file.source)
            found.setdefault(file.split, {})

    _check_folds(found, problems)
    lists = {split: sorted(sources) for split, sources in found.items()}
    return _distribute_trainval(lists)


def _find_lists(tree: FileTree, index: FileIndex) -> list[_SplitList]:
    """Return the text files that are named after splits and name annotated images.

    Lists in folders called Main come first, as in VOC itself, whose other folders list other
    tasks; then lists whose names say a split and no class.
    """
    lists = []
    for path in tree.select(".txt"):
        split = _parse_list_name(get_stem(path))
        if split is not None and _is_list(tree, path, index):
            lists.append(_SplitList(path, split))

    in_main = [file for file in lists if split_name(get_folder(file.source))[1].lower() == "main"]
    lists = in_main or lists
    plain = [file for file in lists if _is_plain_name(get_stem(file.source))]
    return plain or lists


def _parse_list_name(stem: str) -> str | None:
    """Return what the name of a list means, None where it is no list."""
    if stem.lower() == _DEFAULT:
        return POOL
    return _TRAINVAL if names_trainval(stem) else parse_split(stem)


def _is_plain_name(stem: str) -> bool:
    """Whether the name of a list says nothing but a split; VOC has boat_train.txt for a class."""
    return stem.lower() == _DEFAULT or is_split_name(stem) or names_trainval(stem)


def _is_list(tree: FileTree, path: str, index: FileIndex) -> bool:
    """Whether a text file is one of VOC's lists by its place, or names an annotated image."""
    if "imagesets" in get_folder(path).lower().split("/"):
        return True
    head = tree.read_head(path, _HEAD).decode("utf-8-sig", errors="replace")
    try:
        return any(_find_annotation(line, path, index) for line in head.splitlines()[:_LINES])
    # The line fits several images, so it names one.
    except BadEntryError:
        return True


def _read_lines(tree: FileTree, source: str) -> list[str]:
    """Return the lines of a list that are not empty, sorted, each once."""
    lines = {line.strip() for line in read_names(tree.folder / source)}
    return sorted(lines - {""})


def _resolve_names(
    file: _SplitList,
    lines: Sequence[str],
    tree: FileTree,
    index: FileIndex,
    problems: ProblemCollector,
) -> list[str]:
    """Return the annotation files that a list names, and add an error for each name without one.

    A test list of which no image is annotated, as benchmarks publish it, is left out with a note.
    """
    sources = []
    missing = []
    for line in lines:
        if tree.is_comment(line):
            note_comment(file.source, problems)
            continue
        source = _find_annotation(line, file.source, index)
        if source is None:
            missing.append(line)
        else:
            sources.append(source)

    if file.split == "test" and missing and not sources:
        problems.add(
            FindingKind.MISSING_ANNOTATIONS,
            Severity.NOTE,
            file.source,
            "list of a test split without annotations left out",
        )
        return []

    for line in missing:
        name = shorten(_drop_flags(line))
        folder = get_folder(index.paths[0]) or "."
        problems.for_image(name).add_error(
            FindingKind.MISSING_ANNOTATIONS,
            file.source,
            f"{name} has no {folder}/{name}.xml; add the file (one without objects where the "
            "image shows none) or remove the name",
        )
    return sources


def _find_annotation(line: str, source: str, index: FileIndex) -> str | None:
    """Return the annotation file that a line of a list names, None where there is none.

    Raises BadEntryError where several are as good.
    """
    names = dict.fromkeys((line, _drop_flags(line), _drop_flags(line).strip("\"'")))
    for name in names:
        # The annotations of an image p0.jpg are in p0.xml, by some tools in p0.jpg.xml.
        for stem in dict.fromkeys((name, _drop_suffix(name))):
            match = index.find(f"{stem}.xml", Hint(source))
            if match is not None:
                return match.path
    return None


def _drop_flags(line: str) -> str:
    """Return a line without what stands behind the name, which may hold spaces itself.

    That is the path of the annotation file, or numbers such as the 1, 0 or -1 of the lists of a
    single class: the XML file says what is in the image.
    """
    path = _PATH_WITH_SUFFIX.match(line)
    name = path.group() if path else line
    for _ in range(_MAX_FLAGS):
        words = name.rsplit(maxsplit=1)
        if len(words) < 2 or not _FLAG.fullmatch(words[1]):
            break
        name = words[0]
    return name


def _drop_suffix(name: str) -> str:
    """Return a name without the suffix of an image or an annotation file; others belong to it."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 (a name that may lead anywhere)
    return stem if suffix.lower() in _SUFFIXES else name


def _check_folds(found: Mapping[str, Mapping[str, str]], problems: ProblemCollector) -> None:
    """Add an error where the lists of two folders put an image into different splits."""
    places: dict[str, tuple[str, str]] = {}
    for split in SPLITS:
        for source, list_path in found.get(split, {}).items():
            other_split, other_path = places.setdefault(source, (split, list_path))
            if other_split == split or get_folder(other_path) == get_folder(list_path):
                continue
            problems.add_error(
                FindingKind.AMBIGUOUS_SPLIT,
                list_path,
                f"{shorten(source)} is listed here, and for {other_split} in {other_path}; "
                "keep the lists of one folder",
            )
            return


def _distribute_trainval(lists: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the lists with the missing one of train and val derived from trainval.txt.

    trainval.txt lists the images of train and val together. Where both have lists of their own it
    says nothing new. Where one of them is missing, it gets the names that the other leaves; where
    both are missing, train gets all (and val is cut from it later, as for any dataset).
    """
    completed = {split: sources for split, sources in lists.items() if split != _TRAINVAL}
    trainval = lists.get(_TRAINVAL, [])
    if not trainval or ("train" in lists and "val" in lists):
        return completed

    missing_split = "val" if "train" in lists else "train"
    taken = {*lists.get("train", []), *lists.get("val", [])}
    completed[missing_split] = [source for source in trainval if source not in taken]
    return completed
