"""Images with boxes on a report's page, and the controls that hide some of them."""

import re

import cv2
import numpy as np
import pytest

from detreg.report.controls import SCRIPT
from detreg.report.page import Gallery, Page, SceneControls, render_page
from detreg.report.scene import LETTER_WIDTH, DetectionBox, ObjectBox, Scene, count_scene

HOSTILE = "</script><!--\"><img src=x onerror=alert(1)>\u2028'&"
CLASSES = ("boat", HOSTILE)
BOX = (10.0, 10.0, 50.0, 40.0)


@pytest.fixture
def scene() -> Scene:
    _, jpeg = cv2.imencode(".jpg", np.zeros((60, 80, 3), np.uint8))
    return Scene(
        name=HOSTILE,
        jpeg=jpeg.tobytes(),
        width=80,
        height=60,
        objects=[
            ObjectBox(BOX, "boat", "#0072B2", found_score=0.8),
            ObjectBox(BOX, HOSTILE, "#E69F00", found_score=0),
        ],
        detections=[
            DetectionBox(BOX, "boat", "#0072B2", 0.8, error=""),
            DetectionBox((70.0, 20.0, 60.0, 40.0), HOSTILE, "#E69F00", 0.45, error="background"),
            DetectionBox(BOX, "boat", "#0072B2", 0.2, error="duplicate"),
        ],
        note=HOSTILE,
    )


def render(scene: Scene, threshold: float) -> str:
    gallery = Gallery("Worst", "Why", scenes=[scene])
    return render_page(
        Page("Title", "", {}, galleries=[gallery], controls=SceneControls(threshold, CLASSES))
    )


def test_without_the_script_boxes_over_the_threshold_are_shown(scene: Scene) -> None:
    html = render(scene, 0.4)
    states = re.findall(
        r'<g class="([a-z ]+)" data-score="([0-9.]+)"[^>]*?( display="none")?>', html
    )
    assert states == [
        ("box wrong", "0.2000", ' display="none"'),
        ("box wrong", "0.4500", ""),
        ("box", "0.8000", ""),
    ]
    found = re.findall(r'<g class="([a-z ]+)" data-found="([0-9.]+)"', html)
    assert found == [("box", "0.8000"), ("box missed", "0.0000")]
    assert "<b>1 found, 1 wrong, 1 missed</b>" in html
    assert '<div class="controls" id="controls" hidden>' in html


def test_counts_follow_the_threshold(scene: Scene) -> None:
    counts = [count_scene(scene, threshold) for threshold in (0.0, 0.8, 0.80004, 0.81)]
    assert counts == [
        "1 found, 2 wrong, 1 missed",
        "1 found, 0 wrong, 1 missed",
        # Scores and threshold have four decimals in the page, and the script sees these only.
        "1 found, 0 wrong, 1 missed",
        "0 found, 0 wrong, 2 missed",
    ]


def test_hostile_names_stay_text(scene: Scene) -> None:
    html = render(scene, 0.4)
    assert html.count("<script") == html.count("</script") == 1
    assert f"<script>{SCRIPT}</script>" in html
    assert "<!--" not in html
    assert "<img" not in html
    assert html.count("&lt;/script&gt;&lt;!--&quot;") >= 6
    assert HOSTILE not in html


def test_both_sides_share_one_image_and_ids_are_unique(scene: Scene) -> None:
    gallery = Gallery("Worst", "Why", scenes=[scene, scene])
    page = Page("", "", {}, galleries=[gallery, gallery], controls=SceneControls(0.4, CLASSES))
    html = render_page(page)
    ids = re.findall(r'<image id="([^"]+)"', html)
    assert len(set(ids)) == len(ids) == 4
    assert re.findall(r'<use href="#([^"]+)"', html) == ids


def test_a_box_with_swapped_corners_is_drawn(scene: Scene) -> None:
    html = render(scene, 0.4)
    assert '<rect x="60.0" y="20.0" width="10.0" height="20.0"' in html


def test_texts_lie_in_the_image_and_not_over_each_other() -> None:
    _, jpeg = cv2.imencode(".jpg", np.zeros((400, 600, 3), np.uint8))
    boxes = [(500.0, 3.0 + shift, 590.0, 90.0 + shift) for shift in range(6)]
    detections = [DetectionBox(box, "boat", "#0072B2", 0.9, error="") for box in boxes]
    scene = Scene("a", jpeg.tobytes(), 600, 400, [], detections)
    html = render(scene, 0.4)
    texts = re.findall(r'<text x="([0-9.]+)" y="([0-9.]+)" font-size="([0-9.]+)"', html)
    assert len(texts) == len(boxes)

    tags = []
    for x, y, size in texts:
        width = len("boat 0.90") * LETTER_WIDTH * float(size)
        assert float(x) + width <= 600.1
        assert float(y) - 0.75 * float(size) >= 0
        tags.append((float(x), float(y), width, float(size)))
    for index, (x, y, width, size) in enumerate(tags):
        for other_x, other_y, other_width, _ in tags[:index]:
            is_aside = x >= other_x + other_width - 0.1 or other_x >= x + width - 0.1
            assert is_aside or abs(y - other_y) >= size


def test_a_page_without_scenes_has_no_script() -> None:
    assert "<script" not in render_page(Page("Title", "", {}))
