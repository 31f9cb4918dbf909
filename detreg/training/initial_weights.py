"""What a training starts from: an earlier run, a checkpoint, published weights or random ones.

This is decided, and read, before anything expensive begins.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detreg.data.dataset import Dataset
from detreg.defaults import PUBLISHED
from detreg.errors import NotFoundError, UsageError
from detreg.options import RunOptions
from detreg.params import AUTO, to_plain, to_texts
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.tracking import runs
from detreg.training.checkpoints import Checkpoint, load_checkpoint
from detreg.training.downloads import fetch_checkpoint, fetch_coco_weights, fetch_imagenet_weights

PARAMS_FILE = "params.json"
"""The artifact with a run's typed values, with which a run that continues it compares its own."""

_DATA_NAMES = {"coco": "COCO", "mscoco": "COCO", "imagenet": "ImageNet"}
# Parameters that may differ between a run and the one that resumes it: they say how long to train,
# and where the weights come from, which the resumed run's checkpoint overrides.
_NOT_COMPARED = (
    "num_epochs",
    "continue_from_eid",
    "load_from",
    "pretrained_weights",
    "pretrain_base_data",
)
# What runs did that did not write the parameter yet.
_ADDED_LATER = {"masks": False}


@dataclass(frozen=True)
class InitialWeights:
    """What a training starts from.

    `description` is a sentence that is printed and logged. `weights` starts a new training; None
    means random ones. `resume` is the last checkpoint of a training that is resumed; `weights` is
    then its best one. `is_trained` is true where that training had ended, but not its run: only its
    export and registration are missing. `parent` is the run that either comes from.
    `backbone_is_filled` says whether the backbone had weights when the training began; for a
    resumed one, when it first began. `precision` is that of the training that is resumed, None for
    any other.
    """

    description: str
    weights: Checkpoint | None = None
    resume: Checkpoint | None = None
    parent: str | None = None
    backbone_is_filled: bool = True
    is_trained: bool = False
    precision: str | None = None


def choose_initial_weights(
    template: Template, params: CommonParams, dataset: Dataset, options: RunOptions
) -> InitialWeights:
    """Return the weights that the hyperparameters ask for, read into memory.

    Of the options, another `recipe` or `metric` begins a new training, and `patience` may have
    ended one.

    Raises NotFoundError, UnreachableError, UsageError or DataError; each says what to do instead.
    """
    if not params.sources:
        return InitialWeights("Starts from random weights", backbone_is_filled=False)

    # The strongest source fills the network, and overrides the others.
    (name, value), *weaker = params.sources.items()
    if name == "continue_from_eid":
        chosen = _continue_run(value, template, params, dataset, options)
    elif name == "load_from" and value != "coco":
        description = f"Starts from the weights of {value}"
        chosen = InitialWeights(description, load_named_weights(template, params))
    else:
        part = "" if value == "coco" else "the backbone of "
        description = (
            f"Starts from the weights published for {part}{params.base_model} "
            f"on {_DATA_NAMES[value]}"
        )
        chosen = InitialWeights(description, load_named_weights(template, params))

    if not weaker:
        return chosen
    overridden = ", ".join(f"{other}={text}" for other, text in weaker)
    return replace(chosen, description=f"{chosen.description}; {name} overrides {overridden}")


def load_named_weights(template: Template, params: CommonParams) -> Checkpoint:
    """Read the checkpoint that the strongest source but `continue_from_eid` names.

    Raises UsageError where there is none, and the errors of fetching and reading it.
    """
    sources = {name: value for name, value in params.sources.items() if name != "continue_from_eid"}
    if not sources:
        raise UsageError("no weights are named: give load_from, or pretrained_weights")

    name, value = next(iter(sources.items()))
    if name == "load_from" and value != "coco":
        return load_checkpoint(fetch_checkpoint(value))
    if value == "imagenet":
        path = fetch_imagenet_weights(template, params.base_model, asked_by=name)
        return load_checkpoint(path)

    path = fetch_coco_weights(
        template, params.base_model, asked_by=name, with_masks=params.has_masks
    )
    checkpoint = load_checkpoint(path)
    if value == "mscoco":  # asks for the base model only
        return _keep_backbone(checkpoint)
    return checkpoint


def _keep_backbone(checkpoint: Checkpoint) -> Checkpoint:
    state_dict = {
        name: tensor
        for name, tensor in checkpoint.state_dict.items()
        if name.startswith("backbone.")
    }
    return replace(checkpoint, state_dict=state_dict)


def _continue_run(
    run_id: str, template: Template, params: CommonParams, dataset: Dataset, options: RunOptions
) -> InitialWeights:
    """Resume a run, or finish it, or start a new training from its best weights.

    What is done depends on what differs from that run, and on how far it has come.
    """
    # A checkpoint that its process could not upload is newer than the stored one.
    runs.settle_run(run_id)
    stored = runs.find_checkpoints(run_id)
    if stored is None:
        raise NotFoundError(
            f"run {run_id} has no checkpoint to continue from: it was not created by detreg, or "
            "ended before it saved one"
        )

    before = _read_params_of_run(run_id)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        best = load_checkpoint(runs.download_artifact(run_id, stored.best, folder / "best"))
        last = load_checkpoint(runs.download_artifact(run_id, stored.last, folder / "last"))

    difference = _find_difference(before, template, params, dataset, options)
    is_finished = runs.get_run(run_id).info.status == "FINISHED"
    has_same_length = before["hyperparameters"].get("num_epochs") == params.num_epochs
    has_all_epochs = last.epoch >= params.num_epochs
    has_ended = has_all_epochs or _has_lost_patience(last, options.patience or 0)
    is_trained = has_ended and has_same_length and not is_finished

    if not difference and has_all_epochs and not is_trained:
        difference = f"it has done {last.epoch} epochs already and num_epochs={params.num_epochs}"
    if difference:
        return InitialWeights(
            f"Starts a new training from the best weights of run {run_id}, because {difference}",
            best,
            parent=run_id,
        )

    return InitialWeights(
        _describe_continuation(run_id, last, params, is_trained),
        best,
        resume=last,
        parent=run_id,
        # Runs that did not write this yet trained the backbone's batch norms where no stage was
        # frozen, as if nothing had filled it.
        backbone_is_filled=before.get("backbone_is_filled", False),
        is_trained=is_trained,
        precision=_read_precision(before),
    )


def find_resumed_settings(
    template: Template, params: CommonParams, options: RunOptions, dataset: Dataset
) -> tuple[Mapping[str, Any], str] | None:
    """Return hyperparameters and recipe of the run that is resumed; None for a new training.

    What is `auto` in `params` may be anything there, and a run that did not know of recipes goes on
    as published, whatever is given. Where the run cannot be read, the result is None too:
    choose_initial_weights says why.
    """
    run_id = params.continue_from_eid
    if run_id is None:
        return None
    runs.settle_run(run_id)
    if runs.find_checkpoints(run_id) is None:
        return None

    before = _read_params_of_run(run_id)
    values: Mapping[str, Any] = before["hyperparameters"]
    autos: dict[str, Any] = {
        name: values.get(name) for name, text in to_texts(params).items() if text == AUTO
    }
    if None in autos.values():
        return None
    same = replace(params, **autos)
    recipe = options.recipe if "recipe" in before.get("options", {}) else PUBLISHED
    if _find_difference(before, template, same, dataset, replace(options, recipe=recipe)):
        return None
    return values, recipe


def _read_params_of_run(run_id: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = runs.download_artifact(run_id, PARAMS_FILE, Path(folder))
        content: dict[str, Any] = json.loads(path.read_text())
        return content


def _read_precision(before: Mapping[str, Any]) -> str:
    """Return the precision that a run was trained in.

    `before` is the run's params.json. Up to detreg 0.1 it has `amp` in place of `precision`.
    """
    options = before.get("options", {})
    if "precision" in options:
        return str(options["precision"])
    return "fp16" if options.get("amp") is True else "fp32"


def _describe_continuation(
    run_id: str, last: Checkpoint, params: CommonParams, is_trained: bool
) -> str:
    same = "same template, dataset and hyperparameters"
    if is_trained:
        return (
            f"Finishes run {run_id}, which has trained its {last.epoch} epochs but was not "
            f"registered to the end, with its best checkpoint: {same}"
        )
    place = f"epoch {last.epoch}"
    if last.step:
        place = f"step {last.step} of epoch {last.epoch + 1}"
    return f"Resumes run {run_id} after {place} of {params.num_epochs}: {same}"


def _has_lost_patience(last: Checkpoint, patience: int) -> bool:
    """Return whether a training ended after its last checkpoint, as EarlyStopHook decides it."""
    is_epoch_end = last.step == 0
    return is_epoch_end and 0 < patience <= last.epoch - last.best_epoch


def _find_difference(
    before: Mapping[str, Any],
    template: Template,
    params: CommonParams,
    dataset: Dataset,
    options: RunOptions,
) -> str:
    """Return why a run cannot be resumed, or an empty text where it can.

    `before` is the run's params.json.
    """
    if before["template"] != template.name:
        return f"its template is {before['template']}, not {template.name}"

    if before["dataset_digest"] != dataset.digest:
        return (
            f"its dataset is another one (digest {before['dataset_digest']}, now {dataset.digest})"
        )

    # Runs that did not write this yet were trained as published.
    old_recipe = before.get("options", {}).get("recipe", PUBLISHED)
    if old_recipe != options.recipe:
        return f"recipe was {old_recipe}, now {options.recipe}"

    # Runs that did not write whether they learn masks yet learned none.
    old = {"masks": False} | before["hyperparameters"]
    changes = []
    for name, value in to_plain(params).items():
        if name in _NOT_COMPARED:
            continue
        old_value = old.get(name, _ADDED_LATER.get(name))
        if old_value != value:
            changes.append(f"{name} was {old_value}, now {value}")
    if changes:
        return "hyperparameters differ: " + ", ".join(changes)

    if params.has_masks and before["masks_digest"] != dataset.masks_digest:
        old_digest = before["masks_digest"]
        return f"its masks are others (digest {old_digest}, now {dataset.masks_digest})"

    # Its best checkpoint is the best by its metric. What was auto stands for the same now.
    metric = options.choose_metric(has_masks=params.has_masks)
    old_metric = before.get("options", {}).get("metric", AUTO)
    if old_metric not in (AUTO, metric):
        return f"metric was {old_metric}, now {metric}"
    return ""
