"""The report's galleries: typical and worst images, and the surest errors of each kind."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from detreg.evaluation.error_kinds import EXPLANATIONS, ErrorKind, ImageErrors
from detreg.evaluation.gallery import choose_typical, choose_worst, draw_outcome
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.label_errors import LabelError
from detreg.evaluation.outcomes import Outcome
from detreg.evaluation.scenes import ErrorPlace, choose_errors, make_error_scene, make_image_scene
from detreg.report.page import Gallery
from detreg.report.scene import Scene
from detreg.report.theme import CLASS_COLORS, get_class_color

# More images would make the page too heavy for MLflow's viewer.
NUM_WORST = 6
NUM_TYPICAL = 4
NUM_PER_KIND = 6
NUM_LABEL_ERRORS = 24


def make_galleries(
    truth: GroundTruth,
    errors: Mapping[int, ImageErrors],
    outcomes: Mapping[int, Outcome],
    at_threshold: Mapping[int, ImageErrors],
) -> list[Gallery]:
    """Make the galleries of whole images, and one for each kind of error.

    errors are those of all detections, which the page's slider shows at any threshold; outcomes and
    at_threshold judge those that a user of the model sees.
    """
    worst = choose_worst(outcomes, NUM_WORST)
    typical = choose_typical(outcomes, NUM_TYPICAL, exclude=worst)

    # Colors repeat with more classes than there are colors, so a legend would mislead.
    legend = {}
    if len(truth.classes) <= len(CLASS_COLORS):
        legend = {name: get_class_color(label) for label, name in enumerate(truth.classes)}

    galleries = [
        Gallery(
            "Typical images",
            "With about as many errors as half of the images have. Left: objects, dashed where "
            "they are missed. Right: detections, thick where they are wrong.",
            legend=legend,
            scenes=_make_scenes(typical, truth, errors),
        ),
        Gallery(
            "Worst images",
            "With most objects missed or confused and most false detections.",
            legend=legend,
            scenes=_make_scenes(worst, truth, errors),
        ),
    ]
    for kind in ErrorKind:
        places = choose_errors(at_threshold, kind, NUM_PER_KIND)
        scenes = [make_error_scene(truth, place, errors[place.image_id]) for place in places]
        meaning = EXPLANATIONS[kind]
        explanation = f"{meaning[0].upper()}{meaning[1:]}; the surest ones over the threshold."
        galleries.append(Gallery(f"Errors: {kind}", explanation, scenes=scenes))
    return galleries


def make_label_gallery(
    truth: GroundTruth, errors: Mapping[int, ImageErrors], found: Sequence[LabelError]
) -> Gallery:
    """Make the gallery of probable label errors, the most suspicious first."""
    scenes = []
    for error in found[:NUM_LABEL_ERRORS]:
        place = ErrorPlace(error.image_id, error.detection, error.target)
        note = f"{error.kind}, {error.suspicion:.2f}"
        scenes.append(make_error_scene(truth, place, errors[error.image_id], note))
    return Gallery(
        "Probable label errors",
        f"The {len(scenes)} most suspicious of {len(found)} places where the model contradicts the "
        "labels (left) and is sure of itself (right). All of them are in label_errors.json; "
        "label_studio.json and proposed_labels.json bring them into Label Studio and CVAT.",
        scenes=scenes,
    )


def draw_images(folder: Path, truth: GroundTruth, outcomes: Mapping[int, Outcome]) -> list[Path]:
    """Write typical and worst images with their boxes as files, to be passed on."""
    worst = choose_worst(outcomes, NUM_WORST)
    typical = choose_typical(outcomes, NUM_TYPICAL, exclude=worst)
    files = []
    for kind, image_ids in (("typical", typical), ("worst", worst)):
        for place, image_id in enumerate(image_ids, start=1):
            path = folder / f"{kind}_{place}.jpg"
            files.append(draw_outcome(truth.images[image_id], outcomes[image_id], path))
    return files


def _make_scenes(
    image_ids: Sequence[int], truth: GroundTruth, errors: Mapping[int, ImageErrors]
) -> list[Scene]:
    return [
        make_image_scene(truth.images[image_id], errors[image_id], truth.classes)
        for image_id in image_ids
    ]
