"""Finds the annotation files of a COCO dataset, the split of each, and where its images may lie."""

from collections.abc import Sequence
from dataclasses import dataclass

from detreg.data.findings import FindingKind, ProblemCollector, Severity
from detreg.data.formats.foreign import describe_foreign_file
from detreg.data.formats.tree import FileTree, get_folder, get_stem, join_path, split_name
from detreg.data.raw import POOL
from detreg.data.splits import SPLITS, names_trainval, parse_split, parse_split_of_folder
from detreg.documents import contains_words

_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_MIN_KEYS = 2
"""How many of the keys show that COCO is meant: who reads the file names the one it lacks."""

_SPLIT_ORDER = (*SPLITS, POOL)


@dataclass(frozen=True)
class AnnotationFile:
    """One annotation file.

    source: its path relative to the dataset's folder.
    split: one of the splits, or `POOL` where it names none.
    """

    source: str
    split: str


def is_coco(tree: FileTree, path: str) -> bool:
    """Whether a JSON file is meant to be COCO's."""
    file = tree.folder / path
    if not contains_words(file, _KEYS, _MIN_KEYS):
        return False
    # Other tools use two of these words, too; all three are COCO's alone.
    is_foreign = describe_foreign_file(tree, path) is not None
    return not is_foreign or contains_words(file, _KEYS, len(_KEYS))


def find_annotation_files(tree: FileTree, problems: ProblemCollector) -> list[str]:
    """Return the annotation files of the first layout that the dataset has.

    A JSON file that lies among them is one of them, too, if it names a split or holds no object:
    it is broken, and must not be passed over. What else is left out is noted.
    """
    paths = tree.select(".json")
    files = [path for path in paths if is_coco(tree, path)]
    layout = min(map(_rank_layout, files))
    chosen = [path for path in files if _rank_layout(path) == layout]

    folders = {get_folder(path) for path in chosen}
    for path in paths:
        is_beside = get_folder(path) in folders or _rank_layout(path) == layout < _OTHER_LAYOUT
        if path not in chosen and is_beside and _is_broken(tree, path):
            chosen.append(path)

    # COCO's own download has captions and keypoints beside the boxes.
    instances = [path for path in chosen if split_name(path)[1].startswith("instances_")]
    for path in sorted({*files, *chosen} - {*(instances or chosen)}):
        if not instances or _rank_layout(path) != layout:
            problems.add(
                FindingKind.UNUSED_FILE,
                Severity.NOTE,
                path,
                "annotation file in another folder than the others left out",
            )
    return sorted(instances or chosen)


_OTHER_LAYOUT = 3


def _rank_layout(path: str) -> int:
    """Return which of the usual places an annotation file is in; the first that is used counts."""
    folder = get_folder(path)
    if "/" not in folder and parse_split(folder) is not None:
        return 0
    if folder.lower() == "annotations":
        return 1
    return 2 if folder == "" else _OTHER_LAYOUT


def _is_broken(tree: FileTree, path: str) -> bool:
    """Whether a JSON file without COCO's keys stands where one with them belongs."""
    head = tree.read_head(path, 64).removeprefix(b"\xef\xbb\xbf").lstrip()
    return parse_split(get_stem(path)) is not None or not head.startswith(b"{")


def assign_splits(sources: Sequence[str], problems: ProblemCollector) -> list[AnnotationFile]:
    """Return the annotation files with their splits, train first.

    A file that names no split is the pool, and one that names train and val together is train, of
    which val is cut. Beside a file for train alone that is an error.
    """
    files = []
    together = set()
    for source in sources:
        stem = get_stem(source)
        split = parse_split_of_folder(get_folder(source)) or parse_split(stem)
        if split is None and names_trainval(stem):
            split = "train"
            together.add(source)
        files.append(AnnotationFile(source, split or POOL))

    of_train = [file.source for file in files if file.split == "train"]
    if together and len(together) < len(of_train):
        problems.add_error(
            FindingKind.AMBIGUOUS_SPLIT,
            ", ".join(of_train),
            "these annotation files are for train, and for train and val together; keep one",
        )
    return sorted(files, key=lambda file: (_SPLIT_ORDER.index(file.split), file.source))


def find_image_roots(tree: FileTree, file: AnnotationFile) -> tuple[str, ...]:
    """Return the folders that a file's images may lie in, in the order to look.

    Folders that belong to this file or its split come first: two splits may use the same names.
    """
    stem = get_stem(file.source).removeprefix("instances_")
    named_after_file = []
    named_after_split = []
    for folder in tree.folders:
        base, name = split_name(folder)
        if base not in ("", "images"):
            continue
        if name == stem:
            named_after_file.append(folder)
        if parse_split(name) == file.split:
            named_after_split.append(folder)

    # Those in the dataset's folder come before those in images/.
    named_after_file.sort(key=split_name)
    named_after_split.sort(key=split_name)
    beside_file = get_folder(file.source)
    return (
        *named_after_file,
        *named_after_split,
        beside_file,
        join_path(beside_file, "images"),
        join_path(beside_file, "data"),
        "",
        "images",
        "data",
    )
