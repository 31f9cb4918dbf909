"""A job: everything that one training is made of, each part valid, before its run starts."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pprint import pformat

from mmengine.config import Config

from detreg.data.dataset import Dataset
from detreg.data.image_hashes import IMAGE_HASHES
from detreg.data.leaving_out import LEFT_OUT_MESSAGE
from detreg.options import RunOptions
from detreg.params import to_plain, to_texts
from detreg.templates.common_params import CommonParams
from detreg.templates.recipe import Recipe
from detreg.templates.template import Template
from detreg.tracking import runs
from detreg.tracking.runs import Run
from detreg.training.compose import compose
from detreg.training.initial_weights import PARAMS_FILE, InitialWeights, choose_initial_weights
from detreg.training.loaders import describe_small_images
from detreg.training.precision_choice import PrecisionChoice, choose_precision
from detreg.training.settling import settle
from detreg.version import __version__


@dataclass(frozen=True)
class Job:
    """What is trained, on what, from what, and how.

    `params` holds no `auto`, and `options` no patience=auto or precision=auto: `resolved` has the
    text of each value that was not given so, by name, of options too. `config` is what MMEngine
    trains. `warning` says what the user should know of the data with these params, or is empty.
    """

    template: Template
    params: CommonParams
    options: RunOptions
    dataset: Dataset
    initial_weights: InitialWeights
    config: Config
    resolved: Mapping[str, str] = field(default_factory=dict)
    warning: str = ""

    @property
    def recipe(self) -> Recipe:
        """How the job is trained."""
        has_weights = self.initial_weights.backbone_is_filled
        return self.template.choose_recipe(self.params, self.options.recipe, has_weights)

    @property
    def metric(self) -> str:
        """The score on val by which an epoch is the best."""
        return self.options.choose_metric(has_masks=self.params.has_masks)

    @property
    def tags(self) -> dict[str, str]:
        """The tags of the job's run."""
        tags = {
            runs.TEMPLATE: self.template.name,
            runs.DIGEST: self.dataset.digest,
            runs.START: self.initial_weights.description,
        }
        if self.params.has_masks:
            tags[runs.MASKS_DIGEST] = self.dataset.masks_digest
        if self.initial_weights.parent:
            tags[runs.PARENT] = self.initial_weights.parent
        if self.warning:
            tags[runs.WARNING] = self.warning
        if self.dataset.left_out:
            tags[runs.LEFT_OUT] = str(self.dataset.repairs[LEFT_OUT_MESSAGE])
        return tags

    @property
    def texts(self) -> dict[str, str]:
        """The text of each value of params and options, as chosen where it was given as `auto`."""
        return to_texts(self.params) | to_texts(self.options) | dict(self.resolved)

    def to_json(self) -> dict[str, object]:
        """Return the content of params.json: typed values, where MLflow's parameters are text."""
        masks = {"masks_digest": self.dataset.masks_digest} if self.params.has_masks else {}
        return {
            "template": self.template.name,
            "dataset_digest": self.dataset.digest,
            **masks,
            "classes": list(self.dataset.classes),
            "detreg_version": __version__,
            "hyperparameters": to_plain(self.params),
            "options": to_plain(self.options),
            "backbone_is_filled": self.initial_weights.backbone_is_filled,
        }


def prepare_job(
    template: Template, params: CommonParams, options: RunOptions, dataset: Dataset
) -> Job:
    """Read the initial weights, compose the configuration, and print what was chosen.

    Raises the errors of both.
    """
    given = to_texts(params) | to_texts(options)
    settled = settle(template, params, options, dataset)
    params, options = settled.params, settled.options
    texts = to_texts(params) | to_texts(options)
    resolved = {name: texts[name] for name in settled.reasons}
    for name, reason in settled.reasons.items():
        print(f"{name}={texts[name]}, {reason} ({name}={given[name]})", flush=True)

    initial_weights = choose_initial_weights(template, params, dataset, options)
    print(initial_weights.description, flush=True)

    warning = describe_small_images(params, dataset)
    if warning:
        print(f"Warning: {warning}", file=sys.stderr, flush=True)

    if options.precision == "auto":
        choice = _choose_precision(template, params, dataset, initial_weights)
        print(f"precision={choice.precision}, {choice.reason} (precision=auto)", flush=True)
        options = replace(options, precision=choice.precision)
        resolved["precision"] = choice.precision
    elif initial_weights.precision not in (None, options.precision):
        print(
            f"Warning: precision was {initial_weights.precision}, now {options.precision}: the "
            "result differs by rounding from that of one training",
            file=sys.stderr,
            flush=True,
        )

    is_filled = initial_weights.backbone_is_filled
    config = compose(template, params, dataset, options, is_filled)
    if options.num_workers is None:
        resolved["num_workers"] = str(config.train_dataloader.num_workers)
    return Job(
        template=template,
        params=params,
        options=options,
        dataset=dataset,
        initial_weights=initial_weights,
        config=config,
        resolved=resolved,
        warning=warning,
    )


def _choose_precision(
    template: Template, params: CommonParams, dataset: Dataset, initial_weights: InitialWeights
) -> PrecisionChoice:
    """Return what precision=auto takes: that of the training that is resumed, if one is."""
    if initial_weights.precision is not None:
        return PrecisionChoice(initial_weights.precision, "as in the run that is resumed")
    return choose_precision(template, params, len(dataset.classes))


def describe_job(job: Job) -> str:
    """Return what is trained in a few words, such as `yolox boats 416px`."""
    size = "x".join(str(side) for side in job.params.image_size)
    return f"{job.template.name} {job.dataset.name} {size}px"


def log_job(run: Run, job: Job) -> None:
    """Log what is known before the first step: parameters, dataset, params.json and config.py."""
    run.log_params(to_texts(job.params) | to_texts(job.options))
    # `mlflow run` has logged the word `auto` before this process began, and MLflow takes no second
    # value of a parameter.
    run.log_params({f"{name}.resolved": text for name, text in job.resolved.items()})
    run.log_dataset(job.dataset)
    run.log_scoring_splits(job.dataset)
    # A later champion of another dataset is not judged by what it was trained on.
    run.log_file(job.dataset.folder / IMAGE_HASHES)
    run.log_text(json.dumps(job.to_json(), indent=2), PARAMS_FILE)

    lines = []
    for name, part in job.config.to_dict().items():
        lines.append(f"{name} = {pformat(part, sort_dicts=False, width=140)}")
    run.log_text("\n".join(lines), "config.py")
