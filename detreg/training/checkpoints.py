"""Checkpoints: tensors and plain values only, whole or absent, readable with `weights_only=True`.

    {"state_dict": the weights that are scored and exported, "meta": {...}, "training": what a continued training needs, or None}

`state_dict` and `meta.dataset_meta.CLASSES` are where MMDetection's tools look for them. `best.pth` has no `training`.
"""

import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detreg.errors import DataError, DiskError

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A training's state after an epoch.

    `classes` may be empty where a file of another origin names none. `epoch` counts finished epochs; `history` has one dict of
    metrics for each of them.
    """

    state_dict: dict[str, Tensor]
    classes: tuple[str, ...] = ()
    epoch: int = 0
    best_epoch: int = 0
    best_mAP: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    training: dict[str, Any] | None = None
    """`state_dict` of the network under training where an average of it is scored, `ema_steps`, and `optimizer`."""


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Writes the file under another name, to the disk, then renames it: a reader, or a kill, sees the old file or the new.

    Raises DiskError where the disk does not take it.
    """
    meta = {
        "format": FORMAT,
        "dataset_meta": {"CLASSES": list(checkpoint.classes)},
        "epoch": checkpoint.epoch,
        "best_epoch": checkpoint.best_epoch,
        "best_mAP": checkpoint.best_mAP,
        "history": checkpoint.history,
    }
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(
                {
                    "state_dict": checkpoint.state_dict,
                    "meta": meta,
                    "training": checkpoint.training,
                },
                file,
            )
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise DiskError(
            f"{path} could not be written: {error}. Free some space and continue from this run's id"
        ) from error


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint of detreg's or of MMDetection's, or a bare state dict, without running anything from the file.

    Raises DataError for a file that is broken, holds anything but tensors and plain values, or has no weights.
    """
    content = _read(path)
    state_dict = content.get("state_dict", content.get("model", content))
    if not isinstance(state_dict, dict) or not any(
        isinstance(value, Tensor) for value in state_dict.values()
    ):
        raise DataError(
            f"{path} has no weights under state_dict: a checkpoint of MMDetection's layout is wanted"
        )
    meta = content.get("meta") or {}
    training = content.get("training") if meta.get("format") == FORMAT else None
    return Checkpoint(
        state_dict={name: value for name, value in state_dict.items() if isinstance(value, Tensor)},
        classes=_classes(meta),
        epoch=int(meta.get("epoch") or 0),
        best_epoch=int(meta.get("best_epoch") or 0),
        best_mAP=float(meta.get("best_mAP") or 0.0),
        history=list(meta.get("history") or []),
        training=training,
    )


def _classes(meta: dict[str, Any]) -> tuple[str, ...]:
    dataset_meta = meta.get("dataset_meta") or {}
    names = dataset_meta.get("CLASSES") or dataset_meta.get("classes") or meta.get("CLASSES") or ()
    return (names,) if isinstance(names, str) else tuple(names)


class _Ignored:
    """Stands in for MMEngine's log buffers, which lie beside the weights in its checkpoints."""

    def __setstate__(self, state: Any) -> None:
        pass


def _nothing(*args: Any) -> None:
    """Stands in for `getattr`, by which those buffers name their own methods."""


def _read(path: Path) -> dict[str, Any]:
    import numpy as np

    # Stock checkpoints hold logs of numpy numbers. Rebuilding such an array runs no code of the file's; anything else is refused.
    harmless = [
        (_Ignored, "mmengine.logging.history_buffer.HistoryBuffer"),
        (_nothing, "builtins.getattr"),
        (_nothing, "__builtin__.getattr"),
        (np._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),  # type: ignore[attr-defined]
        (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
        np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
        np._core.multiarray.scalar,  # type: ignore[attr-defined]
        np.ndarray,
        np.dtype,
        *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "bool")),
    ]
    try:
        with torch.serialization.safe_globals(harmless):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()[0]
        raise DataError(
            f"{path} is refused: it holds more than tensors and plain values, or is broken ({reason})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or ["it is empty"])[0]
        raise DataError(
            f"{path} cannot be read as a checkpoint, it is broken or cut off: {reason}"
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content
