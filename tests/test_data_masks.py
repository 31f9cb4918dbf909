"""Masks: read from each format as the pixels that were drawn, checked, kept, and never in the way.

pycocotools is the reference for pixels; faster_coco_eval, which training has, must agree.
"""

import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from faster_coco_eval.core import mask as rasterizer
from PIL import Image
from pycocotools import mask as reference
from small_datasets import HEIGHT, WIDTH, Document, edit_json, make_image, read_json

from detreg.cli import run
from detreg.data import formats, load_dataset
from detreg.data.boxes import Box
from detreg.data.canonical import read_canonical_copy
from detreg.data.check import CheckResult, check_dataset
from detreg.data.dataset import Dataset, Split
from detreg.data.findings import FindingKind, Severity
from detreg.data.mended_copy import write_mended_copy
from detreg.data.parts import take_part
from detreg.errors import DataError

Pixels = npt.NDArray[np.bool_]

CLASSES = ("cat", "dog")
FORMS = ("polygons", "compressed", "list", "yolo", "indices", "colors", "xml polygons")
SQUARE = [5.0, 6.0, 20.0, 6.0, 20.0, 16.0, 5.0, 16.0]


def draw_polygons(seed: int) -> list[list[float]]:
    """Return two polygons apart from each other, of three to twelve points around a center."""
    rng = np.random.default_rng(seed)
    polygons = []
    for center_x in (10, 30):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 13)))
        radii = rng.uniform(4, 9.5, len(angles))
        xs = np.round(center_x + radii * np.cos(angles), 2)
        ys = np.round(15 + radii * np.sin(angles), 2)
        polygons.append(np.stack([xs, ys], axis=1).reshape(-1).tolist())
    return polygons


def fill(segmentation: object) -> Pixels:
    """Return the pixels of a segmentation by pycocotools, which the other library must equal."""
    filled = []
    for library in (reference, rasterizer):
        codes = library.frPyObjects(segmentation, HEIGHT, WIDTH)
        code = library.merge(codes) if isinstance(codes, list) else codes
        filled.append(library.decode(code).astype(bool))
    assert np.array_equal(*filled)
    return filled[0]


def fill_checked(segmentation: Mapping[str, object] | list[object]) -> Pixels:
    """Return the pixels of a segmentation of a canonical copy, whose masks are compressed."""
    if isinstance(segmentation, Mapping):
        return reference.decode(segmentation).astype(bool)
    return fill(segmentation)


def bound(polygon: list[float], label: str) -> Box:
    """Return the box around a polygon."""
    xs, ys = polygon[::2], polygon[1::2]
    return Box((min(xs), min(ys), max(xs), max(ys)), label)


def write_form(folder: Path, form: str, polygons_of_images: list[list[list[float]]]) -> Path:
    """Write a dataset with an image for train, and one for val, whose masks are in a form."""
    names = ("train", "val")
    images = {}
    for number, (name, polygons) in enumerate(zip(names, polygons_of_images, strict=True)):
        images[name] = [make_image(number, *map(bound, polygons, CLASSES))]
    is_voc = form in ("indices", "colors", "xml polygons")
    format = "voc" if is_voc else "coco"
    formats.write("yolo" if form == "yolo" else format, folder, CLASSES, images)

    for name, polygons in zip(names, polygons_of_images, strict=True):
        stem = Path(images[name][0].file_name).stem
        if is_voc:
            _add_voc_masks(folder, stem, form, polygons)
        elif form == "yolo":
            lines = []
            for label, polygon in enumerate(polygons):
                sizes = (WIDTH, HEIGHT) * (len(polygon) // 2)
                numbers = [value / size for value, size in zip(polygon, sizes, strict=True)]
                lines.append(f"{label} {' '.join(f'{number:.8g}' for number in numbers)}\n")
            (folder / "labels" / name / f"{stem}.txt").write_text("".join(lines))
        else:
            _add_coco_masks(folder / "annotations" / f"{name}.json", form, polygons)
    return folder


def _add_voc_masks(folder: Path, stem: str, form: str, polygons: list[list[float]]) -> None:
    """Write SegmentationObject, or polygons into the XML file."""
    if form == "xml polygons":
        path = folder / "Annotations" / f"{stem}.xml"
        tree = ET.parse(path)
        for element, polygon in zip(tree.getroot().iter("object"), polygons, strict=True):
            points = ET.SubElement(element, "polygon")
            for number in range(len(polygon) // 2):
                ET.SubElement(points, f"x{number + 1}").text = str(polygon[2 * number])
                ET.SubElement(points, f"y{number + 1}").text = str(polygon[2 * number + 1])
        tree.write(path)
        return

    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, polygon in enumerate(polygons, start=1):
        labels[fill([polygon])] = number
    image = Image.fromarray(labels)
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    if form == "colors":
        # Neither in the order of the objects nor of the palette.
        image.putpalette([0, 0, 0, 64, 0, 192, 1, 2, 3])
        image = image.convert("RGB")
    (folder / "SegmentationObject").mkdir(exist_ok=True)
    image.save(folder / "SegmentationObject" / f"{stem}.png")


def _add_coco_masks(path: Path, form: str, polygons: list[list[float]]) -> None:
    """Write segmentations into a file of COCO."""

    def add(document: Document) -> None:
        for annotation, polygon in zip(document["annotations"], polygons, strict=True):
            code = reference.encode(np.asfortranarray(fill([polygon]).astype(np.uint8)))
            counts = code["counts"].decode()
            if form == "polygons":
                annotation["segmentation"] = [polygon]
            elif form == "compressed":
                annotation["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
            else:
                pixels = fill([polygon]).T.reshape(-1)
                edges = np.flatnonzero(np.diff(pixels, prepend=False, append=False))
                runs = np.diff(edges, prepend=0, append=pixels.size).tolist()
                annotation["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": runs}

    edit_json(path, add)


def load(folder: Path, *, masks: bool = True) -> Dataset:
    return load_dataset(folder, folder.parent / "cache", masks=masks)


def read_masks(split: Split) -> list[Pixels]:
    """Return the pixels of the masks of a canonical copy, in the order of its annotations."""
    annotations = read_json(split.annotations)["annotations"]
    return [fill_checked(annotation["segmentation"]) for annotation in annotations]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("form", FORMS)
def test_masks_are_read_as_they_were_drawn(tmp_path: Path, form: str, seed: int) -> None:
    drawn = [draw_polygons(2 * seed), draw_polygons(2 * seed + 1)]
    dataset = load(write_form(tmp_path / "data", form, drawn))
    for polygons, split in zip(drawn, dataset.splits.values(), strict=True):
        assert split.masks == split.boxes == 2
        for polygon, mask in zip(polygons, read_masks(split), strict=True):
            assert np.array_equal(mask, fill([polygon]))


@pytest.mark.parametrize("form", FORMS)
def test_without_masks_nothing_changes(tmp_path: Path, form: str) -> None:
    drawn = [draw_polygons(0), draw_polygons(1)]
    folder = write_form(tmp_path / "data", form, drawn)
    plain, with_masks = load(folder, masks=False), load(folder)
    assert (plain.digest, plain.masks_digest) == (with_masks.digest, "")
    assert plain.folder != with_masks.folder

    for name in ("train", "val"):
        without = read_json(plain.splits[name].annotations)
        assert not any("segmentation" in entry for entry in without["annotations"])
        assert plain.splits[name].masks == 0
        masked = read_json(with_masks.splits[name].annotations)
        for entry in masked["annotations"]:
            del entry["segmentation"]
        assert masked == without


def test_the_digest_covers_masks_and_not_their_order(tmp_path: Path) -> None:
    drawn = [draw_polygons(0), draw_polygons(1)]
    digests = {load(write_form(tmp_path / form, form, drawn)).masks_digest for form in FORMS}
    # One of polygons, one of pixels.
    assert len(digests) == 2

    folder = write_form(tmp_path / "data", "polygons", drawn)
    before = load(folder).masks_digest
    path = folder / "annotations" / "train.json"
    edit_json(path, lambda document: document["annotations"].reverse())
    assert load(folder).masks_digest == before in digests

    def move(document: Document) -> None:
        document["annotations"][0]["segmentation"][0][0] += 0.25

    edit_json(path, move)
    assert load(folder).masks_digest not in digests
    assert load(folder).digest == load(folder, masks=False).digest


def test_the_canonical_copy_and_its_parts_keep_masks(tmp_path: Path) -> None:
    dataset = load(write_square(tmp_path / "data", num_images=3))
    images = read_canonical_copy(dataset.splits["train"].annotations)
    assert all(mask is not None for image in images for mask in image.masks)

    part = take_part(dataset, 2, seed=0)
    assert (part.splits["train"].masks, len(read_masks(part.splits["train"]))) == (2, 2)
    assert part.masks_digest not in ("", dataset.masks_digest)
    whole = load_dataset(tmp_path / "data", tmp_path / "cache")
    assert take_part(whole, 2, seed=0).masks_digest == ""


def write_square(folder: Path, num_images: int = 2, segmentation: object = None) -> Path:
    """Write a COCO dataset with a square cat in each image; the first one has the segmentation."""
    images = [make_image(number, Box((5, 6, 20, 16), "cat")) for number in range(num_images)]
    splits = {"train": images, "val": [make_image(99, Box((5, 6, 20, 16), "cat"))]}
    formats.write("coco", folder, CLASSES, splits)
    for name in splits:

        def add(document: Document, name: str = name) -> None:
            for annotation in document["annotations"]:
                annotation["segmentation"] = [SQUARE]
            if name == "train" and segmentation is not None:
                document["annotations"][0]["segmentation"] = segmentation

        edit_json(folder / "annotations" / f"{name}.json", add)
    return folder


def check(folder: Path) -> CheckResult:
    return check_dataset(formats.read(folder), with_masks=True)


def mask_of(counts: object, size: object = (HEIGHT, WIDTH)) -> Document:
    return {"size": list(size) if isinstance(size, tuple) else size, "counts": counts}


ALL = HEIGHT * WIDTH
SMALL = [ALL - 905, 5, 900]  # five pixels of column 9

FINDINGS = {
    "none": ([], FindingKind.MISSING_MASK, Severity.WARNING),
    "null": ({}, FindingKind.MISSING_MASK, Severity.WARNING),
    "text": ("x", FindingKind.INVALID_MASK, Severity.ERROR),
    "text in a polygon": ([[1, 1, "x", 3, 4, 5]], FindingKind.INVALID_MASK, Severity.ERROR),
    "a flat list": (SQUARE, FindingKind.INVALID_MASK, Severity.ERROR),
    "odd": ([SQUARE[:7]], FindingKind.INVALID_MASK, Severity.ERROR),
    "NaN": ([[*SQUARE[:7], float("nan")]], FindingKind.INVALID_MASK, Severity.ERROR),
    "far off": ([[*SQUARE[:7], 1e300]], FindingKind.INVALID_MASK, Severity.ERROR),
    "too many digits": ([[*SQUARE[:7], 10**400]], FindingKind.INVALID_MASK, Severity.ERROR),
    "too many parts": ([[6, 7, 8, 9, 7, 9]] * 10_001, FindingKind.INVALID_MASK, Severity.ERROR),
    "nested": ([[[SQUARE]]], FindingKind.INVALID_MASK, Severity.ERROR),
    "two points": ([SQUARE[:4]], FindingKind.EMPTY_MASK, Severity.WARNING),
    "on a line": ([[6, 7, 8, 9, 10, 11]], FindingKind.EMPTY_MASK, Severity.WARNING),
    "one part on a line": (
        [SQUARE, [6, 7, 8, 9, 10, 11]],
        FindingKind.EMPTY_MASK,
        Severity.REPAIR,
    ),
    "outside": ([[45, 5, 60, 5, 60, 20]], FindingKind.MASK_OUTSIDE_IMAGE, Severity.ERROR),
    "another object's": ([[30, 20, 39, 20, 39, 29]], FindingKind.MASK_OUTSIDE_BOX, Severity.ERROR),
    "over its box": ([[5, 6, 30, 6, 30, 16]], FindingKind.MASK_OUTSIDE_BOX, Severity.WARNING),
    "crossing": ([[5, 6, 20, 16, 20, 6, 5, 16]], FindingKind.CROSSING_POLYGON, Severity.WARNING),
    "no size": ({"counts": [ALL]}, FindingKind.INVALID_MASK, Severity.ERROR),
    "words as size": (mask_of([ALL], ("a", 1)), FindingKind.INVALID_MASK, Severity.ERROR),
    "another size": (mask_of([ALL], (WIDTH, HEIGHT)), FindingKind.INVALID_MASK, Severity.ERROR),
    "a billion pixels": (
        mask_of([10**9], (10**5, 10**4)),
        FindingKind.INVALID_MASK,
        Severity.ERROR,
    ),
    "too short": (mask_of([1, 2]), FindingKind.INVALID_MASK, Severity.ERROR),
    "negative": (mask_of([ALL + 5, -5]), FindingKind.INVALID_MASK, Severity.ERROR),
    "fractions": (mask_of([0.5, ALL - 0.5]), FindingKind.INVALID_MASK, Severity.ERROR),
    "enormous": (mask_of([2**70]), FindingKind.INVALID_MASK, Severity.ERROR),
    "no code": (mask_of("~\u00e9"), FindingKind.INVALID_MASK, Severity.ERROR),
    "cut off": (mask_of("P24`0000000000P"), FindingKind.INVALID_MASK, Severity.ERROR),
    "endless": (mask_of("o" * 99 + "0"), FindingKind.INVALID_MASK, Severity.ERROR),
    "no text": (mask_of(""), FindingKind.INVALID_MASK, Severity.ERROR),
    "no ones": (mask_of([ALL]), FindingKind.EMPTY_MASK, Severity.WARNING),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_what_is_wrong_with_a_mask_is_told(tmp_path: Path, name: str) -> None:
    segmentation, kind, severity = FINDINGS[name]
    folder = write_square(tmp_path / "data", segmentation=segmentation)
    result = check(folder)
    (finding,) = result.findings
    assert (finding.kind, finding.severity) == (kind, severity)
    assert finding.where == "annotations/train.json annotation 1 (class cat)"
    assert finding.image == "images/train/000.png"
    assert bool(finding.remedy) == (severity in (Severity.ERROR, Severity.WARNING))

    # Boxes are what they are without masks.
    assert check_dataset(formats.read(folder)).findings == ()
    if severity is Severity.ERROR:
        dataset = load_dataset(folder, tmp_path / "cache", on_bad_image="skip", masks=True)
        assert (dataset.splits["train"].images, len(dataset.left_out)) == (1, 1)
        return
    image = result.splits["train"][0]
    assert image.boxes[0].corners == (5, 6, 20, 16)
    has_mask = kind not in (FindingKind.MISSING_MASK, FindingKind.EMPTY_MASK)
    assert (image.masks[0] is not None) == (has_mask or severity is Severity.REPAIR)


def test_clipped_masks_have_the_pixels_inside(tmp_path: Path) -> None:
    polygon = [-10, 14, 12, -9, 45, 10, 20, 34.5]
    folder = write_square(tmp_path / "data", segmentation=[polygon])
    edit_json(
        folder / "annotations" / "train.json",
        lambda document: document["annotations"][0].update(bbox=[0, 0, 40, 30]),
    )
    dataset = load(folder)
    mask = read_masks(dataset.splits["train"])[0]
    # A point that lies on the edge is placed on fifths of a pixel, as all are.
    assert np.count_nonzero(mask != fill([polygon])) <= 2
    assert dataset.repairs == {"mask clipped to its image": 1}


def test_a_region_to_ignore_needs_no_mask(tmp_path: Path) -> None:
    folder = write_square(tmp_path / "data")

    def add_crowd(document: Document) -> None:
        crowd = document["annotations"][0] | {"id": 9, "bbox": [22, 2, 6, 4], "iscrowd": 1}
        del crowd["segmentation"]
        document["annotations"].append(crowd)

    edit_json(folder / "annotations" / "train.json", add_crowd)
    dataset = load(folder)
    masks = read_masks(dataset.splits["train"])
    ones = np.argwhere(masks[1]) if masks[1].sum() == 24 else np.argwhere(masks[2])
    assert (ones.min(axis=0).tolist(), ones.max(axis=0).tolist()) == ([2, 22], [5, 27])
    assert dataset.splits["train"].masks == 2


def test_a_split_without_masks_is_refused(tmp_path: Path) -> None:
    folder = write_square(tmp_path / "data")
    for entries in ("train", "val"):
        edit_json(
            folder / "annotations" / f"{entries}.json",
            lambda document: [entry.pop("segmentation") for entry in document["annotations"]],
        )
    with pytest.raises(DataError, match="the train split has no masks; export polygons") as caught:
        load(folder)
    assert len(caught.value.problems) == 2
    assert load(folder, masks=False).splits["train"].boxes == 2


def write_voc(folder: Path, image: Image.Image | bytes) -> Path:
    """Write a VOC dataset whose first image has an image of masks."""
    write_form(folder, "indices", [draw_polygons(0), draw_polygons(1)])
    path = folder / "SegmentationObject" / "000.png"
    if isinstance(image, bytes):
        path.write_bytes(image)
    else:
        image.save(path)
    return folder


def encode_header(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size that its pixels do not have."""
    stream = io.BytesIO()
    Image.new("L", (1, 1)).save(stream, "PNG")
    content = stream.getvalue()
    return content[:16] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + content[24:]


def test_images_of_masks_from_strangers_are_told(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 120, 3), np.uint8)
    broken: dict[str, Image.Image | bytes] = {
        "no image": b"nothing",
        "a bomb": encode_header(60_000, 60_000),
        "cut off": encode_header(40, 30),
        "noise": Image.fromarray(noise),
        "another size": Image.fromarray(np.ones((60, 80), np.uint8)),
    }
    for name, image in broken.items():
        result = check(write_voc(tmp_path / name, image))
        kinds = {finding.kind for finding in result.findings}
        assert kinds & {FindingKind.INVALID_MASK, FindingKind.UNMATCHED_MASK}, name
        assert all(finding.image for finding in result.findings)

    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[:2, :2] = 9
    labels[10:, :] = 255
    result = check(write_voc(tmp_path / "other", Image.fromarray(labels)))
    kinds_of_findings = [finding.kind for finding in result.findings]
    assert kinds_of_findings.count(FindingKind.UNMATCHED_MASK) == 1
    assert kinds_of_findings.count(FindingKind.MISSING_MASK) == 2
    unmatched = result.findings[kinds_of_findings.index(FindingKind.UNMATCHED_MASK)]
    assert unmatched.where == "SegmentationObject/000.png number 9"


def test_the_command_tells_and_keeps_masks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_square(tmp_path / "data", num_images=3, segmentation=[SQUARE[:7]])
    assert run(["check", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "masks_digest" not in report
    assert "masks" not in report["splits"]["train"]

    assert run(["check", str(folder), "--masks", "--json"]) == 65
    report = json.loads(capsys.readouterr().out)
    assert report["masks_digest"] is None
    assert report["findings"][0]["kind"] == "invalid_mask"
    assert report["splits"]["train"]["masks"] == 2

    assert run(["check", str(folder), "--masks", "--fix", str(tmp_path / "out")]) == 0
    assert f"{tmp_path / 'out'} is a good copy: coco, 3 images" in capsys.readouterr().out
    assert run(["check", str(tmp_path / "out"), "--masks", "--strict"]) == 0
    assert "train 2 images with 2 boxes and 2 masks" in capsys.readouterr().out


@pytest.mark.parametrize("form", FORMS)
def test_a_mended_copy_has_the_same_masks(tmp_path: Path, form: str) -> None:
    drawn = [draw_polygons(0), draw_polygons(1)]
    folder = write_form(tmp_path / "data", form, drawn)
    write_mended_copy(folder, tmp_path / "out", "coco", tmp_path / "cache", with_masks=True)
    assert load(tmp_path / "out").masks_digest == load(folder).masks_digest


@pytest.mark.parametrize("format", ["voc", "yolo"])
@pytest.mark.parametrize("form", ["polygons", "compressed", "indices"])
def test_other_formats_keep_the_masks_they_hold(tmp_path: Path, form: str, format: str) -> None:
    drawn = [draw_polygons(0), draw_polygons(1)]
    folder = write_form(tmp_path / "data", form, drawn)
    copy = write_mended_copy(folder, tmp_path / "out", format, tmp_path / "cache", with_masks=True)
    if (form, format) == ("polygons", "voc"):
        assert copy.notes == ("4 outlines left out, since VOC holds no polygons",)
        return
    assert copy.notes == ()
    dataset = load(tmp_path / "out")
    assert dataset.digest == load(folder).digest
    for polygons, split in zip(drawn, dataset.splits.values(), strict=True):
        for polygon, mask in zip(polygons, read_masks(split), strict=True):
            assert np.array_equal(mask, fill([polygon]))
