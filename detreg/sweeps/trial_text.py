"""How a trial is described to people, in the terminal and in the report."""

from collections.abc import Mapping

from optuna.trial import FrozenTrial

from detreg.sweeps.duration import format_duration


def format_values(params: Mapping[str, object]) -> str:
    """Return the values of a trial as `name=value name=value`, numbers with four digits."""
    words = []
    for name, value in params.items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        words.append(f"{name}={text}")
    return " ".join(words)


def format_time(trial: FrozenTrial) -> str:
    """Return how long a trial took, such as `2:03`; empty until it has ended."""
    if trial.duration is None:
        return ""
    return format_duration(trial.duration.total_seconds())


def get_best_score(trial: FrozenTrial) -> float | None:
    """Return the best score that a trial has reported, or None if it has not ended an epoch."""
    return max(trial.intermediate_values.values(), default=None)
