"""What every process of a sweep knows: a value that is made once and sent to each worker."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from detreg.defaults import PUBLISHED
from detreg.options import RunOptions, SweepOptions
from detreg.params import AUTO, JsonValue, build, to_plain
from detreg.sweeps.dimension import Suggester
from detreg.sweeps.request import SweepRequest
from detreg.sweeps.space import Space
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template

_NOT_LEARNED = (
    "data",
    "registered_model_name",
    "num_workers",
    "cache",
    "on_oom",
    # The digest of the dataset, which enters too, says which images there are.
    "on_bad_image",
    "operating_point",
    "promote_if",
    "score_threshold",
    "run_name",
)
"""Run options that do not change what a trial learns, so they do not make it another study."""


@dataclass(frozen=True)
class Plan:
    """A sweep that will be done: what is searched, on which dataset, and where its state is kept.

    Raises:
        ValueError: If the dataset or the database is missing.
    """

    space: Space
    options: RunOptions
    sweep: SweepOptions
    dataset_digest: str
    storage: str
    """The URL of Optuna's database."""
    parent: str = ""
    """The MLflow run of the sweep, in which its trials are nested; empty until it exists."""
    deadline: float | None = None
    """When the command must end, in seconds as time.time() gives them; None sets no limit."""
    precisions: Mapping[str, str] = field(default_factory=dict)
    """In which precision all trials of a template train, by its name, once that is chosen."""
    masks_digest: str = ""
    """That of the dataset's masks; empty where no trial may learn masks."""

    def __post_init__(self) -> None:
        """Check that the plan has a dataset and a database."""
        if not self.dataset_digest:
            raise ValueError("dataset_digest must be that of a dataset, got ''")
        if not self.storage:
            raise ValueError("storage must be the URL of a database, got ''")

    @property
    def name(self) -> str:
        """The study's name, by which the same command finds it again.

        It is made of everything that changes what a trial is, and of nothing else. Studies in
        databases have such names: another form of the same facts loses them.
        """
        if self.sweep.study:
            return self.sweep.study

        facts = [
            self.space.digest,
            self.dataset_digest,
            self._list_learned_options(),
            self.sweep.sampler,
            self.sweep.pruner,
        ]
        if self.masks_digest:
            facts.append(self.masks_digest)
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        templates = "+".join(self.space.templates)
        return f"{templates}-{self.dataset_digest[:8]}-{digest[:8]}"

    @property
    def metric(self) -> str:
        """The score on val by which trials are compared.

        Where masks are searched, some trials have boxes only, and all are compared by boxes.
        """
        return self.options.choose_metric(has_masks=self.space.has_masks)

    @property
    def templates(self) -> list[Template]:
        """The templates that are searched."""
        return [part.template for part in self.space.templates.values()]

    @property
    def num_epochs(self) -> int:
        """Epochs of the longest of the templates' first trials."""
        return max(self.get_first_params(template).num_epochs for template in self.templates)

    def get_first_params(self, template: Template) -> CommonParams:
        """Return the hyperparameters of a template's first trial."""
        part = self.space.templates[template.name]
        return build(template.params, part.find_first_values())

    def suggest_params(self, trial: Suggester) -> tuple[Template, CommonParams]:
        """Return the template and the hyperparameters of a trial, running or finished."""
        template, values = self.space.suggest(trial)
        return template, build(template.params, values)

    def with_run(self, parent: str, deadline: float | None) -> "Plan":
        """Return the plan with the MLflow run of its sweep, and when the command must end."""
        return replace(self, parent=parent, deadline=deadline)

    def with_precisions(self, precisions: Mapping[str, str]) -> "Plan":
        """Return the plan with the precision of each template."""
        return replace(self, precisions=precisions)

    def get_options(self, template: str, seed: int | None = None) -> RunOptions:
        """Return the run options of a trial of a template, or of its training with another seed.

        Raises:
            UsageError: If the seed is above the largest one.
        """
        values = to_plain(self.options)
        values["precision"] = self.precisions.get(template, self.options.precision)
        if self.space.may_have_masks:
            values["metric"] = self.metric
        if seed is not None:
            values["seed"] = seed
        return build(RunOptions, values)

    def _list_learned_options(self) -> dict[str, JsonValue]:
        """Return the run options that change what a trial learns.

        A study keeps the name that detreg 0.1 gave it, which had `amp` in place of `precision`, no
        recipe but the published one, and no metric but mAP.
        """
        options = to_plain(self.options)
        learned = {name: options[name] for name in options if name not in _NOT_LEARNED}
        precision = learned.pop("precision")
        learned["amp"] = precision == "fp16"
        if precision in ("fp32", "bf16"):
            learned["precision"] = precision
        if learned["recipe"] == PUBLISHED:
            del learned["recipe"]
        if learned["metric"] == AUTO:
            del learned["metric"]
        return learned


def make_plan(
    request: SweepRequest, dataset_digest: str, storage: str, masks_digest: str = ""
) -> Plan:
    """Return the plan of a requested sweep on a dataset, whose state is kept in `storage`."""
    return Plan(
        request.space,
        request.options,
        request.sweep,
        dataset_digest,
        storage,
        masks_digest=masks_digest,
    )
