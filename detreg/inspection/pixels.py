"""Which images show little: those that are blank, dark or blurred."""

from collections.abc import Sequence

import numpy as np

from detreg.data.looks import ImageLook

DARK = 25
"""Mean level (0..255) of an image under which little can be seen."""
BLURRED = 12
"""Variance of the Laplacian of a blurred image, at `looks.LONGER_SIDE`."""
BLURRED_SHARE = 0.25
"""Of the dataset's median, which a blurred image stays under, too: some subjects are soft."""


def find_flaws(looks: Sequence[ImageLook | None]) -> dict[str, tuple[int, ...]]:
    """Return the indices of the images that are blank, dark or blurred, by that word.

    looks: of each image, None for one that could not be decoded.
    """
    sharpness = [look.sharpness for look in looks if look is not None]
    limit = min(BLURRED, BLURRED_SHARE * float(np.median(sharpness or [0])))

    flaws: dict[str, list[int]] = {}
    for place, look in enumerate(looks):
        if look is None:
            continue
        if look.is_blank:
            flaws.setdefault("blank", []).append(place)
        elif look.brightness < DARK:
            flaws.setdefault("dark", []).append(place)
        elif look.sharpness < limit:
            flaws.setdefault("blurred", []).append(place)
    return {name: tuple(flaws[name]) for name in sorted(flaws)}
