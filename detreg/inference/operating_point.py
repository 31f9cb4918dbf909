"""The operating point in a model's card: at which score it is used, and how good it is there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detreg.errors import UsageError, quote
from detreg.inference.preprocessing import is_number

MAX_DESCRIPTION_CHARACTERS = 1000
MAX_COUNT = 10**12
"""Of images and objects."""


@dataclass(frozen=True)
class ThresholdFigures:
    """A score threshold, and what a split shows of the detections that reach it.

    `interval` has the lowest and the highest threshold that other images of the same kind would
    lead to (bootstrap over images, 95 %); None where that cannot be said. Precision, recall and F1
    are at IoU 0.5, from 0 to 1, None where there is nothing to divide by.
    """

    score_threshold: float
    interval: tuple[float, float] | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None

    def as_metrics(self, prefix: str = "") -> dict[str, float]:
        """Return precision, recall and F1 under MLflow's metric names, `test/f1` for prefix `test`.

        What is not defined is left out.
        """
        values = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        start = f"{prefix}/" if prefix else ""
        return {start + name: value for name, value in values.items() if value is not None}

    def find_problems(self) -> list[str]:
        """Return what a file claims that cannot be."""
        problems = []
        if not is_number(self.score_threshold, 0, 1):
            problems.append(
                f"score_threshold must be a number from 0 to 1, got {quote(self.score_threshold)}"
            )
        for name in ("precision", "recall", "f1"):
            value = getattr(self, name)
            if value is not None and not is_number(value, 0, 1):
                problems.append(f"{name} must be a number from 0 to 1, got {quote(value)}")

        if self.interval is not None and not _is_interval(self.interval):
            problems.append(f"interval must be two numbers from 0 to 1, got {quote(self.interval)}")
        return problems


@dataclass(frozen=True)
class OperatingPoint:
    """How the card's score threshold was found.

    `rule` is the run option `operating_point`, or `given` where the user has set the threshold.
    `is_kept` says whether the split has a threshold that does what the rule asks for. `split`,
    `num_images` and `num_objects` say on what it was found. `per_class` has the best F1 of each
    class on val, whatever the rule; a class without objects or right detections there is not in it.
    A file may claim anything, so types and bounds are checked: UsageError for what does not fit.
    """

    rule: str
    is_kept: bool
    split: str
    num_images: int
    num_objects: int
    overall: ThresholdFigures
    per_class: Mapping[str, ThresholdFigures]
    description: str

    def __post_init__(self) -> None:
        problems = []
        for name in ("rule", "split", "description"):
            value: object = getattr(self, name)
            if not isinstance(value, str) or len(value) > MAX_DESCRIPTION_CHARACTERS:
                problems.append(f"operating_point.{name} must be text, got {quote(value)}")
        for name in ("num_images", "num_objects"):
            if not is_number(getattr(self, name), 0, MAX_COUNT):
                problems.append(
                    f"operating_point.{name} must be a number, got {quote(getattr(self, name))}"
                )
        is_kept: object = self.is_kept
        if not isinstance(is_kept, bool):
            problems.append(f"operating_point.is_kept must be true or false, got {quote(is_kept)}")

        problems += [f"operating_point.{problem}" for problem in self.overall.find_problems()]
        for class_name, figures in self.per_class.items():
            place = f"operating_point of {quote(class_name)}"
            problems += [f"{place}: {problem}" for problem in figures.find_problems()]
        if problems:
            raise UsageError(problems)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "OperatingPoint":
        """Return what `dataclasses.asdict` made of one, after JSON.

        Raises KeyError, TypeError or UsageError for anything else.
        """
        of_classes = values["per_class"]
        if not isinstance(of_classes, Mapping):
            raise TypeError(f"per_class must be an object, got {quote(of_classes)}")
        per_class = {}
        for class_name, figures in of_classes.items():
            per_class[class_name] = _read_figures(figures)
        return cls(
            rule=values["rule"],
            is_kept=values["is_kept"],
            split=values["split"],
            num_images=values["num_images"],
            num_objects=values["num_objects"],
            overall=_read_figures(values["overall"]),
            per_class=per_class,
            description=values["description"],
        )


def _is_interval(value: object) -> bool:
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    return all(is_number(bound, 0, 1) for bound in value)


def _read_figures(values: Mapping[str, Any]) -> ThresholdFigures:
    # JSON has lists where the dataclass has tuples.
    interval = values["interval"]
    return ThresholdFigures(
        score_threshold=values["score_threshold"],
        interval=tuple(interval) if isinstance(interval, list) else interval,
        precision=values["precision"],
        recall=values["recall"],
        f1=values["f1"],
    )
