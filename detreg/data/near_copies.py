"""Near copies: images that look the same, though their files differ.

All pairs are compared without looking at each: hashes that differ in few bits are equal in at least
one of a few bands of bits, so only images that share a band are compared. What is found depends on
the images alone, and time and memory are bounded by `_WINDOW`.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MAX_DISTANCE = 6
"""Bits that the hashes of near copies differ in at most."""
MIN_CORRELATION = 0.985
"""Of the thumbnails of near copies, at least."""

_NUM_BANDS = MAX_DISTANCE + 1
_WINDOW = 100
"""Hashes of one band that each is compared with."""

Hashes = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]


def group_near_copies(hashes: Hashes, thumbnails: npt.NDArray[np.float32]) -> list[tuple[int, ...]]:
    """Return groups of images that look the same, by their indices, in ascending order.

    hashes: (images,). thumbnails: (images, levels), with a mean of 0 and a length of 1.
    """
    pairs = _find_candidates(hashes)
    correlations = (thumbnails[pairs[:, 0]] * thumbnails[pairs[:, 1]]).sum(axis=1)
    pairs = pairs[correlations >= MIN_CORRELATION]
    return _join_pairs(pairs.tolist())


def _find_candidates(hashes: Hashes) -> Pairs:
    """Return (pairs, 2), images whose hashes differ in `MAX_DISTANCE` bits at most.

    Of images with one hash, each is paired with the next one only, and the first with images of
    other hashes: pairs are joined to groups afterwards.
    """
    unique, first_image = np.unique(hashes, return_index=True)
    by_hash = np.argsort(hashes, kind="stable")
    is_repeated = hashes[by_hash[:-1]] == hashes[by_hash[1:]]
    found = [np.stack([by_hash[:-1][is_repeated], by_hash[1:][is_repeated]], axis=1)]

    keys = _split_into_bands(unique)
    for band in range(_NUM_BANDS):
        # Hashes of one key are neighbors now; those that differ in low bits are the closest.
        order = np.lexsort((unique, keys[band]))
        for distance in range(1, min(_WINDOW, len(unique) - 1) + 1):
            first, second = order[:-distance], order[distance:]
            has_same_key = keys[band][first] == keys[band][second]
            if not has_same_key.any():
                break
            first, second = first[has_same_key], second[has_same_key]
            is_near = np.bitwise_count(unique[first] ^ unique[second]) <= MAX_DISTANCE
            first, second = first[is_near], second[is_near]
            # A pair counts in the first band that it shares.
            is_new = (keys[:band, first] != keys[:band, second]).all(axis=0)
            pairs = np.stack([first[is_new], second[is_new]], axis=1)
            found.append(first_image[pairs])
    return np.sort(np.concatenate(found), axis=1)


def _split_into_bands(hashes: Hashes) -> Hashes:
    """Return (bands, hashes), the bits of each band."""
    keys = []
    for band in range(_NUM_BANDS):
        first_bit = 64 * band // _NUM_BANDS
        end_bit = 64 * (band + 1) // _NUM_BANDS
        mask = np.uint64((1 << (end_bit - first_bit)) - 1)
        keys.append((hashes >> np.uint64(first_bit)) & mask)
    return np.stack(keys)


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
