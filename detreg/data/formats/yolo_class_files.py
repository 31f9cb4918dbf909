"""Reads text files that name the classes of a YOLO dataset: one name a line, as classes.txt.

Darknet's obj.data (`names = obj.names`, `train = train.txt`) names the places of images, too.
"""

import re
from collections.abc import Sequence

from detreg.data.findings import BadEntryError, FindingKind
from detreg.data.formats.tree import FileTree, split_name
from detreg.data.splits import is_split_name
from detreg.documents import decode_text
from detreg.errors import shorten
from detreg.files import read_regular
from detreg.yaml_documents import MAX_YAML_BYTES

_USUAL_NAMES = ("classes.txt", "_darknet.labels")
_HEAD = 4096  # bytes
_DARKNET = re.compile(rb"^\s*names\s*=", re.MULTILINE)


def find_class_files(tree: FileTree) -> list[str]:
    """Return the text files with a class name in each line, by their names."""
    usual = [path for path in tree.files if split_name(path)[1].lower() in _USUAL_NAMES]
    return sorted({*usual, *tree.select(".names")})


def read_class_names(tree: FileTree, path: str) -> list[str]:
    """Return the lines of a small text file up to the last that is not empty."""
    text = decode_text(read_regular(tree.folder / path, MAX_YAML_BYTES))
    return [line.strip() for line in text.rstrip().splitlines()]


def read_darknet_document(
    tree: FileTree, class_files: Sequence[str]
) -> tuple[str, dict[str, object]]:
    """Return the file that names the classes, and what all say, under the keys of data.yaml.

    Where each folder has a file of names, one may lack the last ones, as tools add them when they
    are used. Raises BadEntryError where they number the classes in different ways.
    """
    lists = {path: read_class_names(tree, path) for path in class_files}
    source = max(lists, key=lambda path: (len(lists[path]), path))
    for path, names in lists.items():
        if names != lists[source][: len(names)]:
            raise BadEntryError(
                FindingKind.DUPLICATE_CLASS,
                f"{shorten(path)} and {shorten(source)} number the classes in different ways; "
                "number the labels in one way and keep one file",
            )

    document: dict[str, object] = {"names": lists[source]}
    for path in tree.select(".data"):
        if _DARKNET.search(tree.read_head(path, _HEAD)):
            entries = _parse_pairs(read_class_names(tree, path))
            places = {key: entries[key] for key in entries if is_split_name(key)}
            document.update(places)
            if entries.get("classes", "").isdecimal():
                document["nc"] = int(entries["classes"][:9])
    return source, document


def _parse_pairs(lines: Sequence[str]) -> dict[str, str]:
    """Return the values of lines such as `names = obj.names`."""
    pairs = [line.partition("=") for line in lines]
    return {key.strip(): value.strip() for key, _, value in pairs}
