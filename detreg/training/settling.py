"""What each `auto` of a training becomes, before anything expensive begins."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from detreg import torchrun
from detreg.data.dataset import Dataset
from detreg.defaults import PUBLISHED
from detreg.options import RunOptions
from detreg.params import AUTO, to_texts
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.training.batch_size_choice import choose_batch_size
from detreg.training.initial_weights import find_resumed_settings

_PATIENT_SHARE = 1 / 3
"""Of num_epochs, what patience=auto waits for a better score (docs/train.md)."""
_LEAST_PATIENCE = 5


@dataclass(frozen=True)
class Settled:
    """Hyperparameters without `auto`, and `patience` as a number.

    Where masks are trained, `metric` is not `auto` either. `reasons` says of each value that was
    not given so why it was taken, by its name.
    """

    params: CommonParams
    options: RunOptions
    reasons: Mapping[str, str]


def settle(
    template: Template, params: CommonParams, options: RunOptions, dataset: Dataset
) -> Settled:
    """Return what a training takes for each `auto`: for a run that is resumed, what that took.

    Raises MemoryExhaustedError where no batch fits into the GPU, and UsageError where the processes
    cannot share what was taken.
    """
    autos = [name for name, text in to_texts(params).items() if text == AUTO]
    reasons: dict[str, str] = {}
    resumed = find_resumed_settings(template, params, options, dataset)
    if resumed is None:
        params = _settle_anew(template, params, options, dataset, reasons)
    else:
        values, recipe = resumed
        earlier: dict[str, Any] = {name: values[name] for name in autos}
        reasons = dict.fromkeys(autos, "as in the run that is resumed")
        if recipe != options.recipe:
            reasons["recipe"] = "as in the run that is resumed, which knew no other"
        params = replace(params, **earlier)
        options = replace(options, recipe=recipe)
    torchrun.check_batch_size(params.images_per_step)

    if options.patience is None:
        patience = max(_LEAST_PATIENCE, math.ceil(_PATIENT_SHARE * params.num_epochs))
        options = replace(options, patience=patience)
        share = f"a third of num_epochs={params.num_epochs}"
        reasons["patience"] = f"{share}, at least {_LEAST_PATIENCE}"
    if options.metric == AUTO and params.has_masks:
        options = replace(options, metric=options.choose_metric(has_masks=True))
        reasons["metric"] = "as masks are trained"
    return Settled(params, options, reasons)


def _settle_anew(
    template: Template,
    params: CommonParams,
    options: RunOptions,
    dataset: Dataset,
    reasons: dict[str, str],
) -> CommonParams:
    """Return what a new training takes; the reasons are added to `reasons`."""
    recipe = template.choose_recipe(params, options.recipe)
    published = template.choose_recipe(params, PUBLISHED)
    if params.per_item_lrate is None:
        times = recipe.per_item_lrate / published.per_item_lrate
        rate = f"the published rate of {params.base_model}"
        if times != 1:
            rate = f"{times:g} times {rate} (recipe={options.recipe})"
        reasons["per_item_lrate"] = rate

    if params.frozen_stages is None:
        if not params.sources:
            reasons["frozen_stages"] = "as all weights are random"
        elif recipe.frozen_stages == published.frozen_stages:
            reasons["frozen_stages"] = f"as published for {params.base_model}"
        else:
            reasons["frozen_stages"] = f"as weights are loaded (recipe={options.recipe})"

    resolved = template.resolve(params, options.recipe)
    if params.batch_size is None:
        classes = len(dataset.classes)
        choice = choose_batch_size(template, resolved, classes, options.precision)
        resolved = replace(resolved, batch_size=choice.batch_size)
        reasons["batch_size"] = choice.reason
    return resolved
