"""COCO's run-length code of masks, without the pixels: a mask may claim a billion of them.

A mask is stored as the lengths of its runs of zeros and ones in turn, down the first column, then
down the next. The lengths are a list, or text in the compressed form of pycocotools (rleToString in
maskApi.c): 5 bits a character, from chr(48) on, the next-to-last bit set where more follow; from
the third run on, the difference to the run before the previous one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Runs = npt.NDArray[np.int64]
"""Lengths of runs of zeros and ones in turn, zeros first."""

Corners = tuple[float, float, float, float]
"""x1, y1, x2, y2: the upper left and the lower right corner."""

_MAX_RUN = 1 << 40
"""More pixels than any image has."""

_FIRST_CHARACTER = 48
_BITS = 5
_VALUE = 0x1F
_NEGATIVE = 0x10
_MORE = 0x20
_MAX_CHARACTERS = 10
"""Characters of a number: as many as `_MAX_RUN` and its opposite need, and one more."""


@dataclass(frozen=True, slots=True)
class RunLengthMask:
    """The mask of a whole image in COCO's run-length code.

    height, width: in pixels.
    counts: the runs, as compressed text or as a list, as they were stated.
    """

    height: int
    width: int
    counts: str | tuple[int, ...]

    def to_coco(self) -> dict[str, object]:
        """Return the mask as COCO's JSON has it."""
        counts = self.counts if isinstance(self.counts, str) else list(self.counts)
        return {"size": [self.height, self.width], "counts": counts}


def parse_runs(mask: RunLengthMask) -> Runs | None:
    """Return the runs of a mask, None where they are not those of so many pixels."""
    runs = _decompress(mask.counts) if isinstance(mask.counts, str) else _convert(mask.counts)
    if runs is None or len(runs) == 0 or runs.min() < 0 or runs.max() > _MAX_RUN:
        return None
    # Millions of long runs would exceed the integers of their exact sum.
    if runs.sum(dtype=np.float64) > 2 * _MAX_RUN:
        return None
    return runs if int(runs.sum()) == mask.height * mask.width else None


def compress_runs(runs: Runs) -> str:
    """Return runs as compressed text."""
    values = runs.copy()
    values[3:] -= runs[1:-2]

    digits = np.zeros((len(values), _MAX_CHARACTERS), np.uint8)
    is_used = np.zeros(digits.shape, np.bool_)
    is_open = np.ones(len(values), np.bool_)
    for position in range(_MAX_CHARACTERS):
        digit = values & _VALUE
        values >>= _BITS
        # The last digit tells the sign: all bits above it are equal to its highest one.
        is_last = values == np.where(digit & _NEGATIVE, -1, 0)
        is_used[:, position] = is_open
        digits[:, position] = digit | np.where(is_last, 0, _MORE)
        is_open &= ~is_last
    return bytes(digits[is_used] + _FIRST_CHARACTER).decode("ascii")


def count_ones(runs: Runs) -> int:
    """Return how many pixels a mask has."""
    return int(runs[1::2].sum())


def bound_runs(runs: Runs, height: int) -> Corners | None:
    """Return the corners of the box around the ones of a mask, None where it has none.

    height: of the image, in pixels.
    """
    ends = np.cumsum(runs)[1::2]
    lengths = runs[1::2]
    ends = ends[lengths > 0]
    starts = ends - lengths[lengths > 0]
    if len(ends) == 0:
        return None

    first_columns, first_rows = np.divmod(starts, height)
    last_columns, last_rows = np.divmod(ends - 1, height)
    # A run over several columns touches the top and the bottom.
    is_one_column = first_columns == last_columns
    y1 = np.where(is_one_column, first_rows, 0).min()
    y2 = np.where(is_one_column, last_rows + 1, height).max()
    return float(first_columns[0]), float(y1), float(last_columns[-1] + 1), float(y2)


def decode_runs(runs: Runs, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return the pixels (height, width) of a mask, whose size must have been checked."""
    is_one = np.arange(len(runs)) % 2 == 1
    return np.repeat(is_one, runs).reshape(width, height).T


def join_spans(starts: Runs, ends: Runs, size: int) -> Runs:
    """Return the runs of a mask whose ones lie from `starts` to `ends` among `size` pixels.

    Spans ascend, and do not touch each other.
    """
    edges = np.stack([starts, ends], axis=1).reshape(-1)
    # A last run of no zeros is left out, as pycocotools does.
    is_full = len(edges) > 0 and edges[-1] == size
    return np.diff(edges, prepend=0) if is_full else np.diff(edges, prepend=0, append=size)


def _convert(counts: Sequence[int]) -> Runs | None:
    """Return a list of runs as an array, None where one is no whole number or too large."""
    if not all(isinstance(count, int) for count in counts):
        return None
    try:
        return np.array(counts, np.int64)
    except OverflowError:
        return None


def _decompress(text: str) -> Runs | None:
    """Return the runs in compressed text, None where it cannot be such."""
    if not text.isascii():
        return None
    bits = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - _FIRST_CHARACTER
    if len(bits) == 0 or bits.min() < 0 or bits.max() >= 2 * _MORE or bits[-1] & _MORE:
        return None

    ends = np.flatnonzero(bits & _MORE == 0)
    starts = np.append(0, ends[:-1] + 1)
    if (ends - starts).max() >= _MAX_CHARACTERS:
        return None
    places = np.arange(len(bits)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((bits & _VALUE) << (_BITS * places), starts)
    is_negative = bits[ends] & _NEGATIVE > 0
    values -= np.where(is_negative, 1 << (_BITS * (ends - starts + 1)), 0)

    # Each is the difference to the run before the previous one, but for the first three. Sums that
    # are too large for an integer come out wrong, and are told by the sum of all runs.
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs
