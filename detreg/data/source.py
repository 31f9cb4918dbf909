"""Finds the folder that a user means by `data`: a folder, an archive that is unpacked into the cache, or the drawn sample."""

import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from detreg.data import formats, sample
from detreg.errors import DataError, NotFoundError

SAMPLE = "sample"


@dataclass(frozen=True)
class Source:
    """A dataset's folder, the name to call it by, and whether it is detreg's own drawing."""

    name: str
    folder: Path
    drawn: bool = False


def resolve_cache_folder(cache: str | Path | None = None) -> Path:
    """Where detreg keeps what it makes itself: `cache`, else the variable DETREG_CACHE, else ~/.cache/detreg."""
    return (
        Path(cache or os.environ.get("DETREG_CACHE") or Path.home() / ".cache" / "detreg")
        .expanduser()
        .resolve()
    )


def open_source(data: str | Path, cache: Path) -> Source:
    """The folder of a dataset. Raises NotFoundError where there is nothing, DataError for an archive that cannot be trusted or read."""
    if data == SAMPLE:
        return Source(
            SAMPLE, _once(cache / "samples" / f"v{sample.VERSION}", sample.write_sample), drawn=True
        )
    path = Path(data).expanduser().resolve()
    if not path.exists():
        raise NotFoundError(
            f"{data}: there is no such folder or archive; give a dataset's path, or {SAMPLE} for the built-in one"
        )
    if path.is_dir():
        return Source(path.name, _descend(path))
    unpack = _unzip if zipfile.is_zipfile(path) else _untar if tarfile.is_tarfile(path) else None
    if unpack is None:
        raise DataError(f"{data}: neither a folder nor a zip or tar archive; give one of these")
    with path.open("rb") as file:
        key = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return Source(
        path.name.split(".")[0],
        _descend(_once(cache / "archives" / key, lambda folder: unpack(path, folder))),
    )


def _once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """`folder`, filled if it is not there yet. It is renamed into place when whole, so its existence means that it is complete."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=f".{folder.name}-", ignore_cleanup_errors=True
    ) as temporary:
        whole = Path(temporary) / folder.name
        whole.mkdir()
        fill(whole)
        try:
            whole.rename(folder)
        except OSError:
            # Another process was faster; its folder has the same content.
            if not folder.is_dir():
                raise
    return folder


def _descend(folder: Path) -> Path:
    """The dataset inside `folder`: itself, or its only subfolder, as archives and VOCdevkit/VOC2007 have it."""
    while not formats.recognised(folder):
        children = [
            child for child in folder.iterdir() if not child.name.startswith((".", "__MACOSX"))
        ]
        if len(children) != 1 or not children[0].is_dir():
            break
        folder = children[0]
    return folder


def _unzip(path: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _refuse(
                path,
                [(member.filename, stat.S_ISLNK(member.external_attr >> 16)) for member in members],
            )
            for member in members:
                if not member.is_dir():
                    target = folder / member.filename
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, target.open("wb") as file:
                        shutil.copyfileobj(source, file)
    # zipfile raises RuntimeError for an encrypted member and NotImplementedError for an unknown compression.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(
            f"{path}: the archive cannot be unpacked ({error}); make it again, without a password"
        ) from error


def _untar(path: Path, folder: Path) -> None:
    try:
        with tarfile.open(path) as archive:
            members = archive.getmembers()
            _refuse(
                path, [(member.name, not (member.isfile() or member.isdir())) for member in members]
            )
            archive.extractall(folder, members, filter="data")
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise DataError(
            f"{path}: the archive cannot be unpacked ({error}); make it again"
        ) from error


def _refuse(path: Path, members: list[tuple[str, bool]]) -> None:
    """Raises DataError for members that would land outside the folder or are not plain files: such an archive is broken or hostile."""
    problems = []
    for name, special in members:
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in name.split("/")[0]:
            problems.append(
                f"{path}: the member {name!r} would be written outside the dataset's folder; make the archive again with relative names"
            )
        elif special:
            problems.append(
                f"{path}: the member {name!r} is a link or a device, not a file; put the file itself into the archive"
            )
    if problems:
        raise DataError(problems)
