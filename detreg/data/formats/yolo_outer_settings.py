"""Finds the YAML file above a YOLO dataset's folder that names this folder.

Ultralytics keeps `boats.yaml` beside `boats/`, with `path: boats` or `train: boats/images/train`.
Only files in the two folders above are looked at, and only one is taken whose places are here.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from detreg.data.formats.file_index import split_path
from detreg.data.formats.tree import FileTree, join_path
from detreg.documents import DocumentError
from detreg.errors import DataError
from detreg.files import read_regular
from detreg.yaml_documents import parse_yaml

_LEVELS = ("..", "../..")
_MAX_ENTRIES = 1000
_MAX_FILES = 20
_MAX_BYTES = 64 << 10
"""Most that is read of what lies there by chance; a file of settings has less."""


def is_outer(path: str) -> bool:
    """Whether the path of a file of settings, relative to the dataset's folder, is above it."""
    return path.startswith("../")


def find_outer_settings(tree: FileTree) -> list[str]:
    """Return the YAML files above the folder that name classes, and places in it.

    Their paths are relative to the folder, and all of the same level, the nearest that has some.
    """
    for level in _LEVELS:
        found = []
        for name in _list_yaml_files(tree.folder / level):
            path = f"{level}/{name}"
            document = _parse(tree.folder / path)
            has_names = isinstance(document.get("names"), list | dict)
            if has_names and _names_folder(tree, path, document):
                found.append(path)
        if found:
            return found
    return []


def find_inside(tree: FileTree, source: str, base: str, place: str) -> str | None:
    """Return the file or folder of the dataset that a place in settings above it means.

    source: the path of the settings, relative to the dataset's folder.
    base: the folder that the place is relative to, as the settings state it.

    None where it is not inside. A path of another machine is known by the name of the folder.
    """
    # Not resolved, so that links stay the names that the tree has.
    folder = os.path.abspath(tree.folder)  # noqa: PTH100
    outer = os.path.dirname(os.path.normpath(f"{folder}/{source}"))  # noqa: PTH120
    stated = os.path.normpath(os.path.join(outer, base, place))  # noqa: PTH118
    candidates = []
    if f"{stated}/".startswith(f"{folder}/"):
        candidates.append(stated[len(folder) + 1 :])

    parts = split_path(join_path(base, place))
    for position, part in enumerate(parts):
        if part == tree.folder.name:
            candidates.append("/".join(parts[position + 1 :]))

    for path in candidates:
        if path in tree.folders or path in tree.file_set:
            return path
    return None


def _list_yaml_files(folder: Path) -> Sequence[str]:
    """Return the names of the first YAML files in a folder, in their order."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, _MAX_ENTRIES)]
    except OSError:
        return []
    found = [name for name in names if name.lower().endswith((".yaml", ".yml"))]
    return sorted(name for name in found if not name.startswith("."))[:_MAX_FILES]


def _parse(path: Path) -> Mapping[str, object]:
    """Return the content of a YAML file, nothing where it is of no use: it may be anything."""
    try:
        document = parse_yaml(read_regular(path, _MAX_BYTES))
    except (DocumentError, DataError, OSError):
        return {}
    return document if isinstance(document, dict) else {}


def _names_folder(tree: FileTree, source: str, document: Mapping[str, object]) -> bool:
    """Whether one of the places that the settings name is in the dataset's folder."""
    base = document.get("path")
    base = base if isinstance(base, str) else ""
    for key in ("train", "val"):
        entry = document.get(key)
        for place in entry if isinstance(entry, list) else [entry]:
            if isinstance(place, str) and find_inside(tree, source, base, place) is not None:
                return True
    return False
