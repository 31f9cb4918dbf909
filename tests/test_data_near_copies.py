"""Near copies: which hashes are compared, and how many."""

import numpy as np
import numpy.typing as npt
import pytest

from detreg.data import near_copies
from detreg.data.near_copies import group_near_copies


def test_all_pairs_of_hashes_within_the_distance_are_candidates() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 300, dtype=np.uint64)
    # Neighbors of the first one, that differ from it in 1 to 12 bits.
    for bits in range(1, 13):
        flipped = sum(1 << int(bit) for bit in rng.choice(64, bits, replace=False))
        hashes = np.append(hashes, hashes[0] ^ np.uint64(flipped))

    distances = np.bitwise_count(hashes[:, None] ^ hashes[None])
    first, second = np.nonzero(np.triu(distances <= near_copies.MAX_DISTANCE, k=1))
    expected = list(zip(first.tolist(), second.tolist(), strict=True))
    assert sorted(map(tuple, near_copies._find_candidates(hashes).tolist())) == expected


def test_images_with_one_hash_are_chained_and_not_all_compared() -> None:
    hashes = np.array([5, 9, 5, 5, 1 << 60, 5], np.uint64)
    chained = near_copies._find_candidates(hashes[[0, 2, 3, 5]])
    assert sorted(map(tuple, chained.tolist())) == [(0, 1), (1, 2), (2, 3)]
    assert len(near_copies._find_candidates(np.zeros(100_000, np.uint64))) == 99_999


def test_each_hash_is_compared_with_a_bounded_number_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = 0
    count_bits = np.bitwise_count

    def count_and_compare(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
        nonlocal compared
        compared += len(bits)
        return count_bits(bits)

    monkeypatch.setattr(np, "bitwise_count", count_and_compare)
    # All bands but the lowest are equal.
    near_copies._find_candidates(np.arange(512, dtype=np.uint64))
    assert 0 < compared <= 512 * near_copies._WINDOW * near_copies._NUM_BANDS


def test_images_of_near_hashes_that_look_different_are_no_copies() -> None:
    hashes = np.array([0, 1, 3], np.uint64)
    thumbnails = np.eye(3, 256, dtype=np.float32)
    assert group_near_copies(hashes, thumbnails) == []
    thumbnails[1] = thumbnails[2]
    assert group_near_copies(hashes, thumbnails) == [(1, 2)]
    assert group_near_copies(hashes[:1], thumbnails[:1]) == []
