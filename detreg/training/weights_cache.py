"""Files of weights that are kept in the cache, each with its sha256 beside it."""

import sys
from pathlib import Path

from detreg.environment import resolve_cache_folder
from detreg.files import compute_sha256, write_atomically


def get_weights_cache() -> Path:
    """Return the folder in which downloads are kept."""
    return resolve_cache_folder() / "weights"


def is_unchanged(path: Path, sha256: str = "") -> bool:
    """Whether a file is in the cache as it was put there.

    It is compared with `sha256`, the first digits of what was published, and with the digits that
    were kept beside it. A file from before these were kept has none, and passes. Prints which file
    has changed.
    """
    if not path.is_file():
        return False
    digest = compute_sha256(path)
    kept = _get_sha256_path(path)
    expected = [sha256]
    if kept.is_file():
        expected.append(kept.read_text(errors="replace").strip())
    if all(digest.startswith(start) for start in expected):
        return True

    print(
        f"{path} has changed since it was put into the cache: it is fetched again",
        file=sys.stderr,
        flush=True,
    )
    return False


def keep_sha256(path: Path, digest: str) -> None:
    """Keep the sha256 of a file beside it.

    Written after the file: a crash between the two leaves the digits of the file before, for which
    the new one counts as changed and is fetched once more.
    """
    with write_atomically(_get_sha256_path(path)) as file:
        file.write(digest.encode())


def _get_sha256_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
