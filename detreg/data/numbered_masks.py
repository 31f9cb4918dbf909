"""Masks of an image whose pixels are the numbers of its objects."""

import numpy as np
import numpy.typing as npt

from detreg.data.findings import BadEntryError, FindingKind
from detreg.run_lengths import RunLengthMask, compress_runs, join_spans

_MAX_LABELS = 10_000
_MAX_RUNS = 10_000_000


def encode_labels(labels: npt.NDArray[np.integer]) -> dict[int, RunLengthMask]:
    """Return the mask of each number in an image (height, width) of numbers; 0 is nothing.

    Raises BadEntryError where there are more than `_MAX_LABELS`, or more runs than `_MAX_RUNS`.
    """
    height, width = labels.shape
    # Down the columns, as the code goes.
    pixels = labels.T.reshape(-1)
    is_start = pixels[1:] != pixels[:-1]
    if np.count_nonzero(is_start) > _MAX_RUNS:
        raise BadEntryError(
            FindingKind.INVALID_MASK,
            "the image consists of single pixels, so they are not numbers of objects; give each "
            "object one color, without smoothing",
        )
    starts = np.append(np.int64(0), np.flatnonzero(is_start) + 1)
    ends = np.append(starts[1:], pixels.size)
    numbers = pixels[starts]

    order = np.argsort(numbers, kind="stable")
    distinct, firsts = np.unique(numbers[order], return_index=True)
    if len(distinct) > _MAX_LABELS:
        raise BadEntryError(
            FindingKind.INVALID_MASK,
            f"the image has {len(distinct)} colors, so they are not numbers of objects; give each "
            "object one color, without smoothing",
        )

    masks = {}
    for number, places in zip(distinct.tolist(), np.split(order, firsts[1:]), strict=True):
        if number:
            runs = join_spans(starts[places], ends[places], pixels.size)
            masks[number] = RunLengthMask(height, width, compress_runs(runs))
    return masks
