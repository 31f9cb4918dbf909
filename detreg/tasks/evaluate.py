"""Scores a model on a split of a dataset."""

from typing import Any

from detreg.data.dataset import Dataset
from detreg.errors import UsageError
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.model_speed import measure_speed
from detreg.evaluation.operating_point import measure_figures
from detreg.evaluation.predictions import predict_split
from detreg.evaluation.report import MIN_SCORE, SplitEvaluation, write_report
from detreg.evaluation.score_curve import judge_detections
from detreg.evaluation.scores import score, score_masks_if_any
from detreg.inference.detector import Detector
from detreg.tasks.scored_dataset import load_scored_dataset
from detreg.tracking import preflight, runs
from detreg.tracking.experiments import use_dataset_experiment
from detreg.tracking.run_names import choose_run_name
from detreg.tracking.runs import Run

EVALUATED_MODEL_TAG = "detreg.evaluated_model"


def evaluate_model(model: str, data: str, split: str = "val") -> dict[str, Any]:
    """Score a model on a split, as an MLflow run with the report; return what `--json` prints.

    Raises UsageError where the dataset has no such split, and what loading the model or the data
    raises.
    """
    preflight.check_stores()
    detector = Detector.load(model)
    dataset = load_scored_dataset(data, with_masks=detector.has_masks)
    if split not in dataset.splits:
        raise UsageError(f"{data} has no split {split}: there are {', '.join(dataset.splits)}")

    truth = GroundTruth.load(dataset.splits[split].annotations)
    predictions = predict_split(detector, truth)
    scores = score(truth, predictions)
    mask_scores = score_masks_if_any(truth, predictions)
    # The scores are of all detections; at the operating point the report shows what a user sees.
    card = detector.card
    min_score = MIN_SCORE
    at_threshold: dict[str, float] = {}
    if card.operating_point is not None:
        min_score = card.score_threshold
        figures = measure_figures(judge_detections(truth, predictions), min_score)
        at_threshold = figures.as_metrics()
    evaluation = SplitEvaluation(split, truth, predictions, scores, min_score, mask_scores)
    means, metrics = scores.as_metrics(), scores.as_metrics(split) | scores.as_class_metrics(split)
    if mask_scores is not None:
        means |= mask_scores.as_metrics()
        metrics |= mask_scores.as_metrics(split) | mask_scores.as_class_metrics(split)

    name = choose_run_name(None, f"evaluate {model} on {dataset.name} {split}")
    tags = {
        runs.TEMPLATE: detector.card.template,
        runs.DIGEST: dataset.digest,
        EVALUATED_MODEL_TAG: model,
    }
    with use_dataset_experiment(dataset), runs.start_run(name, tags) as run:
        run.log_params({"model": model, "data": data, "split": split})
        run.log_dataset(dataset)
        run.log_metrics(means | metrics)
        run.log_metrics({f"{split}/{name}": value for name, value in at_threshold.items()})
        _log_report(run, model, detector, dataset, evaluation)

    return {
        "run_id": run.id,
        "model": model,
        "split": split,
        "dataset_digest": dataset.digest,
        "score_threshold": card.score_threshold,
        **means,
        **at_threshold,
    }


def _log_report(
    run: Run, model: str, detector: Detector, dataset: Dataset, evaluation: SplitEvaluation
) -> None:
    facts = {
        "model": model,
        "model's run (eid)": str(detector.card.eid),
        "trained on digest": str(detector.card.dataset_digest),
    }
    if detector.card.operating_point is not None:
        facts["operating point"] = detector.card.operating_point.description
    folder = run.folder / "report"
    speed = measure_speed(detector, evaluation.truth)
    write_report(folder, f"{model} on {dataset.name}", evaluation, facts=facts, speed=speed)
    run.log_file(folder, "report")
