"""An image with its objects and what a detector finds on it, side by side, for a report's page.

Boxes are SVG over one embedded image: they are there without a script, and a script can hide those
under a score. `detreg.report.controls` has that script.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from detreg.report.labels import Corners, Point, place_labels
from detreg.report.theme import choose_text_color

SCENE_STYLE = """
.scenes { display: grid; gap: 20px 14px; grid-template-columns: 1fr }
.scenes.small { grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)) }
.scene .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 6px }
.scene svg { width: 100%; max-height: 560px; display: block; background: #f3f4f6 }
.scene rect { fill: none; vector-effect: non-scaling-stroke; pointer-events: all }
.scene .box rect { stroke-width: 2px }
.scene .mask { fill-opacity: 0.45; fill-rule: evenodd; pointer-events: none }
.scene .wrong rect, .scene .missed rect { stroke-width: 4px }
.scene .missed rect { stroke-dasharray: 7 4 }
.scene .box text { display: none }
.scene .wrong text, .scene .missed text, .scene.few .box text { display: inline }
.scene .aside rect { stroke-width: 1px; opacity: 0.75 }
.scene .aside text { display: none }
.scene .box text { paint-order: stroke; stroke-width: 3px; stroke-linejoin: round }
.scene text { font-family: system-ui, sans-serif; font-weight: 600 }
[hidden] { display: none !important }
"""

FEW_BOXES = 8
"""Up to so many detections have a text each; of more, only those that are wrong."""
SCORE_DIGITS = 4
"""With which scores and the threshold are in the page, for Python and the script to agree."""
TEXT_SHARE = 34
TEXT_SHARE_OF_CROP = 14
"""The longer side of an image or a crop, divided by the height of its texts."""
LETTER_WIDTH = 0.6
"""Of a letter on average, in heights of its font. Which font a browser takes is not known here."""
LINE_HEIGHT = 1.25
BASELINE = 0.95
"""Of a line, and from its upper border to the foot of its letters, in heights of the font."""


MaskPolygons = Sequence[Sequence[float]]
"""The parts of a mask, each x1, y1, x2, y2, ...; holes are in them."""


@dataclass(frozen=True)
class ObjectBox:
    """An object: `found_score` is that of the detection that finds it, 0 where none does.

    is_aside: whether it is drawn thinly, because the scene is about another box.
    mask: empty where it has none, or none is drawn.
    """

    corners: Corners
    class_name: str
    color: str
    found_score: float
    is_aside: bool = False
    mask: MaskPolygons = ()


@dataclass(frozen=True)
class DetectionBox:
    """A detection; `error` says what is wrong with it, empty where it is right."""

    corners: Corners
    class_name: str
    color: str
    score: float
    error: str
    is_aside: bool = False
    mask: MaskPolygons = ()


@dataclass(frozen=True)
class Scene:
    """A JPEG with the boxes and masks on it, in pixels of an image of `width` and `height`.

    is_crop: whether it shows a part of an image, and is small on the page.
    note: what stands under it, before its name.
    """

    name: str
    jpeg: bytes
    width: int
    height: int
    objects: Sequence[ObjectBox]
    detections: Sequence[DetectionBox]
    note: str = ""
    is_crop: bool = False


def render_scenes(
    scenes: Sequence[Scene], prefix: str, threshold: float, class_places: Mapping[str, int]
) -> str:
    """Return scenes as HTML, with the detections under a score threshold hidden.

    prefix: of the ids of the images in the page, of letters only.
    class_places: the position of each class, by which the script filters.
    """
    figures = []
    for place, scene in enumerate(scenes):
        figures.append(_render_scene(scene, f"{prefix}{place}", threshold, class_places))
    style = "scenes small" if scenes and scenes[0].is_crop else "scenes"
    return f'<div class="{style}">{"".join(figures)}</div>'


def count_scene(scene: Scene, threshold: float) -> str:
    """Return what is found, wrong and missed at a threshold, as the script writes it, too."""
    shown = [box for box in scene.detections if _reaches(box.score, threshold)]
    wrong = sum(bool(box.error) for box in shown)
    missed = sum(not _is_found(box, threshold) for box in scene.objects)
    return f"{len(shown) - wrong} found, {wrong} wrong, {missed} missed"


def _reaches(score: float, threshold: float) -> bool:
    return round(score, SCORE_DIGITS) >= round(threshold, SCORE_DIGITS)


def _is_found(box: ObjectBox, threshold: float) -> bool:
    return box.found_score > 0 and _reaches(box.found_score, threshold)


def _render_scene(
    scene: Scene, image_id: str, threshold: float, class_places: Mapping[str, int]
) -> str:
    content = base64.b64encode(scene.jpeg).decode("ascii")
    view = f'viewBox="0 0 {scene.width} {scene.height}" role="img"'
    image = (
        f'<image id="{image_id}" width="{scene.width}" height="{scene.height}" '
        f'preserveAspectRatio="none" href="data:image/jpeg;base64,{content}"/>'
    )

    truth = ""
    names = [item.class_name for item in scene.objects]
    missed = [not _is_found(item, threshold) for item in scene.objects]
    places = _place_texts(scene, scene.objects, names, missed)
    for item, place in zip(scene.objects, places, strict=True):
        truth += _render_object(item, scene, place, threshold, class_places[item.class_name])

    found = ""
    texts = [_describe_detection(box) for box in scene.detections]
    wrong = [bool(box.error) and _reaches(box.score, threshold) for box in scene.detections]
    places = _place_texts(scene, scene.detections, texts, wrong)
    placed = zip(scene.detections, places, strict=True)
    # The best detection is drawn last, on top of the others.
    for box, place in sorted(placed, key=lambda pair: pair[0].score):
        found += _render_detection(box, scene, place, threshold, class_places[box.class_name])

    is_few = _has_few_boxes(scene)
    name = escape(scene.name)
    note = f"{escape(scene.note)}<br>" if scene.note else ""
    counts = "" if scene.is_crop else f"<b>{count_scene(scene, threshold)}</b> "
    return (
        f'<figure class="{"scene few" if is_few else "scene"}"><div class="pair">'
        f'<svg {view} aria-label="objects of {name}">{image}{truth}</svg>'
        f'<svg {view} aria-label="detections on {name}"><use href="#{image_id}"/>{found}</svg>'
        f"</div><figcaption>{counts}{note}{name}</figcaption></figure>"
    )


def _has_few_boxes(scene: Scene) -> bool:
    return len(scene.detections) <= FEW_BOXES and not scene.is_crop


def _describe_detection(box: DetectionBox) -> str:
    return f"{box.class_name} {box.score:.2f}"


def _place_texts(
    scene: Scene,
    boxes: Sequence[ObjectBox | DetectionBox],
    texts: Sequence[str],
    is_marked: Sequence[bool],
) -> list[Point]:
    """Return the upper left corner of each text, none over another as far as there is room.

    Marked boxes are wrong or missed at the threshold of the page. They choose first, and of others
    the first ones. A text for which there is no room lies at its box, for other thresholds.
    """
    font_size = _get_font_size(scene)
    height = LINE_HEIGHT * font_size
    # Those that stand aside have no text.
    order = [index for index, box in enumerate(boxes) if not box.is_aside]
    order.sort(key=lambda index: not is_marked[index])

    sizes = [(LETTER_WIDTH * font_size * len(texts[index]), height) for index in order]
    corners = [boxes[index].corners for index in order]
    found = place_labels(corners, sizes, (scene.width, scene.height))

    places = [(min(box.corners[::2]), max(min(box.corners[1::2]) - height, 0.0)) for box in boxes]
    for index, place in zip(order, found, strict=True):
        if place is not None:
            places[index] = place
    return places


def _get_font_size(scene: Scene) -> float:
    share = TEXT_SHARE_OF_CROP if scene.is_crop else TEXT_SHARE
    return max(scene.width, scene.height) / share


def _render_object(
    item: ObjectBox, scene: Scene, place: Point, threshold: float, class_place: int
) -> str:
    is_found = _is_found(item, threshold)
    styles = _join_styles(missed=not is_found, aside=item.is_aside)
    attributes = (
        f'class="{styles}" data-found="{item.found_score:.{SCORE_DIGITS}f}" '
        f'data-class="{class_place}"'
    )
    text = _render_text(item.class_name, item.color, place, scene)
    box = _render_mask(item) + _render_box(item.corners, item.color) + text
    return f"<g {attributes}><title>{escape(item.class_name)}</title>{box}</g>"


def _render_detection(
    box: DetectionBox, scene: Scene, place: Point, threshold: float, class_place: int
) -> str:
    styles = _join_styles(wrong=bool(box.error), aside=box.is_aside)
    # What a crop is about is shown at every threshold.
    shown_until = 1.0 if scene.is_crop and not box.is_aside else box.score
    attributes = (
        f'class="{styles}" data-score="{shown_until:.{SCORE_DIGITS}f}" data-class="{class_place}"'
    )
    if not _reaches(shown_until, threshold):
        attributes += ' display="none"'
    text = _describe_detection(box)
    title = f"{text}, {box.error}" if box.error else text
    label = _render_text(text, box.color, place, scene)
    drawn = _render_mask(box) + _render_box(box.corners, box.color) + label
    return f"<g {attributes}><title>{escape(title)}</title>{drawn}</g>"


def _join_styles(**applies: bool) -> str:
    """Return the CSS classes of a box: `box`, and those that apply."""
    return " ".join(["box", *(name for name, is_applied in applies.items() if is_applied)])


def _render_mask(box: ObjectBox | DetectionBox) -> str:
    """Return the path of a mask, under its box; empty without."""
    if not box.mask:
        return ""
    parts = []
    for polygon in box.mask:
        points = " ".join(f"{round(value, 1):g}" for value in polygon)
        parts.append(f"M{points}Z")
    return f'<path class="mask" d="{"".join(parts)}" fill="{box.color}"/>'


def _render_box(corners: Corners, color: str) -> str:
    x1, y1, x2, y2 = corners
    # A detector may put out a box whose right side is left of its left one.
    left, right = min(x1, x2), max(x1, x2)
    top, bottom = min(y1, y2), max(y1, y2)
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
        f'height="{bottom - top:.1f}" stroke="{color}"/>'
    )


def _render_text(text: str, color: str, place: Point, scene: Scene) -> str:
    """Return a text with its upper left corner at a place."""
    font_size = _get_font_size(scene)
    left, top = place
    baseline = top + BASELINE * font_size
    # White text on dark colors, black on light ones, both with a rim of the class's color.
    fill = choose_text_color(color)
    return (
        f'<text x="{left:.1f}" y="{baseline:.1f}" font-size="{font_size:.1f}" fill="{fill}" '
        f'stroke="{color}">{escape(text)}</text>'
    )
