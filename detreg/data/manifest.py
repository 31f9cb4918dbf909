"""Remembers what image files hold, so that a file that has not changed is read once.

Each dataset's folder has one manifest in the cache, of the kind that cache_entries.py describes.

Only images that can be used are remembered. What is wrong with the others is found anew each time,
because the reason may lie outside the file: its permissions, its disk, this machine.
"""

import hashlib
import os
import time
from collections.abc import Callable, Collection
from dataclasses import fields
from pathlib import Path

from detreg.data.cache_entries import Entry, read_entries, write_entries
from detreg.data.probe import ImageProbe, ignore_progress, probe_images

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

_NAMES = (*_STATE, *_PROBE)
"""The values of an entry: `_STATE` as it was before the image was read, then `_PROBE`."""


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
    known = read_entries(manifest, _NAMES)
    start_time = get_time()
    probes: dict[Path, ImageProbe] = {}
    entries: dict[str, Entry] = {}
    unknown: dict[Path, Entry] = {}

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
        write_entries(manifest, _NAMES, entries)
    return probes | newly_read


def locate_manifest(folder: Path, cache: Path) -> Path:
    """Return the path of the manifest of a dataset's folder.

    cache: the folder of `resolve_cache_folder`.
    """
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return cache / "manifests" / f"{name}.json"


def _get_state(path: Path) -> Entry:
    """Return the state of a file, an empty one where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 (called often)
    # A null character in a name is a ValueError.
    except (OSError, ValueError):
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _is_settled(state: Entry, start_time: int) -> bool:
    """Whether a change of the file after `start_time` shows in its state for certain."""
    if not state:
        return False
    _, mtime, ctime, _ = state
    return max(mtime, ctime) + _SETTLING_TIME <= start_time


def _make_probe(entry: Entry) -> ImageProbe:
    """Return the probe that an entry holds."""
    values = dict(zip(_PROBE, entry[len(_STATE) :], strict=True))
    return ImageProbe(**values)
