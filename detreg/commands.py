"""What each command does and prints. Everything heavy is imported by the command that needs it, so that help is instant."""

import argparse
import json
import os
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from detreg import templates
from detreg.errors import UsageError
from detreg.options import RunOptions, SweepOptions
from detreg.params import build, get_params, to_changed_texts


def list_templates(arguments: argparse.Namespace) -> int:
    """Prints the templates, or one template's hyperparameters."""
    if arguments.json:
        chosen = (
            templates.find_template(arguments.name).as_json()
            if arguments.name
            else [t.as_json() for t in templates.TEMPLATES.values()]
        )
        print(json.dumps(chosen))
    elif arguments.name is None:
        for template in templates.TEMPLATES.values():
            print(f"{template.name:14}{template.summary}")
    else:
        template = templates.find_template(arguments.name)
        print(
            f"{template.name} (also {', '.join(template.aliases)}): {template.summary}\n\n{template.description}\n"
        )
        rows = [
            (p.name, p.format(p.default), p.domain, p.help)
            for p in get_params(template.params).values()
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        for name, default, domain, help in rows:
            print(
                f"{name:{widths[0]}}  {default:{widths[1]}}  {domain}\n{'':{sum(widths) + 4}}{help}"
            )
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Prints every problem of a dataset; exit code 65 where there is one."""
    from detreg.data.dataset import summarize_dataset

    found = summarize_dataset(arguments.data)
    if arguments.json:
        print(json.dumps(found))
        return 0 if found["ok"] else 65
    for problem in found["problems"]:
        print(f"problem: {problem}")
    for sentence, count in found["repairs"].items():
        print(f"repaired: {sentence} ({count})")
    if found["ok"]:
        splits = ", ".join(
            f"{name} {split['images']} images with {split['boxes']} boxes"
            for name, split in found["splits"].items()
        )
        print(
            f"{arguments.data} is good: {found['format']}, {splits}; classes {', '.join(found['classes'])}; digest {found['digest']}"
        )
        return 0
    print(f"{arguments.data} has {len(found['problems'])} problems")
    return 65


def sample(arguments: argparse.Namespace) -> int:
    """Writes the built-in dataset."""
    from detreg.data.sample import write_sample

    write_sample(
        Path(arguments.folder),
        format=arguments.format,
        images=arguments.pictures,
        seed=arguments.seed,
    )
    print(
        f"{arguments.pictures} pictures in {arguments.folder}; try: detreg check {arguments.folder}"
    )
    return 0


def train(arguments: argparse.Namespace) -> int:
    """Trains, exports and registers, and says what to try next."""
    template = templates.find_template(arguments.template)
    names = [*get_params(template.params), *get_params(RunOptions)]
    values = {
        name: getattr(arguments, name) for name in names if hasattr(arguments, name)
    } | arguments.unknown
    from detreg import pipeline

    params, options = pipeline.settings(template, values)
    trained = pipeline.run(template, params, options)
    longer = replace(
        params,
        num_epochs=min(2 * params.num_epochs, 200),
        load_from=None,
        continue_from_eid=trained.run_id,
    )
    print(_summary(trained, to_changed_texts(longer) | to_changed_texts(options)))
    if arguments.json:
        print(json.dumps(asdict(trained)))
    return 0


def sweep(arguments: argparse.Namespace) -> int:
    """Searches hyperparameters, registers the best model, and says what to try next."""
    from detreg.sweeps import request
    from detreg.sweeps import sweep as sweeps

    chosen = request.parse_templates(arguments.template)
    names = [
        *get_params(RunOptions),
        *get_params(SweepOptions),
        *(name for template in chosen for name in get_params(template.params)),
    ]
    values = {
        name: getattr(arguments, name) for name in names if hasattr(arguments, name)
    } | arguments.unknown
    swept = sweeps.run(request.make_request(chosen, values))
    print(_end_of_sweep(swept))
    if arguments.json:
        print(json.dumps(asdict(swept)))
    return 0


def _end_of_sweep(swept: Any) -> str:
    """What came out of a sweep, and what to try next."""
    values = (
        " ".join(f"{name}={value}" for name, value in swept.hyperparameters.items())
        or "the defaults"
    )
    registered, serve = "not registered", "-"
    if swept.model_version:
        registered = f"registered {swept.model_name} version {swept.model_version} as {swept.alias}"
        serve = f"mlflow models serve -m models:/{swept.model_name}/{swept.model_version} --env-manager local --port 5001"
    return f"""
{swept.comparison}
best: trial {swept.best_trial}, {swept.template} with {values}
its run (eid) {swept.best_run_id}
{registered}: {swept.reason}
{swept.complete} trials complete, {swept.pruned} pruned, {swept.failed} failed

Try next:
  look at it         mlflow ui; report/index.html of run {swept.run_id}
  serve it           {serve}
  search on          the same command with more --trials goes on with this study
"""


def _summary(trained: Any, continued: dict[str, str]) -> str:
    """What came out, and the three commands to try next."""
    flags = " ".join(f"-P {name}={shlex.quote(value)}" for name, value in continued.items())
    return f"""
mAP {trained.mAP:.3f}   mAP_50 {trained.mAP_50:.3f}   of the exported model on the val split
run (eid) {trained.run_id}
registered {trained.model_name} version {trained.model_version} as {trained.alias}: {trained.reason}

Try next:
  look at it         mlflow ui
  serve it           mlflow models serve -m models:/{trained.model_name}@{trained.alias} --env-manager local --port 5001
  continue from it   mlflow run . -e {trained.template} --env-manager local {flags}
"""


def evaluate(arguments: argparse.Namespace) -> int:
    """Scores a model on a split."""
    from detreg.tasks import evaluate

    result = evaluate(arguments.model, arguments.data, arguments.split)
    if arguments.json:
        print(json.dumps(result))
    else:
        print(
            f"mAP {result.get('mAP', 0):.4f}   mAP_50 {result.get('mAP_50', 0):.4f}   on {arguments.split} of {arguments.data}"
        )
        print(f"report in run {result['run_id']}, artifact report/index.html: mlflow ui")
    return 0


def predict(arguments: argparse.Namespace) -> int:
    """Writes predictions.json and pictures with boxes."""
    from detreg.tasks import predict

    path = predict(
        arguments.model,
        arguments.pictures,
        arguments.out,
        arguments.score_threshold,
        arguments.max_detections,
    )
    print(f"{path}, and the pictures beside it")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Writes an ONNX file."""
    from detreg import tasks

    if getattr(arguments, "values_of", None) != "export":
        print(tasks.export_model(arguments.model, arguments.out))
        return 0
    template = templates.find_template(arguments.model)
    values = {
        name: getattr(arguments, name)
        for name in get_params(template.params)
        if hasattr(arguments, name)
    } | arguments.unknown
    print(tasks.export_checkpoint(template, values, arguments.pictures, arguments.out))
    print(arguments.out)
    return 0


def promote(arguments: argparse.Namespace) -> int:
    """Moves the alias champion."""
    version = None if arguments.version in (None, "none") else arguments.version
    if (version is None) != arguments.rollback:
        raise UsageError(
            "give a version, or --rollback: detreg promote NAME VERSION, detreg promote NAME --rollback"
        )
    from detreg.tracking import registry

    moved = (
        registry.rollback(arguments.name)
        if version is None
        else registry.promote(arguments.name, version)
    )
    print(f"{moved.name} version {moved.version} is {moved.alias}: {moved.reason}")
    return 0


def weights(arguments: argparse.Namespace) -> int:
    """Lists or fetches published weights."""
    if arguments.action == "list":
        chosen = (
            [templates.find_template(arguments.template)]
            if arguments.template
            else templates.TEMPLATES.values()
        )
        for template in chosen:
            for name, weights in template.base_models.items():
                sources = [source for source in (weights.url, weights.imagenet) if source]
                print(
                    f"{template.name:14}{name:22}{' '.join(sources) or 'not published in this layout'}"
                )
        return 0
    if arguments.template is None:
        raise UsageError("which template? detreg weights fetch TEMPLATE [--base_model B]")
    template = templates.find_template(arguments.template)
    given = {"base_model": arguments.base_model} if arguments.base_model else {}
    base_model = build(template.params, given).base_model
    from detreg.training.weights import imagenet, published

    folder = os.environ.get("DETREG_WEIGHTS")
    into = Path(folder) if folder else None
    known = template.base_models[base_model]
    if known.url or not known.imagenet:
        print(published(template, base_model, into))
    if known.imagenet:
        print(imagenet(template, base_model, into))
    return 0
