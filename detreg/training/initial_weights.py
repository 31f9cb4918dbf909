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
from detreg.errors import NotFoundError, UsageError
from detreg.params import to_plain
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


@dataclass(frozen=True)
class InitialWeights:
    """What a training starts from.

    `description` is a sentence that is printed and logged. `weights` starts a new training; None
    means random ones. `resume` is the last checkpoint of a training that is resumed; `weights` is
    then its best one. `parent` is the run that either comes from. `backbone_is_filled` says whether
    the backbone had weights when the training began; for a resumed one, when it first began.
    """

    description: str
    weights: Checkpoint | None = None
    resume: Checkpoint | None = None
    parent: str | None = None
    backbone_is_filled: bool = True


def choose_initial_weights(
    template: Template, params: CommonParams, dataset: Dataset
) -> InitialWeights:
    """Return the weights that the hyperparameters ask for, read into memory.

    Raises NotFoundError, UnreachableError, UsageError or DataError; each says what to do instead.
    """
    if not params.sources:
        return InitialWeights("Starts from random weights", backbone_is_filled=False)

    # The strongest source fills the network, and overrides the others.
    (name, value), *weaker = params.sources.items()
    if name == "continue_from_eid":
        chosen = _continue_run(value, template, params, dataset)
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

    checkpoint = load_checkpoint(fetch_coco_weights(template, params.base_model, asked_by=name))
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
    run_id: str, template: Template, params: CommonParams, dataset: Dataset
) -> InitialWeights:
    """Resume a run, or start a new training from its best weights where something differs."""
    # A checkpoint that its process could not upload is newer than the stored one.
    runs.settle_run(run_id)
    stored = runs.find_checkpoints(run_id)
    if stored is None:
        raise NotFoundError(
            f"run {run_id} has no checkpoint to continue from: it was not created by detreg, or "
            "ended before its first epoch"
        )

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = json.loads(runs.download_artifact(run_id, PARAMS_FILE, folder).read_text())
        best = load_checkpoint(runs.download_artifact(run_id, stored.best, folder))
        difference = _find_difference(before, template, params, dataset, stored.epoch)
        if difference:
            return InitialWeights(
                f"Starts a new training from the best weights of run {run_id}, "
                f"because {difference}",
                best,
                parent=run_id,
            )
        last = load_checkpoint(runs.download_artifact(run_id, stored.last, folder))

    return InitialWeights(
        f"Resumes run {run_id} after epoch {last.epoch} of {params.num_epochs}: "
        "same template, dataset and hyperparameters",
        best,
        resume=last,
        parent=run_id,
        # Runs that did not write this yet trained the backbone's batch norms where no stage was
        # frozen, as if nothing had filled it.
        backbone_is_filled=before.get("backbone_is_filled", False),
    )


def _find_difference(
    before: Mapping[str, Any],
    template: Template,
    params: CommonParams,
    dataset: Dataset,
    epochs: int,
) -> str:
    """Return why a run cannot be resumed, or an empty text where it can.

    `before` is the run's params.json, `epochs` how many epochs it has finished.
    """
    if before["template"] != template.name:
        return f"its template is {before['template']}, not {template.name}"

    if before["dataset_digest"] != dataset.digest:
        return (
            f"its dataset is another one (digest {before['dataset_digest']}, now {dataset.digest})"
        )

    old = before["hyperparameters"]
    changes = []
    for name, value in to_plain(params).items():
        if name not in _NOT_COMPARED and old.get(name) != value:
            changes.append(f"{name} was {old.get(name)}, now {value}")
    if changes:
        return "hyperparameters differ: " + ", ".join(changes)

    if epochs >= params.num_epochs:
        return f"it has done {epochs} epochs already and num_epochs={params.num_epochs}"
    return ""
