"""Near duplicates: images that look the same, though their files differ.

All pairs are compared without looking at each: hashes that differ in few bits are equal in at least
one of a few bands of bits, so only images that share a band are compared. What is found depends on
the images alone, and time and memory are bounded by `_WINDOW`.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detreg.inspection.pixels import ImageLook

MAX_DISTANCE = 6
"""Bits that the hashes of near duplicates differ in at most."""
MIN_CORRELATION = 0.985
"""Of the thumbnails of near duplicates."""

_NUM_BANDS = MAX_DISTANCE + 1
_WINDOW = 200
"""Images of one band that each is compared with."""

Pairs = npt.NDArray[np.int64]


def find_near_duplicates(looks: Sequence[ImageLook | None]) -> list[tuple[int, ...]]:
    """Return groups of images that look the same, by their indices, in ascending order.

    Images that show nothing, or could not be decoded, are in no group.
    """
    usable: list[int] = []
    chosen: list[ImageLook] = []
    for place, look in enumerate(looks):
        if look is not None and not look.is_blank:
            usable.append(place)
            chosen.append(look)
    if len(chosen) < 2:
        return []

    hashes = np.array([look.hash for look in chosen], np.uint64)
    thumbnails = np.stack([look.thumbnail for look in chosen])
    pairs = _find_candidates(hashes)
    correlations = (thumbnails[pairs[:, 0]] * thumbnails[pairs[:, 1]]).sum(axis=1)
    pairs = pairs[correlations >= MIN_CORRELATION]

    groups = _join_pairs(pairs.tolist())
    return [tuple(usable[place] for place in group) for group in groups]


def _find_candidates(hashes: npt.NDArray[np.uint64]) -> Pairs:
    """Return (pairs, 2), the images whose hashes differ in `MAX_DISTANCE` bits at most."""
    found = [np.empty((0, 2), np.int64)]
    for band in range(_NUM_BANDS):
        first_bit = 64 * band // _NUM_BANDS
        end_bit = 64 * (band + 1) // _NUM_BANDS
        mask = np.uint64((1 << (end_bit - first_bit)) - 1)
        keys = (hashes >> np.uint64(first_bit)) & mask

        # Images of one key are neighbors now; those that look alike are close to each other.
        order = np.lexsort((hashes, keys))
        for distance in range(1, min(_WINDOW, len(hashes) - 1) + 1):
            first, second = order[:-distance], order[distance:]
            has_same_key = keys[first] == keys[second]
            if not has_same_key.any():
                break
            first, second = first[has_same_key], second[has_same_key]
            differing = np.bitwise_count(hashes[first] ^ hashes[second])
            is_near = differing <= MAX_DISTANCE
            found.append(np.stack([first[is_near], second[is_near]], axis=1))
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.unique(pairs, axis=0)


def _join_pairs(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Return the groups that pairs connect, each in ascending order, the first member's first."""
    root: dict[int, int] = {}

    def find_root(member: int) -> int:
        while root.setdefault(member, member) != member:
            root[member] = root[root[member]]
            member = root[member]
        return member

    for first, second in pairs:
        low, high = sorted((find_root(first), find_root(second)))
        root[high] = low

    groups: dict[int, list[int]] = {}
    for member in sorted(root):
        groups.setdefault(find_root(member), []).append(member)
    return [tuple(group) for _, group in sorted(groups.items())]
