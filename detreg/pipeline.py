"""The story: one model, from data to a registered version."""

import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pprint import pformat
from typing import TYPE_CHECKING, Any

from detreg import templates, torchrun
from detreg.data.dataset import Dataset, load_dataset
from detreg.environment import set_mlflow_defaults
from detreg.errors import RefusedError, UsageError
from detreg.options import RunOptions
from detreg.params import build, get_params, to_plain, to_texts
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.tracking import runs
from detreg.tracking.runs import Run
from detreg.version import __version__

if TYPE_CHECKING:
    from mmengine.config import Config

    from detreg.evaluation.ground_truth import GroundTruth
    from detreg.export.parity import ParityResult
    from detreg.export.trained_model import TrainedModel
    from detreg.inference.detections import Detections
    from detreg.training.engine import FitResult
    from detreg.training.weights import InitialWeights


@dataclass(frozen=True)
class Job:
    """All that a training is told, each part valid."""

    template: Template
    params: CommonParams
    options: RunOptions
    dataset: Dataset
    start: "InitialWeights"
    config: "Config"
    auto: Mapping[str, str] = field(default_factory=dict)
    """The text of what was given as `auto`, by name; `params` has it too."""
    warning: str = ""
    """What the user should know of the data with these params."""

    @property
    def tags(self) -> dict[str, str]:
        """The tags of its run."""
        tags = {
            runs.TEMPLATE: self.template.name,
            runs.DIGEST: self.dataset.digest,
            runs.START: self.start.sentence,
        }
        if self.start.parent:
            tags[runs.PARENT] = self.start.parent
        if self.warning:
            tags[runs.WARNING] = self.warning
        return tags

    @property
    def facts(self) -> dict[str, Any]:
        """The artifact params.json: typed values, where MLflow's parameters are text."""
        return {
            "template": self.template.name,
            "dataset_digest": self.dataset.digest,
            "classes": list(self.dataset.classes),
            "detreg_version": __version__,
            "hyperparameters": to_plain(self.params),
            "options": to_plain(self.options),
            "backbone_is_filled": self.start.backbone_is_filled,
        }


@dataclass(frozen=True)
class TrainingResult:
    """The end of a training, as `--json` prints it. mAP is the exported model's on the val split, from 0 to 1."""

    run_id: str
    status: str
    template: str
    mAP: float
    mAP_50: float
    mAP_75: float
    best_epoch: int
    parity_matched: float
    model_name: str
    model_version: str
    alias: str
    reason: str
    dataset_digest: str


def train(template: str, **values: Any) -> dict[str, Any]:
    """Trains, exports and registers a model; `values` are hyperparameters and run options by name (`data`, `image_size`, `seed` ...).

    Returns what `detreg train --json` prints. Raises the errors of detreg.errors.
    """
    set_mlflow_defaults()
    chosen = templates.find_template(template)
    params, options = settings(chosen, values)
    return asdict(run(chosen, params, options))


def settings(template: Template, values: Mapping[str, Any]) -> tuple[CommonParams, RunOptions]:
    """Hyperparameters and run options from texts or Python values. Raises UsageError with every problem of both at once."""
    for_options = {name: value for name, value in values.items() if name in get_params(RunOptions)}
    for_params = {name: value for name, value in values.items() if name not in for_options}
    built: list[Any] = []
    problems: list[str] = []
    for cls, given in ((template.params, for_params), (RunOptions, for_options)):
        try:
            built.append(build(cls, given))
        except UsageError as error:
            problems += error.problems
    if problems:
        raise UsageError(problems)
    return built[0], built[1]


def run(template: Template, params: CommonParams, options: RunOptions) -> TrainingResult:
    """The story itself. Whatever can be refused is refused before the MLflow run starts.

    Of several processes the first tells it; the others help to train, and end with SystemExit.
    """
    torchrun.check_batch_size(params.batch_size)
    dataset = load_dataset(options.data)
    print(describe(dataset), flush=True)
    # torch and mmdet take ten seconds to import: only after the arguments and the data have proved good.
    from detreg.training.engine import check_fit

    job = prepare(template, params, options, dataset)
    if torchrun.get_rank():
        help_first(job)
        raise SystemExit(0)
    check_fit(job.config, template, params, dataset.classes, job.start)
    torchrun.signal_ready()
    with runs.start_run(options.run_name, job.tags) as active:
        print(f"MLflow run (eid) {active.id} in {runs.get_tracking_uri()}", flush=True)
        return publish(active, job, learn(active, job))


def prepare(template: Template, params: CommonParams, options: RunOptions, dataset: Dataset) -> Job:
    """The start's weights are read and the configuration is composed. Raises the errors of both."""
    from detreg.training.compose import compose
    from detreg.training.loaders import describe_small_images
    from detreg.training.weights import resolve

    resolved = template.resolve(params)
    given = to_texts(params)
    found = {name: text for name, text in to_texts(resolved).items() if text != given[name]}
    for name, text in found.items():
        print(
            f"{name}={text}, the published value of {params.base_model} ({name}=auto)", flush=True
        )
    start = resolve(template, resolved, dataset)
    print(start.sentence, flush=True)
    warning = describe_small_images(resolved, dataset)
    if warning:
        print(f"Warning: {warning}", file=sys.stderr, flush=True)
    config = compose(template, resolved, dataset, options, start.backbone_is_filled)
    return Job(template, resolved, options, dataset, start, config, found, warning)


def help_first(job: Job) -> None:
    """Trains with the first process, which alone writes. Raises the errors of training."""
    from detreg.training.engine import fit

    with tempfile.TemporaryDirectory(prefix="detreg-") as folder:
        fit(
            job.config,
            job.template,
            job.params,
            job.options,
            job.dataset.classes,
            job.start,
            Path(folder),
            None,
        )


def learn(
    active: Run, job: Job, after_epoch: Callable[[int, float], bool] | None = None
) -> "FitResult":
    """Logs what is known before the first step, and trains; `after_epoch` as for training.engine.fit."""
    from detreg.training.engine import fit

    record(active, job)
    return fit(
        job.config,
        job.template,
        job.params,
        job.options,
        job.dataset.classes,
        job.start,
        active.folder,
        active,
        after_epoch,
    )


def publish_run(
    eid: str, template: Template, params: CommonParams, options: RunOptions, dataset: Dataset
) -> TrainingResult:
    """Exports and registers the best checkpoint of a training that has ended, in its own run.

    Raises NotFoundError for a run without a checkpoint, RefusedError, and the errors of MLflow.
    """
    from detreg.training.compose import compose
    from detreg.training.engine import fitted
    from detreg.training.weights import InitialWeights

    sentence = runs.get_run(eid).data.tags.get(runs.START, "")
    resolved = template.resolve(params)
    job = Job(
        template,
        resolved,
        options,
        dataset,
        InitialWeights(sentence),
        compose(template, resolved, dataset, options),
    )
    with runs.start_run(None, {}, run_id=eid) as active:
        return publish(active, job, fitted(eid, active.folder), again=True)


def describe(dataset: Dataset) -> str:
    """The dataset in a few words, with the repairs that were made."""
    splits = ", ".join(f"{split.images} {name}" for name, split in dataset.splits.items())
    classes = ", ".join(dataset.classes[:10]) + (" ..." if len(dataset.classes) > 10 else "")
    repairs = "".join(
        f"\n  repaired: {sentence} ({count})" for sentence, count in dataset.repairs.items()
    )
    return f"Dataset {dataset.name} ({dataset.format}, digest {dataset.digest}): {splits} images; classes {classes}{repairs}"


def record(active: Run, job: Job) -> None:
    """Logs what is known before the first step."""
    from detreg.training.weights import PARAMS_FILE

    active.log_params(to_texts(job.params) | to_texts(job.options))
    # `mlflow run` has logged the word `auto` before this process began, and MLflow takes no second value.
    active.log_params({f"{name}.resolved": text for name, text in job.auto.items()})
    active.log_dataset(job.dataset)
    active.log_text(json.dumps(job.facts, indent=2), PARAMS_FILE)
    parts = job.config.to_dict().items()
    active.log_text(
        "\n".join(f"{name} = {pformat(part, sort_dicts=False, width=140)}" for name, part in parts),
        "config.py",
    )


def publish(active: Run, job: Job, fitted: "FitResult", again: bool = False) -> TrainingResult:
    """From the best checkpoint to a registered version, each step logged before the next; `again` as for tracking.registry.register.

    Raises RefusedError, with everything logged, where the exported model disagrees with the trained one.
    """
    from detreg.evaluation.ground_truth import GroundTruth
    from detreg.evaluation.predictions import predict_split
    from detreg.evaluation.scores import score
    from detreg.export.parity import measure_parity
    from detreg.inference.detector import Detector
    from detreg.serving.packaging import log_model
    from detreg.tracking.registry import register

    onnx, trained, model = export(active, job, fitted)
    detector = Detector.load(onnx)
    truth = GroundTruth.load(job.dataset.splits["val"].annotations)
    predictions = predict_split(detector, truth)
    parity = measure_parity(truth, predictions, trained, model)
    scores = parity.exported
    print(f"Parity: {parity.summary}", flush=True)
    active.log_metrics(parity.as_metrics() | scores.as_metrics() | scores.as_class_metrics("val"))
    if "test" in job.dataset.splits:
        test = GroundTruth.load(job.dataset.splits["test"].annotations)
        active.log_metrics(score(test, predict_split(detector, test)).as_metrics("test"))
    report(active, job, fitted, parity, truth, predictions)
    model_uri = log_model(onnx).model_uri
    if not parity.passed:
        cause = "the exported one disagrees with the trained one"
        if not parity.matches.total:
            cause = "nothing proves that the exported one finds what the trained one finds"
        raise RefusedError(f"the model is not registered, because {cause}: {parity.summary}")
    name = job.options.registered_model_name or job.template.name
    tags = {"template": job.template.name}
    registered = register(
        name,
        model_uri,
        active.id,
        score=math.nan if scores.mAP is None else scores.mAP,
        dataset_digest=job.dataset.digest,
        tags=tags,
        again=again,
    )
    return TrainingResult(
        run_id=active.id,
        status="FINISHED",
        template=job.template.name,
        mAP=scores.mAP or 0.0,
        mAP_50=scores.mAP_50 or 0.0,
        mAP_75=scores.mAP_75 or 0.0,
        best_epoch=fitted.best_epoch,
        parity_matched=parity.matches.matched_share,
        model_name=name,
        model_version=registered.version,
        alias=registered.alias,
        reason=registered.reason,
        dataset_digest=job.dataset.digest,
    )


def export(
    active: Run,
    job: Job,
    fitted: "FitResult",
) -> "tuple[Path, Mapping[int, Detections], TrainedModel]":
    """Export the best checkpoint as an ONNX file.

    Returns the file, what MMDetection itself finds with that checkpoint on the val split, and the
    network for a second look at both (export.parity).
    """
    from detreg.export.trained_model import TrainedModel
    from detreg.inference.from_template import make_card
    from detreg.training import checkpoints
    from detreg.training.engine import build_network, predict

    network = build_network(job.config.model, checkpoints.load(fitted.checkpoint).state_dict)
    loader = job.config.val_dataloader
    found = dict(predict(network, loader, job.dataset.classes))

    data, threshold = job.dataset, job.options.score_threshold
    about = make_card(job.template, job.params, data.classes, threshold, data.digest, active.id)
    pixels = job.template.get_base_model(job.params).input

    def predict_all() -> "Mapping[int, Detections]":
        return dict(predict(network, loader, data.classes, limit=None))

    model = TrainedModel(network, job.template.decoder, pixels, about, predict_all)
    path = model.export(active.folder / f"{job.template.name}.onnx")
    return path, found, model


def report(
    active: Run,
    job: Job,
    fitted: "FitResult",
    parity: "ParityResult",
    truth: "GroundTruth",
    predictions: "dict[int, Detections]",
) -> None:
    """The page with plots and pictures of the exported model on the val split, as the artifact `report`."""
    from detreg.evaluation.report import SplitEvaluation, write_report

    folder = active.folder / "report"
    facts = {
        "run (eid)": active.id,
        "start": job.start.sentence,
        "dataset": describe(job.dataset),
        "best epoch": f"{fitted.best_epoch} of {job.params.num_epochs}",
        "parity": parity.summary,
    } | to_texts(job.params)
    title = f"{job.template.name} on {job.dataset.name}"
    write_report(
        folder,
        title,
        SplitEvaluation("val", truth, predictions, parity.exported),
        history=fitted.history,
        facts=facts,
    )
    active.log_file(folder, "report")
