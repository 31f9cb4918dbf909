"""The page of a dataset: one file, whatever the dataset holds."""

import html
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scenes import make_scene
from small_datasets import edit_json, make_image, write_pets

from detreg.data.boxes import Box
from detreg.data.findings import Finding, FindingKind, Severity
from detreg.data.formats import write
from detreg.data.numbered_masks import encode_labels
from detreg.data.outlines import Outline
from detreg.data.sample import write_sample
from detreg.data.summary import InspectedDataset, inspect_dataset
from detreg.inspection.galleries import MAX_GROUPS
from detreg.inspection.measurements import measure_dataset
from detreg.inspection.page import DatasetPage, write_dataset_page
from detreg.inspection.places import PlaceFinder
from detreg.inspection.plan import TrainingPlan
from detreg.inspection.thumbnails import HIGHLIGHT, DrawnBox, DrawnMask, draw_thumbnail
from detreg.params import build
from detreg.report.section import GalleryItem
from detreg.templates import find_template

MAX_PAGE = 5_000_000
"""Bytes that a mail takes, and a browser opens at once."""


def write_page_of(
    inspected: InspectedDataset,
    path: Path,
    plan: TrainingPlan | None = None,
    preview: Sequence[GalleryItem] = (),
) -> str:
    """Write the page of a dataset, and return its text, without the content of its images."""
    measured = measure_dataset(inspected, plan)
    page = DatasetPage(
        "pets & <more>",
        {"data": "/data/pets"},
        measured,
        inspected.groups,
        inspected.raw,
        preview,
    )
    write_dataset_page(page, path)
    text = path.read_text(encoding="utf-8")
    # Nothing is loaded from anywhere.
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', text)) <= {"data:"}
    assert "<script" not in text
    assert path.stat().st_size < MAX_PAGE
    return re.sub(r"base64,[^\"]*", "base64,", text)


def list_headings(text: str) -> list[str]:
    return [html.unescape(heading) for heading in re.findall("<h2>(.*?)</h2>", text)]


def test_a_good_dataset_is_shown_with_its_numbers_and_images(tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "pets")
    template = find_template("inception_v4")
    plan = TrainingPlan(template, build(template.params, {"image_size": 320}))
    preview = [GalleryItem(next(folder.rglob("*.png")), "64 x 64 px", "1 cat")]
    text = write_page_of(inspect_dataset(folder), tmp_path / "page.html", plan, preview)

    assert "<h1>pets &amp; &lt;more&gt;</h1>" in text
    assert "Good: nothing was found" in text
    assert "<b>4</b><span>images</span>" in text
    assert "boxes of inception_v4 at image_size=320" in text
    headings = list_headings(text)
    assert headings == [
        "Classes",
        "Images",
        "Boxes",
        "Dark, blurred and blank images",
        "Random images",
        "What training sees",
    ]
    assert text.count('class="plot"') == 4
    # All four are blank; two show a cat, and two a dog.
    assert "4 blank images" in text
    assert len(re.findall('<img alt="00[1-4]', text)) == 4 + 2 + 2


def test_the_same_dataset_gives_the_same_page(tmp_path: Path) -> None:
    inspected = inspect_dataset(write_pets(tmp_path / "pets"))
    write_page_of(inspected, tmp_path / "first.html")
    write_page_of(inspected, tmp_path / "second.html")
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()


def test_what_is_wrong_is_shown_with_its_box_and_escaped(tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "pets")

    def spoil(document: dict[str, list[dict[str, object]]]) -> None:
        document["annotations"][0]["bbox"] = [100, 100, 10, 10]
        document["annotations"][1]["category_id"] = 99
        document["categories"][0]["name"] = "<script>cat</script>"

    edit_json(folder / "annotations" / "train.json", spoil)
    inspected = inspect_dataset(folder)
    assert not inspected.summary["ok"]
    text = write_page_of(inspected, tmp_path / "page.html")
    assert 'class="verdict bad"' in text
    assert "would change what is learned" in text
    findings = text[text.index("What was found") :]
    assert "lies wholly outside its image" in findings
    assert "&lt;script&gt;cat" in findings
    assert 'class="badge" style="background:#D55E00;color:#FFFFFF">error</span>' in findings
    assert '<img alt="001.png"' in findings


def test_names_that_no_file_can_hold_are_escaped(tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "pets")

    def rename(document: dict[str, list[dict[str, object]]]) -> None:
        document["categories"][0]["name"] = "$cat$ \n<i>"
        document["categories"][1]["name"] = "dog\ud800"

    for split in ("train", "val", "test"):
        edit_json(folder / "annotations" / f"{split}.json", rename)
    text = write_page_of(inspect_dataset(folder), tmp_path / "page.html")
    assert "$cat$  &lt;i&gt;" in text
    assert "dog\\ud800" in text


def test_something_that_is_no_dataset_gets_a_page(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    text = write_page_of(inspect_dataset(tmp_path / "empty"), tmp_path / "page.html")
    assert list_headings(text) == ["What was found"]
    assert "<b>0</b><span>images</span>" in text


def test_a_page_is_small_where_every_image_is_noise(tmp_path: Path) -> None:
    """No image compresses worse, and there are more of each kind than the page shows."""
    rng = np.random.default_rng(0)
    classes = [f"class {number}" for number in range(12)]
    images = []
    for number in range(24):
        boxes = []
        for place, name in enumerate(classes):
            boxes.append(Box((0.0, float(place), 30.0, place + 2.0), name))
            boxes.append(Box((place / 10, 0.0, 40.0, 30.0), name))
        images.append(make_image(number, *boxes))
    write("coco", tmp_path / "noise", classes, {"train": images[:20], "val": images[20:]})
    for path in (tmp_path / "noise").rglob("*.png"):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(path)

    text = write_page_of(inspect_dataset(tmp_path / "noise"), tmp_path / "page.html")
    assert text.count("<figure>") > 50
    assert (tmp_path / "page.html").stat().st_size < MAX_PAGE / 2  # half of the most images


def test_a_thumbnail_of_noise_keeps_to_its_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = tmp_path / "noise.png"
    Image.fromarray(rng.integers(0, 256, (260, 260, 3), np.uint8)).save(image)
    file = draw_thumbnail(image, [DrawnBox((5, 5, 6, 6), HIGHLIGHT)], tmp_path / "thumbnail.jpg")
    assert file is not None
    assert file.stat().st_size < 25_000
    assert draw_thumbnail(tmp_path / "missing.png", [], tmp_path / "none.jpg") is None


def test_of_very_many_kinds_the_first_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    folder = write_pets(tmp_path / "pets")

    def add_kinds(document: dict[str, list[dict[str, object]]]) -> None:
        for number in range(3):
            document["annotations"].append({"id": 100 + number})

    edit_json(folder / "annotations" / "train.json", add_kinds)
    inspected = inspect_dataset(folder)
    groups = inspected.groups * (MAX_GROUPS + 2)
    many = InspectedDataset(inspected.summary, groups, inspected.raw, inspected.result)
    text = write_page_of(many, tmp_path / "page.html")
    assert f"of {len(groups) - MAX_GROUPS} kinds" in text


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_a_finding_leads_to_its_box_in_every_format(format: str, tmp_path: Path) -> None:
    outside = Box((-5.0, 5.0, 20.0, 20.0), "dog")
    inside = Box((1.0, 5.0, 20.0, 25.0), "cat")
    splits = {"train": [make_image(1, inside, outside), make_image(2, inside)]}
    write(format, tmp_path / "pets", ("cat", "dog"), splits)
    inspected = inspect_dataset(tmp_path / "pets")
    assert inspected.raw is not None
    (group,) = [group for group in inspected.groups if group.first.kind is FindingKind.BOX_CLIPPED]

    place = PlaceFinder(inspected.raw).find(group.first)
    assert place is not None
    assert place.image.name == "001.png"
    assert place.found == 1
    assert place.name

    elsewhere = Finding(FindingKind.MISSING_PATH, Severity.ERROR, "data.yaml", "is missing")
    assert PlaceFinder(inspected.raw).find(elsewhere) is None


def test_a_copy_is_shown_beside_its_original(tmp_path: Path) -> None:
    splits = {"train": [make_scene(0), make_scene(1)], "val": [make_scene(0, quality=60)]}
    write("coco", tmp_path / "set", ("cat",), splits)
    text = write_page_of(inspect_dataset(tmp_path / "set"), tmp_path / "page.html")
    findings = text[text.index("What was found") : text.index("<h2>Classes")]
    assert "keep both in one split" in findings
    assert re.findall('<img alt="([^"]*)"', findings) == ["000_60.jpg", "000_95.jpg"]


def test_masks_are_tinted_in_their_color(tmp_path: Path) -> None:
    image = tmp_path / "gray.png"
    Image.new("RGB", (260, 200), (128, 128, 128)).save(image)
    labels = np.zeros((200, 260), np.uint8)
    labels[20:100, 40:120] = 1
    polygon = (40.0, 20.0, 120.0, 20.0, 120.0, 100.0, 40.0, 100.0)
    outlines = (Outline((polygon,)), Outline(mask=encode_labels(labels)[1]))
    for outline in outlines:
        masks = [DrawnMask(outline, "#FF0000")]
        file = draw_thumbnail(image, [], tmp_path / "thumbnail.jpg", masks)
        assert file is not None
        pixels = np.asarray(Image.open(file)).astype(int)
        redness = pixels[..., 0] - pixels[..., 2]
        assert redness[30:90, 50:110].min() > 60
        assert abs(redness[110:]).max() < 20


def test_a_page_shows_masks_where_they_were_asked_for(tmp_path: Path) -> None:
    write_sample(tmp_path / "data", images=6, size=(96, 64), masks=True)
    pages = []
    for with_masks in (False, True):
        inspected = inspect_dataset(tmp_path / "data", tmp_path / "cache", with_masks=with_masks)
        path = tmp_path / "page.html"
        write_page_of(inspected, path)
        pages.append(path.read_text())
    images = [set(re.findall(r"base64,([^\"]*)", page)) for page in pages]
    assert len(images[0]) == len(images[1])
    assert images[0] != images[1]
