"""Compares two models on the same images."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from detreg.data.dataset import Dataset
from detreg.errors import DataError, DetregError, UsageError
from detreg.evaluation.bootstrap import MatchedDetections
from detreg.evaluation.comparison import Comparison, Difference, compare_mean_ap, compare_models
from detreg.evaluation.comparison_page import (
    ComparedModel,
    describe_verdict,
    write_comparison_page,
)
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.operating_point import find_threshold
from detreg.evaluation.predictions import predict_split
from detreg.evaluation.score_curve import judge_detections
from detreg.evaluation.scores import MASKS_PREFIX, can_score_masks, make_metric_names
from detreg.inference.detections import Detections
from detreg.inference.detector import Detector
from detreg.inference.images import read_image
from detreg.operating_rule import OperatingRule
from detreg.tasks.scored_dataset import load_scored_dataset
from detreg.tracking import preflight, runs
from detreg.tracking.experiments import use_dataset_experiment
from detreg.tracking.past_runs import find_dataset_origin
from detreg.tracking.run_names import choose_run_name
from detreg.tracking.runs import Run

COMPARED_MODELS_TAG = "detreg.compared_models"
MAX_TIMED_IMAGES = 30
TIMED_ROUNDS = 2


@dataclass(frozen=True)
class CompareRequest:
    """Models A and B, and the images: those of a split of `data`, or of the data of B's or A's run.

    A model is a run id, models:/name@alias, models:/name/3 or an .onnx file.
    """

    a: str
    b: str
    data: str | None = None
    split: str = "val"


@dataclass(frozen=True)
class ComparisonResult:
    """What came out, and what a command prints: a sentence, and a line of JSON."""

    run_id: str
    verdict: str
    notes: tuple[str, ...]
    content: dict[str, Any]


def compare_models_on_data(request: CompareRequest) -> ComparisonResult:
    """Compare two models on a split, as an MLflow run with the page.

    Raises UsageError where no dataset is given and none is found, or it has no such split,
    DataError where models and data have no class in common, and what loading them raises.
    """
    detectors = (Detector.load(request.a), Detector.load(request.b))
    dataset = _load_data(request, detectors)
    if request.split not in dataset.splits:
        known = ", ".join(dataset.splits)
        raise UsageError(f"{dataset.origin} has no split {request.split}: there are {known}")
    preflight.check_stores()

    whole = GroundTruth.load(dataset.splits[request.split].annotations)
    classes = _find_common_classes(detectors, whole)
    truth = whole.select(classes, list(whole.images))
    predictions = [predict_split(detector, truth) for detector in detectors]
    matched = [MatchedDetections.match(truth, found) for found in predictions]
    comparison = compare_models(*matched)
    if all(can_score_masks(truth, found) for found in predictions):
        a, b = (MatchedDetections.match(truth, found, by_masks=True) for found in predictions)
        comparison = replace(comparison, mask_mAP=compare_mean_ap(a, b))

    speeds = measure_speeds(detectors, truth)
    thresholds = [_find_threshold(truth, found) for found in predictions]
    models = (
        ComparedModel(request.a, predictions[0], thresholds[0], speeds[0]),
        ComparedModel(request.b, predictions[1], thresholds[1], speeds[1]),
    )
    notes = _note_other_classes(detectors, whole, classes)
    tags = {runs.DIGEST: dataset.digest, COMPARED_MODELS_TAG: f"{request.a} {request.b}"}
    name = choose_run_name(None, f"compare {request.a} and {request.b} on {dataset.name}")
    with use_dataset_experiment(dataset), runs.start_run(name, tags) as run:
        run.log_params(
            {"a": request.a, "b": request.b, "data": dataset.origin, "split": request.split}
        )
        run.log_dataset(dataset)
        run.log_metrics(_make_metrics(comparison, models))
        content = _make_content(run, request, dataset, comparison, models)
        run.log_text(json.dumps(content, indent=2), "comparison.json")
        folder = run.folder / "report"
        write_comparison_page(
            folder,
            f"Models A and B on the {request.split} split of {dataset.name}",
            truth,
            models,
            comparison,
            facts=_list_facts(models, detectors, dataset),
            notes=notes,
        )
        run.log_file(folder, "report")
    return ComparisonResult(run.id, describe_verdict(comparison), tuple(notes), content)


def _load_data(request: CompareRequest, detectors: Sequence[Detector]) -> Dataset:
    """Load the given dataset, or that of the run of B, or of A.

    Raises UsageError where neither is known any more.
    """
    with_masks = all(detector.has_masks for detector in detectors)
    if request.data is not None:
        return load_scored_dataset(request.data, with_masks=with_masks)

    problems: list[str] = []
    for detector in reversed(detectors):
        eid = detector.card.eid
        try:
            origin = find_dataset_origin(eid) if eid else None
            if origin is not None:
                return load_scored_dataset(origin, with_masks=with_masks)
        except DetregError as error:
            problems += error.problems
    reason = f" ({problems[0]})" if problems else ""
    raise UsageError(
        f"on which images? The dataset of neither model's run is found{reason}: "
        "detreg compare A B --data DATA"
    )


def _find_common_classes(detectors: Sequence[Detector], truth: GroundTruth) -> tuple[str, ...]:
    """Return the data's classes that both detectors know.

    Raises DataError where there is none.
    """
    a, b = detectors
    common = tuple(name for name in truth.classes if name in a.classes and name in b.classes)
    if common:
        return common
    raise DataError(
        "the models and the data have no class in common, so there is nothing to compare: "
        f"A knows {_join(a.classes)}, B {_join(b.classes)}, the data {_join(truth.classes)}"
    )


def _note_other_classes(
    detectors: Sequence[Detector], truth: GroundTruth, common: Sequence[str]
) -> list[str]:
    """Return a sentence for each side that has classes which are not compared."""
    notes = []
    sides = {"A": detectors[0].classes, "B": detectors[1].classes, "the data": truth.classes}
    for side, classes in sides.items():
        others = [name for name in classes if name not in common]
        if others:
            verb = "has" if side == "the data" else "knows"
            notes.append(f"Not compared, because only {side} {verb} it: {_join(others)}")
    return notes


def _join(names: Sequence[str], limit: int = 8) -> str:
    rest = len(names) - limit
    text = ", ".join(names[:limit])
    return f"{text} and {rest} more" if rest > 0 else text


def _find_threshold(truth: GroundTruth, predictions: Mapping[int, Detections]) -> float:
    """Return the score threshold with the best F1 on these images, which is fair to both models."""
    return find_threshold(judge_detections(truth, predictions), OperatingRule("f1")).value


def measure_speeds(detectors: Sequence[Detector], truth: GroundTruth) -> list[float]:
    """Return the milliseconds that each detector takes for an image, alone: the median.

    The detectors take turns, so that what else the machine does slows both; each runs through all
    images in its turn, because threads of the other one wait actively for a while.
    """
    chosen = list(truth.images.values())[:MAX_TIMED_IMAGES]
    images = [read_image(image.file) for image in chosen]
    milliseconds: list[list[float]] = [[] for _ in detectors]
    for _ in range(TIMED_ROUNDS):
        for detector, times in zip(detectors, milliseconds, strict=True):
            for image in images:
                start = time.perf_counter()
                detector(image)
                times.append(1000 * (time.perf_counter() - start))
    return [median(times) for times in milliseconds]


def _list_facts(
    models: tuple[ComparedModel, ComparedModel], detectors: Sequence[Detector], dataset: Dataset
) -> dict[str, str]:
    facts = {}
    for letter, model, detector in zip("AB", models, detectors, strict=True):
        card = detector.card
        run = "" if card.eid in (None, model.name) else f", run (eid) {card.eid}"
        trained_on = "these data" if card.dataset_digest == dataset.digest else "other data"
        facts[letter] = f"{model.name}: {card.template}{run}, trained on {trained_on}"
        facts[f"speed of {letter}"] = f"{model.ms_per_image:.1f} ms an image"
    return facts | {
        "speed is": f"the median of up to {MAX_TIMED_IMAGES} images, one at a time, on the "
        f"{detectors[0].device.upper()}",
        "digest of the data": dataset.digest,
    }


def _make_metrics(
    comparison: Comparison, models: tuple[ComparedModel, ComparedModel]
) -> dict[str, float]:
    """Return what is logged; what is not defined is left out."""
    values: dict[str, float | None] = {
        "a/mAP": comparison.mAP.a,
        "b/mAP": comparison.mAP.b,
        "a/mAP_50": comparison.mAP_50.a,
        "b/mAP_50": comparison.mAP_50.b,
        "a/ms_per_image": models[0].ms_per_image,
        "b/ms_per_image": models[1].ms_per_image,
        "difference/mAP": comparison.mAP.value,
        "difference/mAP_50": comparison.mAP_50.value,
    }
    if comparison.mAP.interval is not None:
        values["difference/mAP_low"] = comparison.mAP.interval.low
        values["difference/mAP_high"] = comparison.mAP.interval.high
    if comparison.mask_mAP is not None:
        values[f"a/{MASKS_PREFIX}mAP"] = comparison.mask_mAP.a
        values[f"b/{MASKS_PREFIX}mAP"] = comparison.mask_mAP.b
        values[f"difference/{MASKS_PREFIX}mAP"] = comparison.mask_mAP.value
    metric_names = make_metric_names(comparison.per_class)
    for name, difference in comparison.per_class.items():
        values[f"difference/AP/{metric_names[name]}"] = difference.value
    return {name: value for name, value in values.items() if value is not None}


def _make_content(
    run: Run,
    request: CompareRequest,
    dataset: Dataset,
    comparison: Comparison,
    models: tuple[ComparedModel, ComparedModel],
) -> dict[str, Any]:
    """Return what `--json` prints."""
    per_class = {name: _describe(part) for name, part in comparison.per_class.items()}
    per_size = {name.split()[0]: _describe(part) for name, part in comparison.per_size.items()}
    of_masks = {}
    if comparison.mask_mAP is not None:
        of_masks[f"{MASKS_PREFIX}mAP"] = _describe(comparison.mask_mAP)
    return {
        "run_id": run.id,
        "a": request.a,
        "b": request.b,
        "data": dataset.origin,
        "split": request.split,
        "dataset_digest": dataset.digest,
        "images": comparison.images,
        "classes": list(comparison.per_class),
        "verdict": describe_verdict(comparison),
        "mAP": _describe(comparison.mAP),
        "mAP_50": _describe(comparison.mAP_50),
        **of_masks,
        "per_class": per_class,
        "per_size": per_size,
        "ms_per_image": {"a": models[0].ms_per_image, "b": models[1].ms_per_image},
    }


def _describe(difference: Difference) -> dict[str, float | None]:
    interval = difference.interval
    return {
        "a": difference.a,
        "b": difference.b,
        "difference": difference.value,
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
    }
