"""What every process of a sweep knows: a value that is made once and sent to each worker."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from detreg import templates
from detreg.options import RunOptions, SweepOptions
from detreg.params import build, get_params, to_plain
from detreg.sweeps.dimension import Suggester
from detreg.sweeps.request import SweepRequest
from detreg.sweeps.space import Space
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template

# Told to a run, but not part of what it learns.
_NOT_LEARNED = ("data", "registered_model_name", "num_workers", "score_threshold", "run_name")


@dataclass(frozen=True)
class Plan:
    """A sweep that will be done: what is searched, on which dataset, and where its state is kept."""

    space: Space
    options: RunOptions
    sweep: SweepOptions
    dataset_digest: str
    storage: str
    """The URL of Optuna's database."""
    parent: str = ""
    """The MLflow run of the sweep, in which those of its trials are nested; empty until it exists."""
    deadline: float | None = None
    """When the command must end, as time.time() gives it."""

    def __post_init__(self) -> None:
        """Raise ValueError if the dataset or the database is missing: the caller has a bug."""
        if not self.dataset_digest:
            raise ValueError("dataset_digest must be that of a dataset, got ''")
        if not self.storage:
            raise ValueError("storage must be the URL of a database, got ''")

    @property
    def name(self) -> str:
        """The study's: the same for the same arguments, another where anything changes what a trial is."""
        if self.sweep.study:
            return self.sweep.study
        learned = {
            name: value
            for name, value in to_plain(self.options).items()
            if name not in _NOT_LEARNED
        }
        facts = [
            self.space.digest,
            self.dataset_digest,
            learned,
            self.sweep.sampler,
            self.sweep.pruner,
        ]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
        return f"{'+'.join(self.space.templates)}-{self.dataset_digest[:8]}-{digest}"

    @property
    def templates(self) -> list[Template]:
        """The templates that are searched."""
        return [templates.TEMPLATES[name] for name in self.space.templates]

    def start(self, parent: str, deadline: float | None) -> "Plan":
        """Return the plan of a sweep that has started, in the MLflow run `parent`."""
        return replace(self, parent=parent, deadline=deadline)

    def get_first_params(self, template: Template) -> CommonParams:
        """Return the hyperparameters of a template's first trial."""
        return build(template.params, self.space.templates[template.name].find_first_values())

    def suggest_params(self, trial: Suggester) -> tuple[Template, CommonParams]:
        """Return the template and the hyperparameters of a trial, running or finished."""
        template, values = self.space.suggest(trial)
        return template, build(template.params, values)

    @property
    def num_epochs(self) -> int:
        """Of the longest first trial."""
        return max(self.get_first_params(template).num_epochs for template in self.templates)

    def with_seed(self, seed: int) -> RunOptions:
        """The run options of a training with another seed."""
        return build(RunOptions, {**self._texts, "seed": seed})

    @property
    def _texts(self) -> Mapping[str, Any]:
        return {name: getattr(self.options, name) for name in get_params(RunOptions)}


def make_plan(request: SweepRequest, dataset_digest: str, storage: str) -> Plan:
    """Return the plan of a requested sweep, on the dataset of this digest, kept in `storage`."""
    return Plan(request.space, request.options, request.sweep, dataset_digest, storage)
