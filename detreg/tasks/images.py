"""The images that a user names by files and folders."""

from collections.abc import Sequence
from pathlib import Path

from detreg.errors import NotFoundError
from detreg.files import IMAGE_SUFFIXES


def find_images(paths: Sequence[str]) -> list[Path]:
    """Return the images among files and folders; those of a folder are sorted by name.

    A file is taken whatever its suffix. Raises NotFoundError where there is no image.
    """
    files: list[Path] = []
    for name in paths:
        path = Path(name)
        if path.is_dir():
            files += _find_in_folder(path)
        elif path.is_file():
            files.append(path)
        else:
            raise NotFoundError(f"{name} is neither an image nor a folder")

    if not files:
        raise NotFoundError(
            f"no image in {', '.join(paths)}: looked for {', '.join(IMAGE_SUFFIXES)}"
        )
    return files


def _find_in_folder(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
