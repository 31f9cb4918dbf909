"""What the processes of a sweep hand to one another: the task of a worker, and final jobs.

A final job is one trial of a sweep's second study, whose workers register the best model and train
the best and the defaults again with other seeds. It is stored in the trial's user attributes;
studies in databases have them, so the stored form must not change.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, Trial

from detreg.sweeps.plan import Plan

JOB_ATTR = "job"
"""Of a trial of the second study: its final job, as JSON."""
PUBLISHED_ATTR = "published"
"""Of a trial that registered the best: its TrainingResult, as JSON."""


class Stage(enum.Enum):
    """What the trials of a study are."""

    SEARCH = "train with values that the sampler has chosen"
    FINISH = "do a final job"


@dataclass(frozen=True)
class WorkerTask:
    """All that a worker process is given. It is pickled, so that it reaches a new interpreter."""

    plan: Plan
    study_name: str
    wanted: int
    """Lineages after which no trial is started."""
    stage: Stage
    pool_size: int
    """Workers of the command, which share the machine's cores."""
    gpu: str | None
    """The GPU as CUDA_VISIBLE_DEVICES names it."""
    log: Path
    """The file that the worker's output is appended to."""


class Side(enum.StrEnum):
    """The two trials that a sweep compares at its end."""

    BEST = "best"
    DEFAULTS = "defaults"


@dataclass(frozen=True)
class PublishJob:
    """Export and register the best checkpoint of the best trial's run."""

    run_id: str
    template: str
    hyperparameters: Mapping[str, object]

    def to_json(self) -> dict[str, object]:
        """Return the stored form."""
        return {
            "does": "publish",
            "run_id": self.run_id,
            "who": Side.BEST.value,
            "template": self.template,
            "hyperparameters": dict(self.hyperparameters),
        }


@dataclass(frozen=True)
class RetrainJob:
    """Train a side again with another seed."""

    seed: int
    side: Side
    template: str
    hyperparameters: Mapping[str, object]

    def to_json(self) -> dict[str, object]:
        """Return the stored form."""
        return {
            "does": "train",
            "seed": self.seed,
            "who": self.side.value,
            "template": self.template,
            "hyperparameters": dict(self.hyperparameters),
        }


FinalJob = PublishJob | RetrainJob


def read_job(trial: FrozenTrial | Trial) -> FinalJob | None:
    """Return a trial's final job; None for a trial of the search."""
    stored = trial.user_attrs.get(JOB_ATTR)
    return None if stored is None else parse_job(stored)


def parse_job(stored: Mapping[str, Any]) -> FinalJob:
    """Return the job of its stored form. Raises ValueError for any other."""
    match stored["does"]:
        case "publish":
            return PublishJob(stored["run_id"], stored["template"], stored["hyperparameters"])
        case "train":
            return RetrainJob(
                seed=stored["seed"],
                side=Side(stored["who"]),
                template=stored["template"],
                hyperparameters=stored["hyperparameters"],
            )
        case unknown:
            raise ValueError(f"a final job must publish or train, got {unknown!r}")
