"""What earlier trainings teach a new sweep: the values to try first (option `memory`).

Trainings of the template that differ in nothing but the searched hyperparameters are comparable,
and form a group. A group lies near where its dataset has traits like those of the sweep's, and its
fixed hyperparameters are the same. The best values of near groups are tried first, after the
defaults.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from detreg.data.dataset import Dataset
from detreg.data.traits import count_doublings
from detreg.errors import DetregError, summarize_error
from detreg.params import Value, to_texts
from detreg.sweeps.plan import Plan
from detreg.sweeps.space import TemplateSpace
from detreg.tracking.past_runs import PastRun, list_past_runs

MAX_REMEMBERED = 4
"""Trials of a sweep that begin with what earlier ones found."""

_COMPARABLE = (
    "num_epochs",
    "image_size",
    "batch_size",
    "base_model",
    "pretrained_weights",
    "recipe",
)
"""Hyperparameters and options that make scores and good values different. Others differ rarely."""

_RANK_DISTANCE = 0.5
"""By how much the next best values of a group count as farther away than its best."""

_OTHER_WORD_DISTANCE = 1.0
"""How far apart two base models are, or other words: as far as boxes that are twice as long."""


@dataclass(frozen=True)
class RememberedValues:
    """Values that were good in earlier trainings, in the order in which they are to be tried.

    params: as Optuna stores them.
    similarity: of the group they come from, from 0 to 1.
    """

    template: str
    params: dict[str, str | float]
    eid: str
    dataset_name: str
    mAP: float
    similarity: float

    def __str__(self) -> str:
        return (
            f"had mAP {self.mAP:.4f} on {self.dataset_name} (similarity {self.similarity:.2f}), "
            f"run {self.eid}"
        )


@dataclass(frozen=True)
class _Configuration:
    """Searched values of one or several runs of a group, with the mean of their scores."""

    values: tuple[Value, ...]
    eid: str
    mAP: float


@dataclass(frozen=True)
class _Candidate:
    """Values of a group that could be tried, and how far they are from this sweep."""

    remembered: RememberedValues
    distance: float


def remember_values(plan: Plan, dataset: Dataset) -> list[RememberedValues]:
    """Return the values that a new sweep tries after the defaults; an empty list without any.

    A tracking store that does not answer is a warning: the sweep begins as one that remembers
    nothing.
    """
    wanted = min(MAX_REMEMBERED, plan.sweep.trials - len(plan.templates))
    if not plan.sweep.memory or wanted <= 0:
        return []

    candidates: list[_Candidate] = []
    for part in plan.space.templates.values():
        try:
            past_runs = list_past_runs(part.name)
        except DetregError as error:
            message = f"Warning: earlier trainings are not known: {summarize_error(error)}"
            print(message, file=sys.stderr, flush=True)
            return []
        candidates += _find_candidates(plan, part, dataset, past_runs)

    candidates.sort(key=lambda candidate: candidate.distance)
    chosen: list[RememberedValues] = []
    tried = [plan.space.make_first_trial(template.name) for template in plan.templates]
    for candidate in candidates:
        if candidate.remembered.params not in tried and len(chosen) < wanted:
            chosen.append(candidate.remembered)
            tried.append(candidate.remembered.params)
    return chosen


def _find_candidates(
    plan: Plan, part: TemplateSpace, dataset: Dataset, past_runs: Sequence[PastRun]
) -> list[_Candidate]:
    """Return the values of the earlier runs of one template, of each group the best ones."""
    first_texts = to_texts(plan.get_first_params(part.template)) | to_texts(plan.options)
    fixed = [name for name in _COMPARABLE if name not in part.dimensions]

    groups: dict[tuple[str | None, ...], list[PastRun]] = {}
    for run in past_runs:
        key = (run.dataset_digest, *[run.texts.get(name) for name in fixed])
        groups.setdefault(key, []).append(run)

    candidates = []
    for group in groups.values():
        latest = group[0]
        distance = 0.0
        if latest.dataset_digest != dataset.digest:
            distance += dataset.traits.compute_distance(latest.traits)
        for name in fixed:
            distance += _compare_texts(first_texts[name], latest.texts.get(name, ""))

        configurations = _rank_configurations(part, group)
        # What was trained with one configuration alone was not chosen among others.
        first_rank = 0 if len(configurations) > 1 else 2
        for rank, found in enumerate(configurations, start=first_rank):
            remembered = RememberedValues(
                template=part.name,
                params=plan.space.make_trial(part.name, found.values),
                eid=found.eid,
                dataset_name=latest.dataset_name,
                mAP=found.mAP,
                similarity=1 / (1 + distance),
            )
            candidates.append(_Candidate(remembered, distance + rank * _RANK_DISTANCE))
    return candidates


def _rank_configurations(part: TemplateSpace, group: Sequence[PastRun]) -> list[_Configuration]:
    """Return the configurations of a group within the searched ranges, the best first."""
    runs_by_values: dict[tuple[Value, ...], list[PastRun]] = {}
    for run in group:
        values = _read_values(part, run)
        if values is not None:
            runs_by_values.setdefault(values, []).append(run)

    configurations = []
    for values, runs in runs_by_values.items():
        mean = statistics.mean(run.mAP for run in runs)
        configurations.append(_Configuration(values, runs[0].eid, mean))
    return sorted(configurations, key=lambda found: found.mAP, reverse=True)


def _read_values(part: TemplateSpace, run: PastRun) -> tuple[Value, ...] | None:
    """Return the searched values of a run, or None where one is missing or out of its range."""
    values = []
    for name, dimension in part.dimensions.items():
        try:
            value = dimension.param.parse(run.texts[name])
        except (KeyError, ValueError):
            return None
        if not dimension.contains(value):
            return None
        values.append(dimension.find_nearest_typed(value))
    return tuple(values)


def _compare_texts(first: str, second: str) -> float:
    """Return the distance of two values of a hyperparameter: of numbers, in doublings."""
    if first == second:
        return 0.0
    try:
        # An image size may have two sides, of which the first stands for both.
        return count_doublings(float(first.split(",")[0]), float(second.split(",")[0]))
    except ValueError:
        return _OTHER_WORD_DISTANCE
