"""Judges what a checkpoint holds after torch has read it.

A file may come from anywhere, so types, bounds and sizes are checked before anything uses them.
Everything here raises DataError.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from detreg.errors import DataError, quote
from detreg.training.epoch_metrics import EpochMetrics
from detreg.training.loss_sums import has_loss_sums

_MAX_EPOCHS = 1_000_000
_MAX_STEPS = 10**9


@dataclass(frozen=True)
class MetaReader:
    """Reads `meta`, a dict of plain values."""

    path: Path
    meta: Mapping[Any, Any]

    @classmethod
    def open(cls, path: Path, meta: object) -> "MetaReader":
        """Return a reader of what a file holds under `meta`; None is nothing."""
        if meta is None:
            meta = {}
        if not isinstance(meta, dict):
            raise DataError(f"{path}: meta must be a dict, got {type(meta).__name__}")
        return cls(path, meta)

    def has_format(self, number: int) -> bool:
        """Whether detreg wrote the file, in this format."""
        value = self.meta.get("format")
        return isinstance(value, int) and value == number

    def read_classes(self) -> tuple[str, ...]:
        """Return the names of the classes, none where the file names none."""
        dataset_meta = self.meta.get("dataset_meta")
        if dataset_meta is None:
            dataset_meta = {}
        if not isinstance(dataset_meta, dict):
            raise DataError(f"{self.path}: dataset_meta must be a dict, got {quote(dataset_meta)}")

        # MMDetection 3, some files of its users, and MMDetection 2. None or nothing says nothing.
        names: object = ()
        for place, key in (
            (self.meta, "CLASSES"),
            (dataset_meta, "classes"),
            (dataset_meta, "CLASSES"),
        ):
            value = place.get(key)
            is_empty = value is None or (isinstance(value, str | list | tuple) and not value)
            if not is_empty:
                names = value
        if isinstance(names, str):
            names = (names,)
        if not isinstance(names, list | tuple) or not all(_is_plain_text(name) for name in names):
            raise DataError(f"{self.path}: CLASSES must be a list of texts, got {quote(names)}")
        return tuple(names)

    def read_count(self, name: str) -> int:
        """Return a number of epochs."""
        return self._check_count(name, self.meta.get(name), _MAX_EPOCHS)

    def read_step(self) -> int:
        """Return the number of steps after the last epoch; files of detreg 0.1 have none."""
        return self._check_count("step", self.meta.get("step", 0), _MAX_STEPS)

    def read_score(self, name: str) -> float:
        """Return a score, which is -1 before the first epoch."""
        value = self.meta.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and -1 <= value <= 1:
            return float(value)
        raise DataError(f"{self.path}: {name} must be a score, got {quote(value)}")

    def read_history(self) -> tuple[EpochMetrics, ...]:
        """Return the metrics of each epoch."""
        rows = self.meta.get("history")
        if not isinstance(rows, list) or len(rows) > _MAX_EPOCHS:
            raise DataError(f"{self.path}: history must be a list, got {quote(rows)}")
        return tuple(self._read_row(row) for row in rows)

    def _check_count(self, name: str, value: object, limit: int) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit:
            return value
        raise DataError(
            f"{self.path}: {name} must be a whole number below {limit}, got {quote(value)}"
        )

    def _read_row(self, row: Any) -> EpochMetrics:
        is_row = isinstance(row, dict) and all(_is_plain_text(name) for name in row)
        if not is_row or not all(_is_number(value) for value in row.values()):
            raise DataError(f"{self.path}: history must hold numbers, got {quote(row)}")
        try:
            return EpochMetrics.from_row(row)
        except (ArithmeticError, KeyError, ValueError) as error:
            raise DataError(f"{self.path}: history has a wrong epoch: {quote(row)}") from error


def read_training(path: Path, training: object, step: int) -> dict[str, Any] | None:
    """Return what a training that resumes after `step` needs, None where a file has nothing."""
    if training is None:
        return None
    if not isinstance(training, dict) or not isinstance(training.get("optimizer"), dict):
        raise DataError(f"{path}: training must be a dict with an optimizer")

    micro_batch = training.get("micro_batch")
    is_number = isinstance(micro_batch, int) and micro_batch > 0
    if micro_batch is not None and not is_number:
        raise DataError(f"{path}: training.micro_batch must be a number of images")
    if step and not has_loss_sums(training):
        raise DataError(f"{path}: training must have the loss_sums of {step} steps")
    return training


def check_tensors(path: Path, content: object) -> None:
    """Check that no tensor is more than its bytes in the file.

    A file of a kilobyte can claim a tensor of any shape whose elements are all the same one; a copy
    of it would fill the memory.
    """
    waiting = [content]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple | set):
            waiting += value
        elif isinstance(value, Tensor):
            _check_tensor(path, value)


def _check_tensor(path: Path, tensor: Tensor) -> None:
    held = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > held:
        raise DataError(
            f"{path} has a tensor of shape {quote(tuple(tensor.shape))} with {held} "
            "bytes: it is broken"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_plain_text(value: object) -> bool:
    """Whether a value is text that can be printed and stored: no half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)
