"""The metrics of one epoch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

_TRAIN = "train/"
_VAL = "val/"


@dataclass(frozen=True)
class EpochMetrics:
    """What is known of an epoch after it was trained and scored.

    `train` holds the mean losses (`loss` is their sum) and the learning rate `lr`, `val` the scores on
    the val split (`mAP`, `mAP_50` ...). Epochs count from 1. Raises ValueError for another number.
    """

    epoch: int
    train: Mapping[str, float] = field(default_factory=dict)
    val: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.epoch < 1:
            raise ValueError(f"epoch must be 1 or more, got {self.epoch}")

    @property
    def mAP(self) -> float:
        """The mAP on the val split, from 0 to 1; 0 where the epoch was not scored."""
        return self.val.get("mAP", 0.0)

    def to_metrics(self) -> dict[str, float]:
        """Return the values under the names that MLflow has for them, such as `train/loss`."""
        train = {_TRAIN + name: value for name, value in self.train.items()}
        val = {_VAL + name: value for name, value in self.val.items()}
        return train | val

    def to_row(self) -> dict[str, float]:
        """Return the form that checkpoints and the report's plots have: `epoch` and the metrics."""
        return {"epoch": float(self.epoch), **self.to_metrics()}

    @classmethod
    def from_row(cls, row: Mapping[str, float]) -> "EpochMetrics":
        """Read what `to_row` has written."""
        return cls(int(row["epoch"]), _select(row, _TRAIN), _select(row, _VAL))


def _select(row: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {
        name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)
    }
