"""The best trial against the defaults, measured with other seeds where a sweep has trained some."""

import math
import statistics
from collections.abc import Sequence

from optuna.trial import FrozenTrial

from detreg.defaults import BOX_METRIC
from detreg.sweeps.jobs import RetrainJob, Side, read_job


def compare_with_defaults(
    best: FrozenTrial,
    defaults: FrozenTrial | None,
    final_trials: Sequence[FrozenTrial],
    metric: str = BOX_METRIC,
) -> str:
    """Return the comparison of the best trial with the defaults in a sentence.

    Args:
        best: the best trial of the search.
        defaults: the trial with the defaults; None where it is not complete.
        final_trials: trials with final jobs, of which those that train again are compared.
        metric: the name of the trials' scores.
    """
    if defaults is None:
        return "the defaults were not trained to their end, so there is nothing to compare with"
    if defaults.number == best.number:
        return f"no trial beats the defaults, whose {metric} is {best.value:.4f}"

    best_scores = _get_retrained_scores(final_trials, Side.BEST)
    default_scores = _get_retrained_scores(final_trials, Side.DEFAULTS)
    if not best_scores or not default_scores:
        gain = (best.value or 0) - (defaults.value or 0)
        return (
            f"{metric} {best.value:.4f} against {defaults.value:.4f} of the defaults, {gain:+.4f}, "
            "from one seed: confirm=3 would measure it"
        )
    return _compare_scores(best_scores, default_scores, metric)


def _get_retrained_scores(final_trials: Sequence[FrozenTrial], side: Side) -> list[float]:
    scores = []
    for trial in final_trials:
        job = read_job(trial)
        if isinstance(job, RetrainJob) and job.side is side and trial.value is not None:
            scores.append(trial.value)
    return scores


def _compare_scores(best: Sequence[float], defaults: Sequence[float], metric: str) -> str:
    """Compare the means of two samples, with the standard error of their difference."""
    best_mean = statistics.mean(best)
    default_mean = statistics.mean(defaults)
    gain = best_mean - default_mean
    means = (
        f"{metric} {best_mean:.4f} against {default_mean:.4f} of the defaults, "
        f"trained again with {len(best)} and {len(defaults)} other seeds"
    )
    if len(best) < 2 or len(defaults) < 2:
        return f"{means}: {gain:+.4f}; at least two seeds are needed for a standard error"

    variance = statistics.variance(best) / len(best)
    variance += statistics.variance(defaults) / len(defaults)
    word = "better" if gain > 0 else "worse"
    error = math.sqrt(variance)
    return f"{means}: {word} than the defaults by {abs(gain):.4f} ± {error:.4f} (standard error)"
