"""What a sweep searches of one hyperparameter: a range of numbers, or a few choices."""

import math
from dataclasses import dataclass
from typing import Protocol

from detreg.params import Param, Value

# Optuna suggests 0.6000000000000001 where 0.6 is meant.
_TOLERANCE = 1e-8

# Optuna counts steps in decimals of 28 digits: more steps than these would not fit.
_MAX_STEPS = 1e9


class Suggester(Protocol):
    """The part of an Optuna trial, running or finished, that a dimension asks for its value."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """Return an integer."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float:
        """Return a number."""

    def suggest_categorical(self, name: str, choices: list[str]) -> str:
        """Return one of the choices."""


@dataclass(frozen=True)
class Dimension:
    """What is searched of one hyperparameter: `choices`, or numbers from `low` to `high`.

    Raises:
        ValueError: If the numbers are not a range that Optuna can search, or a value is outside
            the hyperparameter's domain.
    """

    param: Param
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    choices: tuple[str, ...] = ()
    """Texts that `param` parses; empty for a range of numbers."""

    def __post_init__(self) -> None:
        """Check the choices or the range."""
        if self.choices:
            if len(set(self.choices)) < 2:
                raise ValueError(f"there must be two choices or more, got {self.choices[0]}")
            for choice in self.choices:
                self.param.parse(choice)
            return

        if self.low >= self.high:
            raise ValueError(f"the minimum {self.low:g} must be below the maximum {self.high:g}")
        self.param.parse(self.low)
        self.param.parse(self.high)

        if self.log:
            self._check_log_scale()
        elif self.step is not None:
            self._check_step(self.step)

    @property
    def ends(self) -> tuple[Value, ...]:
        """Typed values at the ends of the range, or all choices."""
        if self.choices:
            return tuple(self.param.parse(choice) for choice in self.choices)
        return self.param.parse(self.low), self.param.parse(self.high)

    def suggest(self, trial: Suggester, key: str) -> Value:
        """Return the typed value of a trial, which Optuna stores under the name `key`."""
        return self.param.parse(self._suggest_stored(trial, key))

    def find_nearest(self, value: Value) -> str | float:
        """Return the value of this dimension nearest to a typed value, as Optuna stores it.

        The first choice is the nearest to a value that is not among the choices.

        Raises:
            TypeError: If the dimension is a range and the value neither a number nor a size.
        """
        if self.choices:
            text = self.param.format(value)
            return text if text in self.choices else self.choices[0]

        # A size is searched by its one side, in pixels.
        number = value[0] if isinstance(value, tuple) else value
        if not isinstance(number, int | float):
            raise TypeError(f"{self.param.name} must be a number or a size, got {value!r}")

        nearest = min(max(number, self.low), self.high)
        if self.step:
            # The grid begins at `low`, not at zero.
            steps = round((nearest - self.low) / self.step)
            nearest = self.low + steps * self.step
        return float(nearest) if self.param.type == "float" else int(nearest)

    def contains(self, value: Value) -> bool:
        """Whether a typed value is among the choices, or within the range."""
        if self.choices:
            return self.param.format(value) in self.choices
        number = value[0] if isinstance(value, tuple) else value
        return isinstance(number, int | float) and self.low <= number <= self.high

    def find_nearest_typed(self, value: Value) -> Value:
        """Return the value nearest to a typed value, in the type of the hyperparameter."""
        return self.param.parse(self.find_nearest(value))

    def __str__(self) -> str:
        # A study's name contains a digest of this text: a change here loses started sweeps.
        if self.choices:
            return "|".join(self.choices)
        text = f"{self.low:g}:{self.high:g}"
        if self.log:
            return f"{text}:log"
        if self.step:
            return f"{text}:{self.step:g}"
        return text

    def _suggest_stored(self, trial: Suggester, key: str) -> str | float:
        if self.choices:
            return trial.suggest_categorical(key, list(self.choices))
        if self.param.type == "float":
            return trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)

        # Integers and sizes are integers in Optuna, too.
        low = int(self.low)
        high = int(self.high)
        step = int(self.step or 1)
        return trial.suggest_int(key, low, high, step=step, log=self.log)

    def _check_log_scale(self) -> None:
        # On a log scale Optuna takes no step except the one between integers.
        is_integer = self.param.type == "int" and self.param.step == 1
        is_stepped = bool(self.param.step) and not is_integer
        if self.low <= 0 or is_stepped or self.step is not None:
            raise ValueError(
                "a log scale needs a minimum above 0 and a hyperparameter without steps"
            )

    def _check_step(self, step: float) -> None:
        span = self.high - self.low
        if not 0 < step < math.inf:
            raise ValueError(f"the step must be above 0 and finite, got {step:g}")
        if span / step > _MAX_STEPS:
            raise ValueError(f"the step must be at least {span / _MAX_STEPS:g}, got {step:g}")
        if self.param.step and not _divides(self.param.step, step):
            raise ValueError(f"the step must be a multiple of {self.param.step:g}, got {step:g}")
        if not _divides(step, span):
            # Optuna would lower the maximum with no more than a warning.
            below = self.low + math.floor(span / step + _TOLERANCE) * step
            raise ValueError(
                f"the step {step:g} does not divide the range; "
                f"the maximum would be {below:g} or {below + step:g}"
            )


def _divides(step: float, span: float) -> bool:
    steps = span / step
    return abs(steps - round(steps)) < _TOLERANCE
