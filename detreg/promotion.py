"""Compares a new version of a registered model with its champion, both on the same images.

Nothing that goes wrong with a champion ends a training: a comparison that is not possible is told,
and the new version stays challenger.
"""

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from detreg.data.image_hashes import IMAGE_HASHES, read_image_hashes
from detreg.defaults import BOX_METRIC, MASK_METRIC
from detreg.errors import DetregError, UnreachableError, summarize_error
from detreg.evaluation.bootstrap import MatchedDetections
from detreg.evaluation.comparison import compare_mean_ap
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.predictions import predict_split
from detreg.evaluation.scores import can_score_masks
from detreg.inference.detections import Detections
from detreg.inference.detector import Detector
from detreg.redaction import redact
from detreg.tracking import runs
from detreg.tracking.decision import Candidate, Evidence
from detreg.tracking.records import Registration
from detreg.tracking.registry import Promotion

MIN_IMAGES = 20
"""With fewer images the interval is too narrow: equal models are promoted too often
(docs/decisions/0020-champion-by-evidence.md)."""
MAX_IMAGES = 2000
"""More images cost time and change little: the interval of 2000 is a few thousandths of mAP."""
MAX_ANCESTORS = 100


@dataclass(frozen=True)
class NewVersion:
    """A version that is registered: its run, its exported file and the val split of its dataset.

    `annotations` is the canonical COCO file of the split, beside which the hashes of its images
    lie. `predictions` are those of the file on the split by image id, where they are known.
    """

    name: str
    run_id: str
    onnx_file: Path
    dataset_digest: str
    annotations: Path | None
    predictions: Mapping[int, Detections] | None = None


class _NotComparableError(Exception):
    """Why two versions cannot be compared, as the end of a sentence."""


def make_promotion(
    run_id: str,
    folder: Path,
    registration: Registration,
    predictions: Mapping[int, Detections] | None = None,
) -> Promotion:
    """Return how the version of a registration is to become champion.

    `folder` is that of its run; `predictions` are those of its file on the val split, if known.
    """
    annotations = registration.annotations
    version = NewVersion(
        name=registration.name,
        run_id=run_id,
        onnx_file=folder / registration.path,
        dataset_digest=registration.dataset_digest,
        annotations=None if annotations is None else Path(annotations),
        predictions=predictions,
    )
    return Promotion(registration.promote_if, partial(measure_evidence, version))


def measure_evidence(version: NewVersion, champion: Candidate) -> Evidence:
    """Score a new version and a champion on the same images, and return the difference.

    The images are those of the new version's val split that neither was trained on. Raises
    UnreachableError where MLflow does not answer; everything else that prevents a comparison is
    returned as its problem.
    """
    try:
        return _measure(version, champion)
    except UnreachableError:
        raise
    except _NotComparableError as error:
        return Evidence(problem=str(error))
    except Exception as error:
        # Such as a file that was deleted, or an operator that this machine does not run.
        return Evidence(problem=redact(summarize_error(error)))


def _measure(version: NewVersion, champion: Candidate) -> Evidence:
    if not champion.run_id:
        raise _NotComparableError("detreg has not registered it, so its images are not known")
    if version.annotations is None or not version.annotations.is_file():
        raise _NotComparableError("the val split of the new version is not on this machine")

    detector = _load_champion(version.name, champion.version)
    whole = GroundTruth.load(version.annotations)
    _check_classes(detector.classes, whole.classes)
    trained = _list_trained_images(champion.run_id, version.dataset_digest)
    trained |= _list_trained_images(version.run_id, version.dataset_digest)
    left = _leave_out(whole, version.annotations, trained)
    chosen = _cap_images(left)
    truth = whole if len(chosen) == len(whole.images) else whole.select(whole.classes, chosen)

    predictions = version.predictions
    if predictions is None:
        predictions = predict_split(Detector.load(version.onnx_file), truth)
    own = {image_id: predictions[image_id] for image_id in chosen if image_id in predictions}
    of_champion = predict_split(detector, truth)
    can_score = all(can_score_masks(truth, found) for found in (of_champion, own))
    by_masks = can_score and _wants_masks(version.run_id)
    difference = compare_mean_ap(
        MatchedDetections.match(truth, of_champion, by_masks=by_masks),
        MatchedDetections.match(truth, own, by_masks=by_masks),
    )
    if difference.interval is None or difference.a is None or difference.b is None:
        raise _NotComparableError("the images that it was not trained on have no objects")
    return Evidence(
        images=len(chosen),
        mAP=difference.b,
        champion_mAP=difference.a,
        low=difference.interval.low,
        high=difference.interval.high,
        note=_describe_choice(len(whole.images), len(left), len(chosen)),
        metric=MASK_METRIC if by_masks else BOX_METRIC,
    )


def _wants_masks(run_id: str) -> bool:
    """Whether a version with masks is judged by them: unless its run was told to go by boxes."""
    return runs.get_run(run_id).data.params.get("metric") != BOX_METRIC


def _load_champion(name: str, version: int) -> Detector:
    try:
        return Detector.load(f"models:/{name}/{version}")
    except UnreachableError:
        raise
    except DetregError as error:
        raise _NotComparableError(f"its file cannot be loaded ({error.problems[0]})") from error


def _check_classes(known: Collection[str], wanted: Collection[str]) -> None:
    if set(known) == set(wanted):
        return
    only_old = ", ".join(sorted(set(known) - set(wanted))[:5]) or "nothing else"
    only_new = ", ".join(sorted(set(wanted) - set(known))[:5]) or "nothing else"
    raise _NotComparableError(
        f"it has other classes (it alone knows {only_old}, the new version alone {only_new})"
    )


def _list_trained_images(run_id: str, dataset_digest: str) -> set[str]:
    """Return the hashes of images that a run and those before it were trained on.

    Runs on the dataset with `dataset_digest` are left out: that dataset's own train split has
    nothing of its val split.
    """
    trained: set[str] = set()
    current: str | None = run_id
    for _ in range(MAX_ANCESTORS):
        if current is None:
            return trained
        try:
            tags = runs.get_run(current).data.tags
        except UnreachableError:
            raise
        except DetregError as error:
            raise _NotComparableError(
                f"its run {current} is gone, so nothing tells which images it was trained on"
            ) from error
        if tags.get(runs.DIGEST) != dataset_digest:
            trained |= _read_trained_images(current)
        current = tags.get(runs.PARENT)
    return trained


def _read_trained_images(run_id: str) -> set[str]:
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = runs.download_artifact(run_id, IMAGE_HASHES, Path(folder))
            splits = read_image_hashes(file)
    except UnreachableError:
        raise
    except (DetregError, OSError) as error:
        raise _NotComparableError(
            f"run {run_id} has no list of the images that it was trained on, because it was "
            "trained on other data by an earlier detreg"
        ) from error
    return set(splits.get("train", []))


def _leave_out(truth: GroundTruth, annotations: Path, trained: Collection[str]) -> list[int]:
    """Return the ids of the images that are not among `trained`; there must be enough of them."""
    left = sorted(truth.images)
    if trained:
        hashes = read_image_hashes(annotations.parent / IMAGE_HASHES)[annotations.stem]
        # Ids are 1, 2, ... in the order of the hashes.
        left = [image_id for image_id in left if hashes[image_id - 1] not in trained]
    if len(left) >= MIN_IMAGES:
        return left

    seen = len(truth.images) - len(left)
    of_split = f"{len(left)} images"
    if seen:
        of_split = f"{len(left)} of {len(truth.images)} images, because one of the two was trained "
        of_split += f"on {seen}"
    raise _NotComparableError(
        f"the val split has only {of_split}, and with fewer than {MIN_IMAGES} luck decides"
    )


def _cap_images(image_ids: list[int]) -> list[int]:
    """Return at most MAX_IMAGES of the images, spread over all of them."""
    if len(image_ids) <= MAX_IMAGES:
        return image_ids
    places = np.linspace(0, len(image_ids) - 1, MAX_IMAGES).round().astype(int)
    return [image_ids[place] for place in places.tolist()]


def _describe_choice(whole: int, left: int, chosen: int) -> str:
    """Return which images of the val split were compared; an empty text where it was all."""
    parts = []
    if left < whole:
        parts.append(f"{whole - left:,} that one of the two was trained on are left out")
    if chosen < left:
        parts.append(f"{chosen:,} of {left:,}")
    return "; ".join(parts)
