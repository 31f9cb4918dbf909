"""What each command does and prints.

A command imports the modules that do its work when it is called, so that `detreg --help` and
refusals stay instant. That is the only place in the package for such imports.
"""
# ruff: noqa: PLC0415 (one lazy import for each command, as said above)

import argparse
import contextlib
import functools
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detreg import templates
from detreg.continuation import format_training_command
from detreg.disk_space import check_folders, check_output_file
from detreg.environment import find_program
from detreg.errors import UsageError
from detreg.full_install import require_full_install
from detreg.inspection.plan import TrainingPlan
from detreg.invocation import Invocation
from detreg.options import RunOptions, SweepOptions
from detreg.params import build, get_params, to_changed_texts
from detreg.signals import print_problems
from detreg.templates.template import Template

if TYPE_CHECKING:
    from detreg.publish import TrainingResult
    from detreg.sweeps.result import SweepResult

EXIT_BAD_DATA = 65
EXIT_UNDELIVERED = 75
MAX_EPOCHS = 200

JsonObject = dict[str, Any]


def _keep_stdout_for_json(
    work: Callable[[argparse.Namespace], JsonObject],
) -> Callable[[argparse.Namespace], int]:
    """Return the command that does a work and prints, with --json, what it returns on one line.

    That line is all of the standard output then: what is printed meanwhile, by libraries too, goes
    to standard error.
    """

    @functools.wraps(work)
    def command(arguments: argparse.Namespace) -> int:
        if not arguments.json:
            work(arguments)
            return 0
        with contextlib.redirect_stdout(sys.stderr):
            content = work(arguments)
        print(json.dumps(content))
        return 0

    return command


def list_templates(arguments: argparse.Namespace) -> int:
    """Print the templates, or one template's hyperparameters."""
    chosen = templates.find_template(arguments.name) if arguments.name else None

    if arguments.json and chosen:
        print(json.dumps(chosen.as_json()))
    elif arguments.json:
        print(json.dumps([template.as_json() for template in templates.TEMPLATES.values()]))
    elif chosen:
        _print_template(chosen)
    else:
        for template in templates.TEMPLATES.values():
            print(f"{template.name:14}{template.summary}")
    return 0


def _print_template(template: Template) -> None:
    aliases = ", ".join(template.aliases)
    print(f"{template.name} (also {aliases}): {template.summary}\n\n{template.description}\n")

    params = get_params(template.params).values()
    defaults = {param.name: param.format(param.default) for param in params}
    name_width = max(len(name) for name in defaults)
    default_width = max(len(default) for default in defaults.values())
    indent = " " * (name_width + default_width + 4)

    for param in params:
        default = defaults[param.name]
        print(f"{param.name:{name_width}}  {default:{default_width}}  {param.domain}")
        print(f"{indent}{param.help}")


def check(arguments: argparse.Namespace) -> int:
    """Print what is wrong with a dataset; the exit code is 65 where it cannot be used."""
    plan = None
    if arguments.template is not None:
        template = templates.find_template(arguments.template)
        params = build(template.params, _get_values(arguments, get_params(template.params)))
        plan = TrainingPlan(template, params)
    from detreg.tasks.check import CheckRequest, run_check

    request = CheckRequest(
        data=arguments.data,
        plan=plan,
        page=arguments.page,
        copy=arguments.fix,
        format=arguments.format,
        with_pixels=arguments.pixels,
        with_masks=arguments.masks,
        is_strict=arguments.strict,
        as_json=arguments.json,
    )
    return 0 if run_check(request) else EXIT_BAD_DATA


def sample(arguments: argparse.Namespace) -> int:
    """Write the built-in dataset."""
    from detreg.data.sample import write_sample

    folder = arguments.folder
    write_sample(
        Path(folder),
        format=arguments.format,
        images=arguments.images,
        seed=arguments.seed,
        masks=arguments.masks,
    )
    flag = " --masks" if arguments.masks else ""
    print(f"{arguments.images} images in {folder}; try: detreg check {folder}{flag}")
    return 0


@_keep_stdout_for_json
def train(arguments: argparse.Namespace) -> JsonObject:
    """Train, export and register a model, and print what to try next."""
    require_full_install("detreg train")
    from detreg import pipeline

    template = templates.find_template(arguments.template)
    names = [*get_params(template.params), *get_params(RunOptions)]
    params, options = pipeline.parse_settings(template, _get_values(arguments, names))
    invocation = Invocation.find()
    result = pipeline.train_template(template, params, options)

    continued = replace(
        params,
        num_epochs=min(2 * params.num_epochs, MAX_EPOCHS),
        load_from=None,
        continue_from_eid=result.run_id,
    )
    flags = to_changed_texts(continued) | to_changed_texts(options)
    print(_describe_training(result, flags, invocation))
    return result.to_json()


def _get_values(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, str]:
    """Return the hyperparameters and options that were given, and the unknown flags.

    Unknown ones are refused together with everything else that is wrong.
    """
    values = {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}
    return values | arguments.unknown


def _describe_training(
    result: "TrainingResult", continued: Mapping[str, str], invocation: Invocation
) -> str:
    """Return what came out, and what to try next.

    `continued` has the flags of a longer training that resumes from this run.
    """
    from detreg.tracking.run_page import describe_run_page

    page = describe_run_page(result.run_id, invocation.folder)
    model = shlex.quote(f"models:/{result.model_name}@{result.alias}")
    showing = f"{find_program('detreg')} show {model}"
    serving = _format_serving(model, invocation)
    continuing = format_training_command(result.template, continued, invocation)
    scores = f"mAP {result.mAP:.3f}   mAP_50 {result.mAP_50:.3f}"
    if result.segm_mAP is not None:
        scores += f"   segm_mAP {result.segm_mAP:.3f}   segm_mAP_50 {result.segm_mAP_50 or 0:.3f}"
    return f"""
{scores}   of the exported model on the val split
run (eid) {result.run_id}
registered {result.model_name} version {result.model_version} as {result.alias}: {result.reason}

Try next:
  look at it         {page}
  try it             {showing}
  serve it           {serving}
  continue from it   {continuing}
"""


def _format_serving(model: str, invocation: Invocation) -> str:
    """Return the command that serves a model, whose URI is quoted for a shell."""
    program = find_program("mlflow")
    return f"{program} models serve -m {model}{invocation.environment_flag} --port 5001"


@_keep_stdout_for_json
def sweep(arguments: argparse.Namespace) -> JsonObject:
    """Search hyperparameters, register the best model, and print what to try next."""
    require_full_install("detreg sweep")
    from detreg.sweeps import request

    chosen = request.parse_templates(arguments.template)
    names = [*get_params(RunOptions), *get_params(SweepOptions)]
    for template in chosen:
        names += get_params(template.params)

    wanted = request.make_request(chosen, _get_values(arguments, names))

    # Optuna and MLflow take seconds to import: only after the arguments have been accepted.
    from detreg.sweeps.sweep import run_sweep

    invocation = Invocation.find()
    result = run_sweep(wanted)
    print(_describe_sweep(result, invocation))
    return result.to_json()


def _describe_sweep(result: "SweepResult", invocation: Invocation) -> str:
    """Return what came out of a sweep, and what to try next."""
    from detreg.tracking.run_page import describe_run_page

    values = [f"{name}={value}" for name, value in result.hyperparameters.items()]
    chosen = " ".join(values) or "the defaults"

    if result.model_version:
        name, version = result.model_name, result.model_version
        registered = f"registered {name} version {version} as {result.alias}"
        model = shlex.quote(f"models:/{name}/{version}")
        serve = _format_serving(model, invocation)
    else:
        registered = "not registered"
        serve = "-"

    return f"""
{result.comparison}
best: trial {result.best_trial}, {result.template} with {chosen}
its run (eid) {result.best_run_id}
{registered}: {result.reason}
{result.complete} trials complete, {result.pruned} pruned, {result.failed} failed

Try next:
  look at it         {describe_run_page(result.run_id, invocation.folder)}
  serve it           {serve}
  search longer      run the same command with more --trials to resume this study
"""


@_keep_stdout_for_json
def learning_curve(arguments: argparse.Namespace) -> JsonObject:
    """Train on parts of a dataset, and print what twice the images would bring."""
    require_full_install("detreg learning-curve")
    from detreg import pipeline

    template = templates.find_template(arguments.template)
    names = [*get_params(template.params), *get_params(RunOptions)]
    params, options = pipeline.parse_settings(template, _get_values(arguments, names))

    # torch and mmdet take seconds to import: only after the arguments have been accepted.
    from detreg.tasks.learning_curve import measure_learning_curve

    invocation = Invocation.find()
    result = measure_learning_curve(template, params, options, arguments.seeds)
    print(f"\n{result.summary}")
    _print_report_of(result.run_id, invocation)
    return asdict(result)


@_keep_stdout_for_json
def evaluate(arguments: argparse.Namespace) -> JsonObject:
    """Score a model on a split."""
    from detreg.tasks.evaluate import evaluate_model

    invocation = Invocation.find()
    result = evaluate_model(arguments.model, arguments.data, arguments.split)
    names = ["mAP", "mAP_50", *(name for name in ("segm_mAP", "segm_mAP_50") if name in result)]
    scores = "   ".join(f"{name} {result.get(name, 0):.4f}" for name in names)
    print(f"{scores}   on {arguments.split} of {arguments.data}")
    figures = [
        f"{name} {result[name]:.3f}" for name in ("precision", "recall", "f1") if name in result
    ]
    if figures:
        print(f"{'   '.join(figures)}   from a score of {result['score_threshold']:g} on")
    _print_report_of(result["run_id"], invocation)
    return result


@_keep_stdout_for_json
def compare(arguments: argparse.Namespace) -> JsonObject:
    """Compare two models on the same images, and print which is better, if that can be told."""
    from detreg.tasks.compare import CompareRequest, compare_models_on_data

    # `mlflow run -e compare` writes an empty parameter as the word none.
    data = None if arguments.data == "none" else arguments.data
    request = CompareRequest(arguments.a, arguments.b, data, arguments.split)
    invocation = Invocation.find()
    result = compare_models_on_data(request)
    for note in result.notes:
        print(note)
    print(result.verdict)
    _print_report_of(result.run_id, invocation)
    return result.content


def _print_report_of(run_id: str, invocation: Invocation) -> None:
    """Say where the report of a run is looked at."""
    from detreg.tracking.run_page import describe_run_page

    print(f"report/index.html among the artifacts of run {run_id}:")
    print(describe_run_page(run_id, invocation.folder))


def predict(arguments: argparse.Namespace) -> int:
    """Write predictions.json, images and videos with boxes; exit with 65 if one is unreadable."""
    check_folders({Path(arguments.out).absolute(): 0})
    from detreg.tasks.predict import PredictRequest, predict_images

    request = PredictRequest(
        arguments.model,
        arguments.images,
        Path(arguments.out),
        arguments.score_threshold,
        arguments.max_detections,
        arguments.format,
        arguments.masks,
    )
    result = predict_images(request)
    print_problems(result.problems)
    print(result.describe())
    return EXIT_BAD_DATA if result.problems else 0


def show(arguments: argparse.Namespace) -> int:
    """Serve a model on this machine until Ctrl-C."""
    from detreg.tasks.show import show_model

    show_model(arguments.model, arguments.port)
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write a model, or a template's checkpoint, as an ONNX file."""
    check_output_file(Path(arguments.out))
    # The parser sets this where the first word is a template and not a model.
    is_template = getattr(arguments, "values_of", None) == "export"
    if not is_template:
        from detreg.tasks.copy_model import copy_model

        print(copy_model(arguments.model, arguments.out))
        return 0

    from detreg.tasks.export_checkpoint import export_checkpoint

    template = templates.find_template(arguments.model)
    values = _get_values(arguments, get_params(template.params))
    print(export_checkpoint(template, values, arguments.images, arguments.out))
    print(arguments.out)
    return 0


def promote(arguments: argparse.Namespace) -> int:
    """Move the alias champion."""
    # `mlflow run -e promote` writes an empty parameter as the word none.
    version = None if arguments.version == "none" else arguments.version
    has_version = version is not None
    if has_version == arguments.rollback:
        raise UsageError(
            "give a version, or --rollback:"
            " detreg promote NAME VERSION, detreg promote NAME --rollback"
        )

    from detreg.tracking import registry

    if version is None:
        moved = registry.rollback(arguments.name)
    else:
        moved = registry.promote(arguments.name, version)
    print(f"{moved.name} version {moved.version} is {moved.alias}: {moved.reason}")
    return 0


def sync(arguments: argparse.Namespace) -> int:
    """Deliver what MLflow has not got yet, and print what became of each run."""
    from detreg.tasks.sync import sync_runs

    report = sync_runs(arguments.run_id)
    for line in report.lines:
        print(line)
    return EXIT_UNDELIVERED if report.has_problems else 0


def weights(arguments: argparse.Namespace) -> int:
    """List or fetch published weights."""
    if arguments.action == "list":
        _list_weights(arguments.template)
        return 0

    if arguments.template is None:
        raise UsageError("which template? detreg weights fetch TEMPLATE [--base_model B]")
    template = templates.find_template(arguments.template)
    _fetch_weights(template, arguments.base_model, arguments.masks)
    return 0


def _list_weights(name: str | None) -> None:
    chosen = [templates.find_template(name)] if name else templates.TEMPLATES.values()
    for template in chosen:
        for base_model, weights in template.base_models.items():
            coco_url = weights.coco_weights.url if weights.coco_weights else ""
            masks_url = weights.masks.coco_weights.url if weights.masks else ""
            sources = [source for source in (coco_url, masks_url, weights.imagenet) if source]
            listed = " ".join(sources) or "not published in this layout"
            print(f"{template.name:14}{base_model:22}{listed}")


def _fetch_weights(template: Template, given: str | None, with_masks: bool) -> None:
    """Download the weights of a base model, the default one where none is given.

    With masks: those of boxes and masks, where they were published.
    """
    params = build(template.params, {"base_model": given} if given else {})
    name = params.base_model

    from detreg.training.downloads import fetch_coco_weights, fetch_imagenet_weights

    folder = os.environ.get("DETREG_WEIGHTS")
    into = Path(folder) if folder else None
    weights = template.base_models[name]
    if weights.coco_weights or not weights.imagenet:
        print(fetch_coco_weights(template, name, into, with_masks=with_masks))
    if weights.imagenet:
        print(fetch_imagenet_weights(template, name, into))
