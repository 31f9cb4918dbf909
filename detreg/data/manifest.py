"""Remembers what image files hold, so that a file that has not changed is read once.

Each dataset's folder has one manifest in the cache: a file of JSON under a line that names the
version and the checksum of the rest. It is written whole and renamed, so that processes share it
without a lock: of two that write at once the later one wins, and only work is lost. A manifest that
is missing, damaged or of another version counts as empty.

Only images that can be used are remembered. What is wrong with the others is found anew each time,
because the reason may lie outside the file: its permissions, its disk, this machine.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

import PIL

from detreg.data.probe import ImageProbe, ignore_progress, probe_images
from detreg.documents import MAX_JSON_BYTES
from detreg.errors import DataError
from detreg.files import read_regular, write_atomically
from detreg.version import __version__

_SETTLING_TIME = 2_000_000_000
"""Nanoseconds in which a file may change twice and keep its times, as on FAT.

A file that is younger when its check begins is not remembered, like git's "racily clean" files.
"""

_STATE = ("size", "mtime_ns", "ctime_ns", "ino")
"""What changes when a file does, by its name in os.stat_result.

ctime and inode tell of contents that were replaced by others of equal size and mtime, as `cp -p`
and `mv` do. Neither can be set by hand.
"""

_PROBE = tuple(field.name for field in fields(ImageProbe) if field.name != "error")

_Entry = list[Any]
"""The values of `_STATE` as they were before the image was read, then those of `_PROBE`."""

_OPENCV = ("opencv-python-headless", "opencv-python")
"""The packages of which one holds OpenCV."""


def probe_with_manifest(
    paths: Collection[Path],
    manifest: Path,
    add_progress: Callable[[int], None] = ignore_progress,
    get_time: Callable[[], int] = time.time_ns,
) -> dict[Path, ImageProbe]:
    """Return the probe of each image file; one that the manifest knows is not read again.

    manifest: path of the file, as `locate_manifest` returns it. Where it cannot be written, the
        images are read again next time.
    add_progress: called now and then with the number of images that were finished meanwhile.
    get_time: returns the time of day in nanoseconds.
    """
    known = _read_manifest(manifest)
    start_time = get_time()
    probes: dict[Path, ImageProbe] = {}
    entries: dict[str, _Entry] = {}
    unknown: dict[Path, _Entry] = {}

    for path in dict.fromkeys(paths):
        # Looked at before the image is read: if it changes meanwhile, this state is an old one.
        state = _get_state(path)
        entry = known.get(str(path), [])
        if state and entry[: len(_STATE)] == state:
            probes[path] = _make_probe(entry)
            entries[str(path)] = entry
        else:
            unknown[path] = state
    add_progress(len(probes))

    newly_read = probe_images(unknown, add_progress)
    for path, probe in newly_read.items():
        state = unknown[path]
        if probe.error is None and _is_settled(state, start_time):
            entries[str(path)] = [*state, *(getattr(probe, name) for name in _PROBE)]

    if entries != known:
        _write_manifest(manifest, entries)
    return probes | newly_read


def locate_manifest(folder: Path, cache: Path) -> Path:
    """Return the path of the manifest of a dataset's folder.

    cache: the folder of `resolve_cache_folder`.
    """
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return cache / "manifests" / f"{name}.json"


def _get_state(path: Path) -> _Entry:
    """Return the state of a file, an empty one where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 (called often)
    # A null character in a name is a ValueError.
    except (OSError, ValueError):
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _is_settled(state: _Entry, start_time: int) -> bool:
    """Whether a change of the file after `start_time` shows in its state for certain."""
    if not state:
        return False
    _, mtime, ctime, _ = state
    return max(mtime, ctime) + _SETTLING_TIME <= start_time


def _make_probe(entry: _Entry) -> ImageProbe:
    """Return the probe that an entry holds."""
    values = dict(zip(_PROBE, entry[len(_STATE) :], strict=True))
    return ImageProbe(**values)


def _read_manifest(path: Path) -> dict[str, _Entry]:
    """Return the entries of a manifest by the path of their image; empty unless it is whole."""
    try:
        content = read_regular(path, MAX_JSON_BYTES)
    except (OSError, DataError):
        return {}

    header, _, body = content.partition(b"\n")
    if header != _make_header(body):
        return {}
    return json.loads(body)


def _write_manifest(path: Path, entries: dict[str, _Entry]) -> None:
    """Write a manifest. A cache that is full or read-only raises nothing."""
    body = json.dumps(entries).encode()
    with suppress(OSError), write_atomically(path) as file:
        file.write(_make_header(body) + b"\n" + body)


def _make_header(body: bytes) -> bytes:
    """Return the first line of a manifest, without its end: what its entries depend on."""
    parts = (
        f"detreg {__version__}",
        f"Pillow {PIL.__version__}",
        f"OpenCV {_find_opencv_version()}",
        " ".join((*_STATE, *_PROBE)),
        hashlib.sha256(body).hexdigest(),
    )
    return ", ".join(parts).encode()


def _find_opencv_version() -> str:
    """Return the version of OpenCV, which takes longer to import than a second check takes."""
    for package in _OPENCV:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return "unknown"
