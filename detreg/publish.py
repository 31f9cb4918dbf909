"""From a training that has ended to a registered version: export, compare, report, register."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from detreg.data.dataset import Dataset
from detreg.data.summary import describe_dataset
from detreg.defaults import MASK_METRIC, SCORE_THRESHOLD
from detreg.errors import RefusedError, UndeliveredError, UnreachableError
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.model_speed import ModelSpeed, measure_speed
from detreg.evaluation.predictions import predict_split
from detreg.evaluation.report import SplitEvaluation, write_report
from detreg.evaluation.report_plots import NO_TRAINING, TrainingCourse
from detreg.evaluation.split_numbers import NUMBERS_FILE, read_map_interval
from detreg.export.card_file import replace_card
from detreg.export.parity import ParityResult, measure_parity
from detreg.export.trained_model import TrainedModel
from detreg.files import compute_sha256
from detreg.inference.detections import Detections
from detreg.inference.detector import Detector
from detreg.inference.from_template import make_card
from detreg.inference.operating_point import OperatingPoint
from detreg.inspection.plan import TrainingPlan
from detreg.inspection.run_page import Preview, log_page_of_run, write_page_of_run
from detreg.mlflow_errors import translate_mlflow_errors
from detreg.mlflow_models import ONNX_SHA256
from detreg.model_notes import (
    TrainedModelFacts,
    describe_model,
    describe_run,
    describe_version,
)
from detreg.options import RunOptions
from detreg.params import to_texts
from detreg.promotion import make_promotion
from detreg.redaction import redact
from detreg.serving.packaging import log_model
from detreg.templates.common_params import CommonParams
from detreg.templates.config import Config as ConfigPart
from detreg.templates.template import Template
from detreg.threshold_choice import choose_operating_point, evaluate_test_split
from detreg.tracking import runs
from detreg.tracking.records import Registration
from detreg.tracking.registered_model import add_descriptions
from detreg.tracking.registry import RegisteredVersion, has_version, register
from detreg.tracking.runs import Run
from detreg.training.checkpoints import load_checkpoint
from detreg.training.compose import compose
from detreg.training.engine import FitResult, load_fit_result
from detreg.training.initial_weights import InitialWeights
from detreg.training.job import Job
from detreg.training.network import build_network, predict
from detreg.training.preview import draw_images_of_loader

MAX_PREVIEWED_IMAGES = 10_000
"""Of the train split. To show images as training sees them, its loader is made once more."""
NUM_REPORTED_IMAGES = 6
"""Images in the report as the training saw them; the page of the dataset shows more."""


@dataclass(frozen=True)
class TrainingResult:
    """The end of a training, which `--json` prints in the form of `to_json`.

    mAP is that of the exported model on the val split, from 0 to 1, and segm_mAP that of its masks,
    None where it has none; score_threshold is that of its card.
    """

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
    score_threshold: float
    segm_mAP: float | None = None
    segm_mAP_50: float | None = None
    segm_mAP_75: float | None = None

    def get_score(self, metric: str) -> float:
        """Return the mAP or the segm_mAP; 0 where it has none."""
        score = self.segm_mAP if metric == MASK_METRIC else self.mAP
        return score or 0.0

    def to_json(self) -> dict[str, object]:
        """Return the fields by name, without scores of masks where there are none."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Export:
    """An exported file and the trained model that it was made of.

    `predictions` holds what MMDetection itself finds with that model on the val split, by image id.
    """

    path: Path
    model: TrainedModel
    predictions: Mapping[int, Detections]


@dataclass(frozen=True)
class Judgment:
    """What is known of an exported model, for its reports on val and, if there is one, on test."""

    fitted: FitResult
    parity: ParityResult
    evaluations: Sequence[SplitEvaluation]
    point: OperatingPoint
    speed: ModelSpeed | None


def log_dataset_page(run: Run, job: Job) -> None:
    """Log the page of the dataset, with images as this training sees them, or warn."""
    dataset = job.dataset
    loader_config = compose_loader_in_process(job)
    preview = None
    if dataset.splits["train"].images <= MAX_PREVIEWED_IMAGES:
        preview = Preview(
            key=json.dumps(loader_config, default=str),
            draw=partial(draw_images_of_loader, loader_config, dataset.classes, job.options.seed),
        )
    plan = TrainingPlan(job.template, job.params)
    log_page_of_run(run, lambda: write_page_of_run(dataset, job.options.data, plan, preview))


def compose_loader_in_process(job: Job) -> ConfigPart:
    """Return the configuration of a job's training loader, without processes of its own."""
    in_process = {"num_workers": 0, "persistent_workers": False}
    return job.config.train_dataloader.to_dict() | in_process


def publish_trained_run(
    run_id: str, template: Template, params: CommonParams, options: RunOptions, dataset: Dataset
) -> TrainingResult:
    """Export and register the best checkpoint of a training that has ended, in its own run.

    Raises NotFoundError for a run without a checkpoint, RefusedError, and the errors of MLflow.
    """
    description = runs.get_run(run_id).data.tags.get(runs.START, "")
    resolved_params = template.resolve(params, options.recipe)
    job = Job(
        template=template,
        params=resolved_params,
        options=options,
        dataset=dataset,
        initial_weights=InitialWeights(description),
        config=compose(template, resolved_params, dataset, options),
    )
    with runs.start_run(None, {}, run_id=run_id) as run:
        return publish(run, job, load_fit_result(run_id, run.folder))


def publish(run: Run, job: Job, fitted: FitResult) -> TrainingResult:
    """Export, compare, report and register the best checkpoint.

    Each step is logged before the next one begins, so that a failure leaves what was found before.
    Raises RefusedError, with everything logged, where the exported model disagrees with the trained
    one.
    """
    # From here on the exported file is what is scored, reported and registered.
    exported = export_best_checkpoint(run, job, fitted)
    detector = Detector.load(exported.path)
    truth = GroundTruth.load(job.dataset.splits["val"].annotations)
    predictions = predict_split(detector, truth)

    parity = measure_parity(truth, predictions, exported.predictions, exported.model)
    print(f"Parity: {parity.summary}", flush=True)
    scores = parity.exported
    run.log_metrics(parity.as_metrics() | scores.as_metrics() | scores.as_class_metrics("val"))
    mask_scores = parity.exported_masks
    if mask_scores is not None:
        run.log_metrics(mask_scores.as_metrics() | mask_scores.as_class_metrics("val"))
    evaluations = [SplitEvaluation("val", truth, predictions, scores, mask_scores=mask_scores)]
    if "test" in job.dataset.splits:
        evaluations.append(evaluate_test_split(run, job.dataset, detector))
    point = choose_operating_point(run, job.options, job.dataset.classes, evaluations)
    threshold = point.overall.score_threshold
    replace_card(
        exported.path,
        replace(detector.card, score_threshold=threshold, operating_point=point),
    )

    speed = measure_speed(detector, truth, exported.path.stat().st_size)
    judgment = Judgment(fitted, parity, evaluations, point, speed)
    log_reports(run, job, judgment)
    facts = collect_facts(run, job, judgment)
    run.describe(describe_run(facts))
    registration = Registration(
        path=str(exported.path.relative_to(run.folder)),
        name=facts.name,
        score=scores.mAP,
        dataset_digest=job.dataset.digest,
        tags={"template": job.template.name, ONNX_SHA256: compute_sha256(exported.path)},
        promote_if=job.options.promote_if,
        annotations=str(job.dataset.splits["val"].annotations),
        model_description=describe_model(facts),
        version_description=describe_version(facts),
    )
    finished = job.initial_weights.parent if job.initial_weights.is_trained else None
    registered = log_and_register(run, registration, parity, finished, predictions)
    return TrainingResult(
        run_id=run.id,
        status="FINISHED",
        template=job.template.name,
        mAP=scores.mAP or 0.0,
        mAP_50=scores.mAP_50 or 0.0,
        mAP_75=scores.mAP_75 or 0.0,
        best_epoch=fitted.best_epoch,
        parity_matched=parity.matches.matched_share,
        model_name=registration.name,
        model_version=registered.version,
        alias=registered.alias,
        reason=registered.reason,
        dataset_digest=job.dataset.digest,
        score_threshold=threshold,
        segm_mAP=None if mask_scores is None else mask_scores.mAP,
        segm_mAP_50=None if mask_scores is None else mask_scores.mAP_50,
        segm_mAP_75=None if mask_scores is None else mask_scores.mAP_75,
    )


def export_best_checkpoint(run: Run, job: Job, fitted: FitResult) -> Export:
    """Export the best checkpoint as an ONNX file in the run's folder."""
    checkpoint = load_checkpoint(fitted.checkpoint)
    network = build_network(job.config.model, checkpoint.state_dict)
    loader = job.config.val_dataloader
    classes = job.dataset.classes
    predictions = dict(predict(network, loader, classes))

    about = make_card(
        job.template,
        job.params,
        classes,
        # Until val has been predicted, which takes all detections whatever the card says.
        score_threshold=SCORE_THRESHOLD,
        dataset_digest=job.dataset.digest,
        eid=run.id,
    )

    # Parity looks again where the best detections alone decide nothing.
    def predict_all() -> Mapping[int, Detections]:
        return dict(predict(network, loader, classes, limit=None))

    input_spec = job.template.get_base_model(job.params).input
    model = TrainedModel(network, job.template.decoder, input_spec, about, predict_all)
    path = model.export(run.folder / f"{job.template.name}.onnx")
    return Export(path, model, predictions)


def log_reports(run: Run, job: Job, judgment: Judgment) -> None:
    """Write a page on the exported model's results on each split.

    The artifact `report` is of val, `report_test` of test where there is one.
    """
    fitted = judgment.fitted
    facts = {
        "run (eid)": run.id,
        "start": job.initial_weights.description,
        "dataset": f"{describe_dataset(job.dataset)}; its page is the artifact dataset.html",
        "best epoch": f"{fitted.best_epoch} of {job.params.num_epochs}",
        "parity": judgment.parity.summary,
        "operating point": judgment.point.description,
    } | to_texts(job.params)

    for evaluation in judgment.evaluations:
        is_val = evaluation.name == "val"
        artifact = "report" if is_val else f"report_{evaluation.name}"
        folder = run.folder / artifact
        write_report(
            folder,
            f"{job.template.name} on {job.dataset.name}",
            replace(evaluation, score_threshold=judgment.point.overall.score_threshold),
            course=draw_course(job, fitted, folder) if is_val else NO_TRAINING,
            facts=facts,
            speed=judgment.speed if is_val else None,
        )
        run.log_file(folder, artifact)


def draw_course(job: Job, fitted: FitResult, folder: Path) -> TrainingCourse:
    """Draw images as the training saw them into a folder, and add the metrics of its epochs."""
    history = [entry.to_row() for entry in fitted.history]
    if job.dataset.splits["train"].images > MAX_PREVIEWED_IMAGES:
        return TrainingCourse(history, metric=job.metric)
    folder.mkdir(parents=True, exist_ok=True)
    config = compose_loader_in_process(job)
    images = draw_images_of_loader(
        config, job.dataset.classes, job.options.seed, folder, NUM_REPORTED_IMAGES
    )
    return TrainingCourse(history, images, job.metric)


def collect_facts(run: Run, job: Job, judgment: Judgment) -> TrainedModelFacts:
    """Return what MLflow's pages say of a model, after its reports are written."""
    return TrainedModelFacts(
        run_id=run.id,
        name=job.options.choose_model_name(job.template.name, job.dataset.name),
        template=job.template,
        params=job.params,
        dataset=job.dataset,
        scores={evaluation.name: evaluation.scores for evaluation in judgment.evaluations},
        interval=read_map_interval(run.folder / "report" / NUMBERS_FILE),
        point=judgment.point,
        best_epoch=judgment.fitted.best_epoch,
        mask_scores={
            evaluation.name: evaluation.mask_scores
            for evaluation in judgment.evaluations
            if evaluation.mask_scores is not None
        },
    )


def log_and_register(
    run: Run,
    registration: Registration,
    parity: ParityResult,
    finished: str | None,
    predictions: Mapping[int, Detections],
) -> RegisteredVersion:
    """Log the exported model to the run, and register it unless it has failed parity.

    `finished` is the run whose training this one takes over: a version that it has already is not
    doubled. `predictions` are those of the exported model on the val split, for the comparison with
    the champion.

    Raises RefusedError where it has, and UndeliveredError where MLflow does not answer: then
    `detreg sync` logs and registers it.
    """
    path = run.folder / registration.path
    try:
        if not run.wait_until_delivered():
            raise UnreachableError(f"MLflow at {redact(runs.get_tracking_uri())} does not answer")
        with translate_mlflow_errors(f"run {run.id} is gone"):
            # A model that disagrees is logged too, to find out why, but gets no version.
            model_uri = log_model(path).model_uri
        _check_parity(parity)
        is_registered = finished is not None and has_version(registration.name, finished)
        registered = register(
            registration.name,
            model_uri,
            finished if finished and is_registered else run.id,
            score=math.nan if registration.score is None else registration.score,
            dataset_digest=registration.dataset_digest,
            tags=registration.tags,
            promotion=make_promotion(run.id, run.folder, registration, predictions),
        )
        with translate_mlflow_errors(f"{registered.name} is gone"):
            add_descriptions(registered.name, registered.version, registration)
        return registered
    except UnreachableError as error:
        _check_parity(parity)
        run.write(registration)
        raise UndeliveredError(
            f"the model is trained and exported, and not registered yet: {error}; everything is "
            f"kept in {run.folder}, and `detreg sync {run.id}` delivers and registers it"
        ) from error


def _check_parity(parity: ParityResult) -> None:
    """Raise RefusedError where the exported model may not stand for the trained one."""
    if parity.has_passed:
        return
    cause = "the exported one disagrees with the trained one"
    if not parity.matches.total:
        cause = "nothing proves that the exported one finds what the trained one finds"
    raise RefusedError(f"the model is not registered, because {cause}: {parity.summary}")
