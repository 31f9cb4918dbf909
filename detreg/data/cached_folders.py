"""Folders in the cache that are filled once, and are whole wherever they exist."""

import tempfile
from collections.abc import Callable
from pathlib import Path


def create_once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Return `folder`, filled by `fill` where it does not exist yet.

    It is filled under a temporary name and renamed when it is whole: a folder that exists is
    complete, also after a crash.
    """
    if folder.is_dir():
        return folder

    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}-"
    # An error while cleaning up must not hide that of `fill`.
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=prefix, ignore_cleanup_errors=True
    ) as temporary:
        part = Path(temporary) / folder.name
        part.mkdir()
        fill(part)
        try:
            part.rename(folder)
        except OSError:
            # Another process was faster; its folder has the same content.
            if not folder.is_dir():
                raise
    return folder
