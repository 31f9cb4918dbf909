"""At which score the model of a run is used: found on its splits, and logged."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

from detreg.data.dataset import Dataset
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.operating_point import find_operating_point, measure_figures
from detreg.evaluation.predictions import predict_split
from detreg.evaluation.report import SplitEvaluation
from detreg.evaluation.score_curve import judge_detections
from detreg.evaluation.scores import score, score_masks_if_any
from detreg.inference.detector import Detector
from detreg.inference.operating_point import OperatingPoint
from detreg.options import RunOptions
from detreg.params import to_texts
from detreg.tracking import runs
from detreg.tracking.runs import Run

ARTIFACT = "operating_point.json"


def evaluate_test_split(run: Run, dataset: Dataset, detector: Detector) -> SplitEvaluation:
    """Score the exported model on test, and log that."""
    truth = GroundTruth.load(dataset.splits["test"].annotations)
    predictions = predict_split(detector, truth)
    scores = score(truth, predictions)
    mask_scores = score_masks_if_any(truth, predictions)
    run.log_metrics(scores.as_metrics("test"))
    if mask_scores is not None:
        run.log_metrics(mask_scores.as_metrics("test"))
    return SplitEvaluation("test", truth, predictions, scores, mask_scores=mask_scores)


def choose_operating_point(
    run: Run, options: RunOptions, classes: Sequence[str], evaluations: Sequence[SplitEvaluation]
) -> OperatingPoint:
    """Find at which score the exported model is used, and log it with its figures.

    `evaluations` are of val and, where there is one, of test. The same checkpoint and options give
    the same point, so that a run that is finished later has it too.
    """
    judged = {}
    for evaluation in evaluations:
        judged[evaluation.name] = judge_detections(evaluation.truth, evaluation.predictions)
    point = find_operating_point(options.operating_point, options.score_threshold, classes, judged)
    if point.is_kept:
        print(f"Operating point: {point.description}", flush=True)
    else:
        print(f"Warning: operating point: {point.description}", file=sys.stderr, flush=True)

    threshold = point.overall.score_threshold
    metrics = {"operating_point/score_threshold": threshold}
    metrics |= point.overall.as_metrics("operating_point")
    if "test" in judged:
        metrics |= measure_figures(judged["test"], threshold).as_metrics("test")
    run.log_metrics(metrics)
    run.set_tags({runs.OPERATING_POINT: point.description})
    run.log_text(json.dumps(asdict(point), indent=2), ARTIFACT)

    if options.score_threshold is None:
        resolved = to_texts(replace(options, score_threshold=threshold))
        run.log_params({"score_threshold.resolved": resolved["score_threshold"]})
    return point
