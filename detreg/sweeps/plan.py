"""What every process of a sweep knows: a value that is made once and handed to each worker."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from detreg import templates
from detreg.options import RunOptions, SweepOptions
from detreg.params import build, get_params, to_plain
from detreg.sweeps.space import Space, Suggests
from detreg.templates.template import CommonParams, Template

# Told to a run, but not part of what it learns.
_NOT_LEARNED = ("data", "registered_model_name", "num_workers", "score_threshold", "run_name")


@dataclass(frozen=True)
class Plan:
    """A sweep: what is searched, and where it is kept."""

    space: Space
    options: RunOptions
    sweep: SweepOptions
    dataset_digest: str
    parent: str = ""
    """The MLflow run of the sweep, in which those of its trials are nested."""
    storage: str = ""
    """The URL of Optuna's database."""
    deadline: float | None = None
    """When it has to end, as time.time() gives it."""

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
        return f"{'+'.join(self.space.dimensions)}-{self.dataset_digest[:8]}-{digest}"

    @property
    def templates(self) -> list[Template]:
        """The templates that are searched."""
        return [templates.TEMPLATES[name] for name in self.space.dimensions]

    def started(self, parent: str, deadline: float | None) -> "Plan":
        """The plan of a sweep that has begun."""
        return replace(self, parent=parent, deadline=deadline)

    def defaults(self, template: Template) -> CommonParams:
        """The hyperparameters of a template's first trial."""
        return build(template.params, self.space.find_first_values(template.name))

    def chosen(self, trial: Suggests) -> tuple[Template, CommonParams]:
        """The template and the hyperparameters of a trial."""
        template, values = self.space.values(trial)
        return template, build(template.params, values)

    @property
    def num_epochs(self) -> int:
        """Of the longest first trial."""
        return max(self.defaults(template).num_epochs for template in self.templates)

    def with_seed(self, seed: int) -> RunOptions:
        """The run options of a training with another seed."""
        return build(RunOptions, {**self._texts, "seed": seed})

    @property
    def _texts(self) -> Mapping[str, Any]:
        return {name: getattr(self.options, name) for name in get_params(RunOptions)}
