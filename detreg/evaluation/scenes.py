"""The report's images with their objects and detections side by side, whole or around an error."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from detreg.errors import DetregError
from detreg.evaluation.error_kinds import FOUND, IGNORED, ErrorKind, ImageErrors
from detreg.evaluation.ground_truth import GroundTruth, TruthImage
from detreg.evaluation.matching import UNMATCHED
from detreg.inference.detections import Detections
from detreg.inference.images import read_image
from detreg.mask_patches import TOLERANCE, MaskPatch, cut_patch, trace_polygons
from detreg.report.canvas import MAX_SIDE, Canvas
from detreg.report.labels import Corners
from detreg.report.scene import DetectionBox, MaskPolygons, ObjectBox, Scene
from detreg.report.theme import get_class_color

Box = npt.NDArray[np.floating]
Window = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels of an image."""

MAX_BYTES = 70_000
MAX_BYTES_OF_CROP = 14_000
CROP_SIDE = 200
"""Pixels of the longer side of a crop as it is embedded."""
CONTEXT = 2.4
"""The side of a crop, in sides of what it is about."""
MIN_CROP = 48
"""Pixels of the image that a crop shows at least, so that there is something around a tiny box."""
MAX_MASK_NUMBERS = 1000
"""Of the polygons of a mask; one of more is noise, as a network has that has learned little."""
COARSE_SIDE = 40
"""Pixels of the longer side of such a mask as it is traced."""
MIN_SHOWN_SCORE = 0.05
"""Under which no threshold of the page shows a detection: there may be hundreds of them."""


@dataclass(frozen=True)
class ErrorPlace:
    """A detection, an object, or both, by their positions on an image.

    One of the two is UNMATCHED where the error is about the other alone.
    """

    image_id: int
    detection: int
    target: int


def make_image_scene(image: TruthImage, errors: ImageErrors, classes: tuple[str, ...]) -> Scene:
    """Return a whole image with all its objects and detections; crowds are left out."""
    canvas = Canvas(read_or_gray(image))
    tolerance = _choose_tolerance(image.width, image.height)
    objects = []
    for index, item in _list_objects(image, errors, classes):
        objects.append(replace(item, mask=_trace_object(image, index, tolerance)))
    detections = []
    for index, box in _list_detections(errors, classes):
        mask = _trace_detection(errors.detections, index, tolerance)
        detections.append(replace(box, mask=mask))
    return Scene(
        name=image.file.name,
        jpeg=canvas.encode(MAX_BYTES),
        width=image.width,
        height=image.height,
        objects=objects,
        detections=detections,
    )


def make_error_scene(
    truth: GroundTruth, place: ErrorPlace, errors: ImageErrors, note: str = ""
) -> Scene:
    """Return the part of an image around an error, with the boxes that the error is about.

    Those have their masks, too.
    """
    image = truth.images[place.image_id]
    meant = []
    if place.target != UNMATCHED:
        meant.append(image.boxes[place.target])
    if place.detection != UNMATCHED:
        meant.append(errors.detections.boxes[place.detection])
    window = choose_window(np.stack(meant), image.width, image.height)
    left, top, right, bottom = window
    tolerance = _choose_tolerance(right - left, bottom - top)

    objects = []
    for index, item in _list_objects(image, errors, truth.classes):
        is_aside = index != place.target
        if not is_aside or _has_center(item.corners, window):
            corners = _move(item.corners, window)
            mask = () if is_aside else _trace_object(image, index, tolerance, window)
            objects.append(replace(item, corners=corners, is_aside=is_aside, mask=mask))
    detections = []
    for index, box in _list_detections(errors, truth.classes):
        is_aside = index != place.detection
        if not is_aside or _has_center(box.corners, window):
            corners = _move(box.corners, window)
            found = errors.detections
            mask = () if is_aside else _trace_detection(found, index, tolerance, window)
            detections.append(replace(box, corners=corners, is_aside=is_aside, mask=mask))

    pixels = crop(read_or_gray(image), window)
    return Scene(
        name=image.file.name,
        jpeg=Canvas(pixels, CROP_SIDE, CROP_SIDE).encode(MAX_BYTES_OF_CROP),
        width=right - left,
        height=bottom - top,
        objects=objects,
        detections=detections,
        note=note,
        is_crop=True,
    )


def choose_window(boxes: Box, width: int, height: int) -> Window:
    """Return the corners of a square around boxes (n, 4), with some context, within the image."""
    upper_left = boxes[:, :2].min(axis=0)
    lower_right = boxes[:, 2:].max(axis=0)
    center = (upper_left + lower_right) / 2
    side = max(float((lower_right - upper_left).max()) * CONTEXT, MIN_CROP)

    limits = np.array([width, height])
    size = np.minimum(side, limits)
    # Near a border the square moves inside, so that it shows as much as elsewhere.
    start = np.clip(center - size / 2, 0, limits - size)
    left, top = np.floor(start).astype(int).tolist()
    right, bottom = np.ceil(start + size).astype(int).clip(max=limits).tolist()
    return left, top, right, bottom


def crop(pixels: npt.NDArray[np.uint8], window: Window) -> npt.NDArray[np.uint8]:
    """Return the pixels in a window of an image, at least one of them."""
    left, top, right, bottom = window
    height, width = pixels.shape[:2]
    left, top = min(left, width - 1), min(top, height - 1)
    return pixels[top : max(bottom, top + 1), left : max(right, left + 1)]


def read_or_gray(image: TruthImage) -> npt.NDArray[np.uint8]:
    """Read an image; one that cannot be read becomes gray, so that no report fails for it."""
    try:
        return read_image(image.file)
    except DetregError:
        return np.full((image.height, image.width, 3), 128, dtype=np.uint8)


def _list_objects(
    image: TruthImage, errors: ImageErrors, classes: tuple[str, ...]
) -> list[tuple[int, ObjectBox]]:
    """Return an image's objects with their positions, without crowds."""
    boxes = []
    scores = errors.detections.scores
    for index in np.flatnonzero(~image.crowd).tolist():
        finder = int(errors.found_by[index])
        box = ObjectBox(
            corners=tuple(image.boxes[index].tolist()),
            class_name=classes[image.labels[index]],
            color=get_class_color(int(image.labels[index])),
            found_score=0.0 if finder == UNMATCHED else float(scores[finder]),
        )
        boxes.append((index, box))
    return boxes


def _list_detections(
    errors: ImageErrors, classes: tuple[str, ...]
) -> list[tuple[int, DetectionBox]]:
    """Return an image's detections with their positions, without those that do not count."""
    detections = errors.detections
    is_shown = (errors.kinds != IGNORED) & (detections.scores >= MIN_SHOWN_SCORE)
    boxes = []
    for index in np.flatnonzero(is_shown).tolist():
        kind = str(errors.kinds[index])
        box = DetectionBox(
            corners=tuple(detections.boxes[index].tolist()),
            class_name=classes[detections.labels[index]],
            color=get_class_color(int(detections.labels[index])),
            score=float(detections.scores[index]),
            error="" if kind == FOUND else kind,
        )
        boxes.append((index, box))
    return boxes


def _choose_tolerance(width: int, height: int) -> float:
    """Return by how many pixels polygons may be off, which no page shows: half of one of its own.

    width, height: of what is shown, in pixels of the image.
    """
    return max(TOLERANCE, max(width, height) / MAX_SIDE / 2)


def _trace_object(
    image: TruthImage, index: int, tolerance: float, window: Window = (0, 0, 0, 0)
) -> MaskPolygons:
    """Return the polygons of an object's mask, as they are seen in a window; () without."""
    mask = None if image.masks is None else image.masks[index]
    return () if mask is None else _trace(cut_patch(mask), tolerance, window)


def _trace_detection(
    detections: Detections, index: int, tolerance: float, window: Window = (0, 0, 0, 0)
) -> MaskPolygons:
    """Return the polygons of a detection's mask, as they are seen in a window; () without."""
    if detections.masks is None:
        return ()
    (patch,) = detections.masks.select(np.array([index])).to_patches()
    return _trace(patch, tolerance, window)


def _trace(patch: MaskPatch, tolerance: float, window: Window) -> MaskPolygons:
    left, top = window[:2]
    moved = MaskPatch(patch.left - left, patch.top - top, patch.pixels)
    polygons = trace_polygons(moved, tolerance)
    is_noise = sum(map(len, polygons)) > MAX_MASK_NUMBERS
    return _trace_coarsely(moved) if is_noise else polygons


def _trace_coarsely(patch: MaskPatch) -> MaskPolygons:
    """Return polygons of few points, such as a page can hold by the thousand."""
    rows, columns = patch.pixels.shape
    factor = max(rows, columns) / COARSE_SIDE
    size = (max(round(columns / factor), 1), max(round(rows / factor), 1))
    coverage = cv2.resize(patch.pixels.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    scale = np.array([columns / size[0], rows / size[1]])

    polygons = []
    for polygon in trace_polygons(MaskPatch(0, 0, coverage >= 0.5)):
        points = np.array(polygon).reshape(-1, 2) * scale + (patch.left, patch.top)
        polygons.append(points.reshape(-1).tolist())
    return polygons


def _has_center(corners: Corners, window: Window) -> bool:
    """Whether the center of a box lies in a window."""
    left, top, right, bottom = window
    x = (corners[0] + corners[2]) / 2
    y = (corners[1] + corners[3]) / 2
    return left <= x <= right and top <= y <= bottom


def _move(corners: Corners, window: Window) -> Corners:
    left, top = window[:2]
    x1, y1, x2, y2 = corners
    return x1 - left, y1 - top, x2 - left, y2 - top


def choose_errors(
    errors: Mapping[int, ImageErrors], kind: ErrorKind, limit: int
) -> list[ErrorPlace]:
    """Return the surest errors of a kind, one of each image before a second of any.

    Detections come by their score; missed objects, which have none, by the ids of their images.
    """
    places: list[tuple[int, float, ErrorPlace]] = []
    for image_id, found in errors.items():
        of_image = _list_places(image_id, found, kind)
        for rank, (score, place) in enumerate(of_image):
            places.append((rank, -score, place))
    places.sort(key=lambda entry: (entry[0], entry[1], entry[2].image_id))
    return [place for _, _, place in places[:limit]]


def _list_places(
    image_id: int, errors: ImageErrors, kind: ErrorKind
) -> list[tuple[float, ErrorPlace]]:
    """Return the scores and places of an image's errors of a kind, the surest first."""
    if kind is ErrorKind.MISSED:
        targets = np.flatnonzero(errors.is_missed).tolist()
        return [(0.0, ErrorPlace(image_id, UNMATCHED, target)) for target in targets]

    places = []
    for index in np.flatnonzero(errors.kinds == kind).tolist():
        score = float(errors.detections.scores[index])
        place = ErrorPlace(image_id, index, int(errors.objects[index]))
        places.append((score, place))
    return places
