"""Checkpoints: tensors and plain values only, whole or absent, readable with `weights_only=True`.

    {
        "state_dict": the weights that are scored and exported,
        "meta": {"format", "dataset_meta", "epoch", "step", "best_epoch", "best_mAP", "history"},
        "training": what a resumed training needs, or None,
    }

`state_dict` and `meta.dataset_meta.CLASSES` are where MMDetection's tools look for them. `best.pth`
has no `training`.
"""

import pickle
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detreg.cgroups import get_free_memory
from detreg.errors import DataError, DiskError, NotFoundError
from detreg.files import open_regular, write_atomically
from detreg.memory import find_memory_error
from detreg.training.checkpoint_content import MetaReader, check_tensors, read_training
from detreg.training.checkpoint_file import check_checkpoint_file
from detreg.training.epoch_metrics import EpochMetrics

FORMAT = 1
# What torch raises for a file that is not what it expects.
_BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    tarfile.TarError,
)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after an epoch, or after a step within one.

    `state_dict` is what is scored and exported. `classes` is empty where a file from elsewhere
    names none. `epoch` counts finished epochs, and `history` has one entry for each of them.
    `best_score` is the score of the best one, by the metric of the training. `step` counts the
    steps done in the epoch after these; 0 is the end of an epoch. Where it equals the steps of an
    epoch, that epoch is still to be scored.
    `training` holds the `optimizer` and the `micro_batch` (train_loop.py); where an average of the
    weights is scored, also the `state_dict` of the network under training and `ema_steps`; within
    an epoch also the sums of the losses of its steps (loss_sums.py). It is None where the file
    cannot be resumed from.
    """

    state_dict: dict[str, Tensor]
    classes: tuple[str, ...] = ()
    epoch: int = 0
    best_epoch: int = 0
    best_score: float = 0.0
    history: tuple[EpochMetrics, ...] = ()
    training: dict[str, Any] | None = None
    step: int = 0

    @property
    def progress(self) -> tuple[int, int]:
        """How far the training has come, to be compared: finished epochs, steps after them."""
        return self.epoch, self.step


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; a reader, or a kill at any moment, sees the old file or the new one.

    Raises DiskError where the disk does not take it.
    """
    meta = {
        "format": FORMAT,
        "dataset_meta": {"CLASSES": list(checkpoint.classes)},
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "best_epoch": checkpoint.best_epoch,
        # Whatever the metric is: earlier versions read it under this name.
        "best_mAP": checkpoint.best_score,
        "history": [entry.to_row() for entry in checkpoint.history],
    }
    content = {
        "state_dict": checkpoint.state_dict,
        "meta": meta,
        "training": checkpoint.training,
    }

    try:
        with write_atomically(path) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch's zip writer raises RuntimeError
        if without_memory := find_memory_error(error):
            raise without_memory from error
        raise DiskError(
            f"{path} could not be written: {error}. Free some space, then resume with "
            "continue_from_eid=<this run's id>"
        ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of detreg or MMDetection, or a bare state dict.

    No code from the file is run. Raises RefusedError for a file that holds anything but tensors and
    plain values, and DataError for one that is broken, claims more than it holds, or has no
    weights.
    """
    content = _read(path)
    state_dict = _find_weights(content)
    if not state_dict:
        raise DataError(
            f"{path} has no weights under state_dict: it must be a checkpoint in MMDetection's "
            "layout"
        )

    reader = MetaReader.open(path, content.get("meta"))
    classes = reader.read_classes()
    # What a file from elsewhere holds under the same keys may be anything.
    if not reader.has_format(FORMAT):
        return Checkpoint(state_dict, classes)

    step = reader.read_step()
    return Checkpoint(
        state_dict=state_dict,
        classes=classes,
        epoch=reader.read_count("epoch"),
        best_epoch=reader.read_count("best_epoch"),
        best_score=reader.read_score("best_mAP"),
        history=reader.read_history(),
        training=read_training(path, content.get("training"), step),
        step=step,
    )


def _find_weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors under `state_dict` or `model`, or those of a bare state dict."""
    state_dict = content.get("state_dict", content.get("model", content))
    if not isinstance(state_dict, dict):
        return {}
    return {
        name: value
        for name, value in state_dict.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


class _IgnoredLogBuffer:
    """Stands in for MMEngine's log buffers, which lie beside the weights in its checkpoints."""

    def __setstate__(self, state: object) -> None:
        pass


def _ignore_getattr(*args: object) -> None:
    """Stand in for `getattr`, by which those buffers name their own methods."""


# Stock checkpoints hold logs of numpy numbers. To rebuild such an array runs no code from the file;
# whatever else is in a file is refused. The names with `numpy.core` are those of numpy 1.
_MULTIARRAY = np._core.multiarray  # type: ignore[attr-defined]
_HARMLESS: list[Any] = [
    (_IgnoredLogBuffer, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_ignore_getattr, "builtins.getattr"),
    (_ignore_getattr, "__builtin__.getattr"),
    (_MULTIARRAY._reconstruct, "numpy.core.multiarray._reconstruct"),
    (_MULTIARRAY.scalar, "numpy.core.multiarray.scalar"),
    _MULTIARRAY._reconstruct,
    _MULTIARRAY.scalar,
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "bool")),
]


def _read(path: Path) -> dict[str, Any]:
    """Return what a file holds, after its form and then its tensors have been checked."""
    try:
        with open_regular(path) as file, torch.serialization.safe_globals(_HARMLESS):
            check_checkpoint_file(file, path)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch puts its reason after a long text on how to switch the check off.
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()[0]
        raise DataError(
            f"{path} is refused: it holds more than tensors and plain values, or is broken "
            f"({reason})"
        ) from error
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is not there") from error
    except _BROKEN as error:
        without_memory = find_memory_error(error)
        if without_memory and not _has_room_for(path):
            raise without_memory from error
        lines = str(error).splitlines() or ["it is empty"]
        raise DataError(
            f"{path} cannot be read as a checkpoint, it is broken or cut off: {lines[0]}"
        ) from error

    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a checkpoint, got a {type(content).__name__}")
    check_tensors(path, content)
    return content


def _has_room_for(path: Path) -> bool:
    """Whether the memory is large enough for what a file can really hold."""
    return get_free_memory() > 3 * path.stat().st_size
