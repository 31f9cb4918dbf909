"""Gives files readable names whose own are not UTF-8, as old archives and Windows leave them.

Python shows such a name with halves of characters in place of the bytes, which no JSON file, page
or run can hold. So the dataset is read through a folder of links in the cache, in which each file
has a readable name, and nothing behind the reader knows of it.
"""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote_from_bytes

from detreg.data.cached_folders import create_once
from detreg.data.findings import Finding, FindingKind, Severity
from detreg.data.formats.tree import FileTree, join_path, split_name
from detreg.documents import MAX_TEXT_BYTES
from detreg.files import read_regular

_OTHER_ENCODING = "cp1252"
"""What names are written in that are not UTF-8, most often: the Western European one of Windows."""


def decode_name(name: bytes) -> str:
    """Return the name of a file as text, in whatever encoding; else its bytes as %E9 and so on."""
    for encoding in ("utf-8", _OTHER_ENCODING):
        try:
            text = name.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding == "utf-8" or text.isprintable():
            return text
    return quote_from_bytes(name)


def restore_name(name: str) -> str:
    """Return a name that a program has stored as Python shows it, with halves of characters."""
    if _is_utf8(name):
        return name
    try:
        return "/".join(map(decode_name, os.fsencode(name).split(b"/")))
    # Other halves of characters stand for no byte.
    except UnicodeEncodeError:
        return name


def read_names(path: Path) -> list[str]:
    """Return the lines of a text file of names or paths, whatever their encoding.

    Raises OSError, and UnusableFileError where it is not a regular file or too large.
    """
    content = read_regular(path, MAX_TEXT_BYTES)
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        pass
    lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
    return ["/".join(map(decode_name, line.split(b"/"))) for line in lines]


def link_readable_names(tree: FileTree, cache: Path) -> tuple[FileTree, list[Finding]]:
    """Return the files under readable names, with a note for each name that is another one.

    The same tree where all names are UTF-8. Else the folder is one of links in `cache`, named by
    what it links, so that it is never changed once it is there.
    """
    paths = sorted({*tree.files, *tree.folders, *tree.unlisted} - {""})
    # As one text, because there may be a hundred thousand of them.
    if _is_utf8("\n".join(paths)):
        return tree, []

    readable = _make_paths_readable(paths)
    content = "\n".join([str(tree.folder), *paths])
    digest = hashlib.sha256(os.fsencode(content)).hexdigest()[:16]
    # The name of the folder is that of the dataset in messages.
    name = tree.folder.name or "dataset"
    target = create_once(cache / "names" / digest, lambda part: _link(tree, readable, part / name))

    notes = []
    for path in paths:
        if not _is_utf8(split_name(path)[1]):
            message = "name that is not UTF-8 read as this one"
            notes.append(
                Finding(FindingKind.FILE_ELSEWHERE, Severity.NOTE, readable[path], message)
            )
    links = replace(
        tree,
        folder=target / name,
        files=tuple(sorted(readable[path] for path in tree.files)),
        folders=frozenset(readable[path] for path in tree.folders),
        unlisted=tuple(sorted(readable[path] for path in tree.unlisted)),
    )
    return links, notes


def _is_utf8(path: str) -> bool:
    """Whether Python knows all characters of a path."""
    if path.isascii():
        return True
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _make_paths_readable(paths: list[str]) -> dict[str, str]:
    """Return a readable path for each, in which no two are the same."""
    readable = {"": ""}
    taken: set[str] = set()
    # Names that are UTF-8 stay as they are; folders come before what they hold.
    for path in sorted(paths, key=lambda path: (not _is_utf8(path), path)):
        folder, name = split_name(path)
        encoded_name = os.fsencode(name)
        new_path = join_path(readable[folder], decode_name(encoded_name))
        if new_path in taken:
            new_path = join_path(readable[folder], quote_from_bytes(encoded_name))
        while new_path in taken:
            new_path += "_"
        readable[path] = new_path
        taken.add(new_path)
    return readable


def _link(tree: FileTree, readable: dict[str, str], target: Path) -> None:
    """Fill a folder with links to all files, and with the folders that they lie in."""
    for folder in sorted(tree.folders):
        (target / readable[folder]).mkdir(parents=True)
    for path in {*tree.files, *tree.unlisted} - tree.folders:
        (target / readable[path]).symlink_to(tree.folder / path)
