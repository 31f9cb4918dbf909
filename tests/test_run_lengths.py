"""COCO's run-length code, as pycocotools writes and reads it, without the pixels it claims."""

import numpy as np
import pytest
from pycocotools import mask as reference

from detreg.data.findings import BadEntryError
from detreg.data.numbered_masks import encode_labels
from detreg.run_lengths import (
    RunLengthMask,
    bound_runs,
    compress_runs,
    count_ones,
    decode_runs,
    parse_runs,
)


@pytest.mark.parametrize("seed", range(20))
def test_codes_are_those_of_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2).tolist()
    block = int(rng.integers(1, 9))
    coarse = rng.integers(0, 4, (height // block + 1, width // block + 1))
    labels = np.kron(coarse, np.ones((block, block), np.int64))[:height, :width]

    masks = encode_labels(labels)
    assert set(masks) == set(labels.reshape(-1).tolist()) - {0}
    for number, mask in masks.items():
        pixels = labels == number
        code = reference.encode(np.asfortranarray(pixels.astype(np.uint8)))
        assert mask == RunLengthMask(height, width, code["counts"].decode())

        runs = parse_runs(mask)
        assert runs is not None
        assert np.array_equal(decode_runs(runs, height, width), pixels)
        assert count_ones(runs) == pixels.sum()
        ys, xs = np.nonzero(pixels)
        assert bound_runs(runs, height) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        listed = RunLengthMask(height, width, tuple(runs.tolist()))
        assert parse_runs(listed) is not None
        assert parse_runs(RunLengthMask(height, width + 1, mask.counts)) is None


def test_a_billion_pixels_take_no_memory() -> None:
    runs = np.array([0, 2**36, 3, 2**36 - 5, 1, 7], np.int64)
    mask = RunLengthMask(1, int(runs.sum()), compress_runs(runs))
    parsed = parse_runs(mask)
    assert parsed is not None
    assert parsed.tolist() == runs.tolist()
    assert bound_runs(parsed, 1) == (0, 0, mask.width, 1)


def test_more_pixels_than_any_image_has_are_no_mask() -> None:
    # So many runs of such a length would exceed an integer of 64 bits, and could sum up to 0.
    side = 2**40
    runs = np.array([side, side, side], np.int64)
    assert parse_runs(RunLengthMask(3, side, compress_runs(runs))) is None


def test_smooth_images_hold_no_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(20_000, dtype=np.int32).reshape(100, 200)
    with pytest.raises(BadEntryError, match="has 20000 colors"):
        encode_labels(labels)
    monkeypatch.setattr("detreg.data.numbered_masks._MAX_RUNS", 9_999)
    with pytest.raises(BadEntryError, match="consists of single pixels"):
        encode_labels(labels // 200 % 2)
