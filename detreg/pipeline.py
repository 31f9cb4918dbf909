"""The thin front of a training: arguments and data are checked before torch is imported."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from detreg import torchrun
from detreg.data.calibration import check_calibration
from detreg.data.dataset import Dataset, load_dataset
from detreg.data.refusals import add_data_problems
from detreg.data.summary import describe_dataset
from detreg.deferred_imports import defer_imports, pause_garbage_collection
from detreg.environment import set_mlflow_defaults
from detreg.errors import UsageError, shorten
from detreg.options import RunOptions, rename_former_options
from detreg.params import build, get_params, suggest_spelling
from detreg.progress import show_progress
from detreg.templates import find_template
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template

if TYPE_CHECKING:
    from detreg.publish import TrainingResult


def train(template: str, **values: Any) -> dict[str, Any]:
    """Train, export and register a model.

    `values` are hyperparameters and run options by name (`data`, `image_size`, `seed` ...). Returns
    what `detreg train --json` prints. Raises the errors of detreg.errors.
    """
    set_mlflow_defaults()
    chosen = find_template(template)
    params, options = parse_settings(chosen, values)
    return train_template(chosen, params, options).to_json()


def parse_settings(
    template: Template, values: Mapping[str, Any]
) -> tuple[CommonParams, RunOptions]:
    """Return the hyperparameters and run options among `values`, which are texts or Python values.

    Raises UsageError with all problems of both at once, and those of the dataset.
    """
    with add_data_problems(values):
        return _parse_settings(template, values)


def _parse_settings(
    template: Template, values: Mapping[str, Any]
) -> tuple[CommonParams, RunOptions]:
    values = rename_former_options(values)
    option_names, param_names = get_params(RunOptions), get_params(template.params)
    for_options = {name: value for name, value in values.items() if name in option_names}
    for_params = {name: value for name, value in values.items() if name in param_names}

    problems: list[str] = []
    known = [*param_names, *option_names]
    for name in values:
        if name not in known:
            problems.append(f"unknown parameter {shorten(name)}{suggest_spelling(name, known)}")
    try:
        params = build(template.params, for_params)
    except UsageError as error:
        problems += error.problems
    try:
        options = build(RunOptions, for_options)
    except UsageError as error:
        problems += error.problems

    if not problems:
        problems += options.find_metric_problems(has_masks=params.has_masks)
    if problems:
        raise UsageError(problems)
    return params, options


def train_template(
    template: Template, params: CommonParams, options: RunOptions
) -> "TrainingResult":
    """Train, export and register a model; whatever can be refused is refused before the run starts.

    Of several processes the first one does this. The others train with it, and end with SystemExit.
    """
    if params.batch_size is not None:
        torchrun.check_batch_size(params.batch_size)
    with show_progress(is_wanted=torchrun.get_rank() == 0) as progress:
        dataset = load_dataset(
            options.data,
            progress=progress,
            on_bad_image=options.on_bad_image,
            masks=params.has_masks,
        )
    print(describe_dataset(dataset), flush=True)
    check_calibration(dataset, options)

    if torchrun.get_rank() > 0:
        return _train_and_publish(template, params, options, dataset)
    with _prepare_stores(template, params, options, dataset):
        return _train_and_publish(template, params, options, dataset)


def _train_and_publish(
    template: Template, params: CommonParams, options: RunOptions, dataset: Dataset
) -> "TrainingResult":
    # torch and mmdet take seconds to import.
    with pause_garbage_collection():
        from detreg.training_run import train_and_publish  # noqa: PLC0415

    return train_and_publish(template, params, options, dataset)


@contextmanager
def _prepare_stores(
    template: Template, params: CommonParams, options: RunOptions, dataset: Dataset
) -> Iterator[None]:
    """Refuse a training that could not be logged, stored or registered at its end.

    Its run, which starts in the block, goes to the experiment of its dataset.
    """
    # MLflow takes seconds to import: only after the arguments and the data have been accepted. What
    # it imports of others here, it uses at the end of a training or not at all.
    with defer_imports("fastapi", "pandas", "scipy"), pause_garbage_collection():
        from detreg.tracking import experiments, model_hints, preflight  # noqa: PLC0415

    preflight.check_stores([options.choose_model_name(template.name, dataset.name)])
    with experiments.use_dataset_experiment(dataset):
        preflight.check_disks(template, params)
        for hint in model_hints.list_hints(options, template.name, dataset):
            print(hint, flush=True)
        yield
