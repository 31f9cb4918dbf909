"""The metrics of each epoch of a training, and which epoch was the best."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from detreg.defaults import BOX_METRIC, MASK_METRIC

_TRAIN = "train/"
_VAL = "val/"


@dataclass(frozen=True)
class EpochMetrics:
    """What is known of an epoch after it was trained and scored.

    `train` holds the mean losses (`loss` is their sum) and the learning rate `lr`, `val` the scores
    on the val split (`mAP`, `mAP_50` ..., with masks also `segm_mAP` ...). Epochs count from 1.
    Raises ValueError for a smaller number.
    """

    epoch: int
    train: Mapping[str, float] = field(default_factory=dict)
    val: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.epoch < 1:
            raise ValueError(f"epoch must be 1 or more, got {self.epoch}")

    @property
    def mAP(self) -> float:  # noqa: N802  the field's spelling
        """The mAP of boxes on the val split, from 0 to 1; 0 where the epoch was not scored."""
        return self.get_score(BOX_METRIC)

    def get_score(self, metric: str) -> float:
        """Return `mAP` or `segm_mAP` on the val split, 0 where the epoch was not scored."""
        return self.val.get(metric, 0.0)

    def to_metrics(self) -> dict[str, float]:
        """Return the values under the names that MLflow has for them, such as `train/loss`."""
        train = {_TRAIN + name: value for name, value in self.train.items()}
        val = {_VAL + name: value for name, value in self.val.items()}
        return train | val

    def to_first_charts(self) -> dict[str, float]:
        """Return the values that tell most, under names that MLflow shows before all others.

        MLflow has a section of charts for each prefix, those with a capital letter first, and the
        metrics without a prefix after all others. Nothing but the name changes that order.
        """
        values = {BOX_METRIC: self.mAP, "train_loss": self.train.get("loss", math.nan)}
        if MASK_METRIC in self.val:
            values[MASK_METRIC] = self.val[MASK_METRIC]
        return {f"Progress/{name}": value for name, value in values.items()}

    def to_row(self) -> dict[str, float]:
        """Return the form that checkpoints and the report have: `epoch` and the metrics."""
        return {"epoch": float(self.epoch), **self.to_metrics()}

    @classmethod
    def from_row(cls, row: Mapping[str, float]) -> "EpochMetrics":
        """Read what `to_row` has written."""
        return cls(int(row["epoch"]), _select(row, _TRAIN), _select(row, _VAL))


@dataclass
class TrainingHistory:
    """The epochs that a training has done, and the best of them.

    `metric` is the score on val that the best one is best by. `best_score` is -1 before the first
    epoch, so that any epoch is better.
    """

    entries: list[EpochMetrics] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = -1.0
    metric: str = BOX_METRIC

    def add(self, entry: EpochMetrics) -> None:
        """Append an epoch; of several with the same score the first stays the best."""
        self.entries.append(entry)
        score = entry.get_score(self.metric)
        if score > self.best_score:
            self.best_epoch = entry.epoch
            self.best_score = score

    @property
    def last_score(self) -> float:
        """The score of the last epoch, by which it may be the best."""
        return self.entries[-1].get_score(self.metric)

    @property
    def is_last_best(self) -> bool:
        """Whether the last epoch is better than all before it."""
        return bool(self.entries) and self.entries[-1].epoch == self.best_epoch


def _select(row: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Return the values whose names begin with `prefix`, under the rest of their names."""
    return {
        name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)
    }
