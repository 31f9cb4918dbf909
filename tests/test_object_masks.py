"""Masks of training images follow the pixels and the boxes, whatever moves these."""

import pickle
import random
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from compose_helpers import compose_values
from faster_coco_eval.core import mask as rasterizer
from mmdet.registry import DATASETS
from mmengine.structures import InstanceData
from numpy.typing import NDArray

from detreg.data.dataset import Dataset, load_dataset
from detreg.data.outlines import Outline
from detreg.data.sample import write_sample
from detreg.defaults import PUBLISHED
from detreg.params import build
from detreg.run_lengths import RunLengthMask
from detreg.templates import TEMPLATES
from detreg.training import preview
from detreg.training.object_masks import ObjectMasks
from detreg.training.objects import (
    Objects,
    clip_objects,
    join_objects,
    mirror_objects,
    move_objects,
    scale_objects,
)

# detreg.training has provided mmcv's operators, which MMDetection imports.
from mmdet.structures.mask import BitmapMasks  # isort: skip

WIDTH, HEIGHT = 40, 30
Cells = NDArray[np.bool_]


def draw_polygon(seed: int) -> list[float]:
    """Return a polygon of three to twelve points around the center of the image."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 13)))
    radii = rng.uniform(4, 13, len(angles))
    x = np.round(WIDTH / 2 + radii * np.cos(angles), 2)
    y = np.round(HEIGHT / 2 + radii * np.sin(angles), 2)
    return np.stack([x, y], axis=1).reshape(-1).tolist()


def fill(polygon: list[float]) -> Cells:
    """Return the pixels of a polygon as pycocotools fills it."""
    code = rasterizer.merge(rasterizer.frPyObjects([polygon], HEIGHT, WIDTH))
    cells: Cells = rasterizer.decode(code).astype(bool)
    return cells


def make_objects(seed: int) -> tuple[Objects, Cells]:
    """Return one object twice, as a polygon and as the code of its pixels, with these pixels."""
    polygon = draw_polygon(seed)
    cells = fill(polygon)
    code = rasterizer.encode(np.asfortranarray(cells.astype(np.uint8)))
    outlines = [
        Outline((array("d", polygon),)),
        Outline(mask=RunLengthMask(HEIGHT, WIDTH, code["counts"].decode())),
    ]
    masks = ObjectMasks.make(outlines, HEIGHT, WIDTH)
    x, y = polygon[::2], polygon[1::2]
    boxes = np.array([[min(x), min(y), max(x), max(y)]] * 2, np.float32)
    return Objects(boxes, np.zeros(2, np.int64), np.zeros(2, np.bool_), masks), cells


def draw_whole(objects: Objects, width: int, height: int) -> Cells:
    """Return the pixels (n, height, width) of the masks in the whole training image."""
    assert objects.masks is not None
    boxes = np.tile(np.array([0, 0, width, height], np.float32), (len(objects.boxes), 1))
    drawn = objects.masks.crop_and_resize(boxes, (height, width), np.arange(len(boxes)))
    return drawn.to_ndarray().astype(bool)


def assert_filled(drawn: Cells, polygon: list[float], matrix: list[list[float]]) -> None:
    """Assert that pixels are those of a moved polygon, but for some whose center is at its edge.

    matrix: from pixels of the drawn image back to those of the original one.
    """
    outline = np.reshape(polygon, (-1, 2)).astype(np.float32)
    rows, columns = np.indices(drawn.shape)
    centers = np.stack([columns + 0.5, rows + 0.5, np.ones(drawn.shape)], axis=-1)
    points = centers @ np.transpose(matrix)
    distances = np.reshape(
        [cv2.pointPolygonTest(outline, point, True) for point in points.reshape(-1, 2)],
        drawn.shape,
    )
    is_clear = np.abs(distances) > 0.5
    assert np.array_equal(drawn[is_clear], distances[is_clear] > 0)


def bound_moved_points(masks: ObjectMasks) -> list[float]:
    """Return the corners of the box around the first object's moved polygon."""
    outline = masks.outlines[0]
    assert outline is not None
    points = np.reshape(outline.polygons[0], (-1, 2))
    moved = points @ masks.matrices[0, :, :2].T + masks.matrices[0, :, 2]
    return [*moved.min(axis=0), *moved.max(axis=0)]


@pytest.mark.parametrize("seed", range(20))
def test_masks_are_moved_like_the_pixels_and_the_boxes(seed: int) -> None:
    """Codes exactly; polygons, which are filled anew, but for pixels on the outline."""
    objects, cells = make_objects(seed)
    polygon_drawn, code_drawn = draw_whole(objects, WIDTH, HEIGHT)
    assert np.array_equal(polygon_drawn, cells)
    assert np.array_equal(code_drawn, cells)

    mirrored = mirror_objects(objects, WIDTH)
    polygon_drawn, code_drawn = draw_whole(mirrored, WIDTH, HEIGHT)
    assert_filled(polygon_drawn, draw_polygon(seed), [[-1, 0, WIDTH], [0, 1, 0]])
    assert np.array_equal(code_drawn, cells[:, ::-1])

    # Three times as wide and twice as high, of which a part is then cut out.
    scaled = scale_objects(mirrored, 3, 2)
    width, height = 3 * WIDTH - 7, 2 * HEIGHT - 3
    moved = clip_objects(move_objects(scaled, -7, -3), width, height)
    polygon_drawn, code_drawn = draw_whole(moved, width, height)
    back = [[-1 / 3, 0, WIDTH - 7 / 3], [0, 1 / 2, 3 / 2]]
    assert_filled(polygon_drawn, draw_polygon(seed), back)
    enlarged = np.kron(cells[:, ::-1], np.ones((2, 3), np.bool_))
    assert np.array_equal(code_drawn, enlarged[3:, 7:])

    for changed in (mirrored, scaled, moved):
        assert changed.masks is not None
        assert bound_moved_points(changed.masks) == pytest.approx(changed.boxes[0].tolist())


@pytest.mark.parametrize("seed", range(5))
def test_grids_over_boxes_are_those_of_mmdetection(seed: int) -> None:
    """It averages pixels where we look at a point, so cells at the outline differ."""
    objects, cells = make_objects(seed)
    assert objects.masks is not None
    boxes = objects.boxes + np.array([-3, 2, 4, 1], np.float32)
    places = np.array([0, 1])
    ours = objects.masks.crop_and_resize(boxes, (28, 28), places).to_ndarray()

    bitmaps = BitmapMasks(np.stack([cells, cells]).astype(np.uint8), HEIGHT, WIDTH)
    theirs = bitmaps.crop_and_resize(boxes, (28, 28), places).to_ndarray()
    assert ours.dtype == np.uint8
    assert (ours == theirs).mean() > 0.95


def test_objects_without_a_mask_are_told_apart() -> None:
    objects, _ = make_objects(0)
    assert objects.masks is not None
    masks = ObjectMasks.make([objects.masks.outlines[0], None], HEIGHT, WIDTH)
    assert masks.has_mask.tolist() == [True, False]
    with pytest.raises(ValueError, match="object 1 must have a mask"):
        masks.crop_and_resize(objects.boxes, (4, 4), np.array([0, 1]))


def test_masks_are_selected_like_the_other_data_of_objects() -> None:
    objects, _ = make_objects(0)
    assert objects.masks is not None
    code, polygon = objects.masks.outlines[1], objects.masks.outlines[0]
    masks = ObjectMasks.make([code, None, polygon], HEIGHT, WIDTH)
    instances = InstanceData(labels=torch.arange(3), masks=pickle.loads(pickle.dumps(masks)))

    selections: list[Any] = [torch.tensor([2, 1]), torch.tensor([False, True, True]), slice(1, 3)]
    assert instances[selections[0]].masks.has_mask.tolist() == [True, False]
    for selection in selections[1:]:
        assert instances[selection].masks.has_mask.tolist() == [False, True]
    assert len(instances[torch.zeros(3, dtype=torch.bool)].masks) == 0


def test_images_with_masks_are_not_mixed() -> None:
    objects, _ = make_objects(0)
    with pytest.raises(NotImplementedError):
        join_objects([objects, objects])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("masks")
    write_sample(folder / "drawn", images=6, size=(96, 64), masks=True)
    return load_dataset(folder / "drawn", folder / "cache", masks=True)


def load_images(dataset: Dataset, **values: object) -> list[dict[str, Any]]:
    """Load each training image twice, with the same random numbers each time."""
    values |= {"pretrained_weights": "none"}
    config = compose_values(dataset, TEMPLATES["faster_rcnn"], recipe=PUBLISHED, **values)
    images = DATASETS.build(config["train_dataloader"]["dataset"])
    items = []
    for number in range(2 * len(images)):
        random.seed(number)
        np.random.seed(number)
        items.append(images[number % len(images)])
    return items


@pytest.mark.usefixtures("mmdet_scope")
@pytest.mark.parametrize(
    "sizes",
    [
        {"image_size": 64},
        {"image_size": "96,64", "keep_aspect_ratio": False},
        {"image_size": 64, "random_resize_lower": 64, "random_resize_upper": 128},
    ],
    ids=["fixed", "exact", "random"],
)
def test_training_images_have_masks_where_their_boxes_are(
    dataset: Dataset, sizes: dict[str, Any]
) -> None:
    """And everything else is as without masks."""
    plain = load_images(dataset, **sizes)
    masked = load_images(dataset, masks=True, **sizes)

    for one, other in zip(plain, masked, strict=True):
        assert torch.equal(one["inputs"], other["inputs"])
        expected, found = one["data_samples"].gt_instances, other["data_samples"].gt_instances
        assert "masks" not in expected
        assert torch.equal(expected.bboxes, found.bboxes)
        assert torch.equal(expected.labels, found.labels)

        height, width = other["inputs"].shape[1:]
        assert (found.masks.height, found.masks.width) == (height, width)
        assert found.masks.has_mask.all()
        whole = np.tile(np.array([0, 0, width, height], np.float32), (len(found), 1))
        drawn = found.masks.crop_and_resize(whole, (height, width), np.arange(len(found)))
        for box, cells in zip(found.bboxes.numpy(), drawn.to_ndarray(), strict=True):
            rows, columns = np.nonzero(cells)
            bounds = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(box - bounds).max() <= 2


def test_templates_that_learn_masks_mix_no_images() -> None:
    """Otherwise masks would have to be cut where images meet."""
    with_masks = [template for template in TEMPLATES.values() if hasattr(template.params, "masks")]
    assert with_masks
    for template in with_masks:
        params = build(template.params, {"masks": True})
        assert not template.build_augmentation([], params).mixing


def test_the_preview_of_training_images_shows_masks(tmp_path: Path) -> None:
    objects, cells = make_objects(3)
    assert objects.masks is not None
    instances = InstanceData(
        bboxes=torch.from_numpy(objects.boxes).float(),
        labels=torch.zeros(len(objects.boxes), dtype=torch.int64),
        masks=objects.masks,
    )
    gray = torch.full((3, HEIGHT, WIDTH), 128, dtype=torch.uint8)
    sample = {"inputs": gray, "data_samples": SimpleNamespace(gt_instances=instances)}
    item = preview._draw(sample, ("boat",), tmp_path / "training_1.jpg")

    drawn = cv2.imread(str(item.file))
    assert drawn is not None
    resized = cv2.resize(cells.astype(np.float32), drawn.shape[1::-1])
    is_tinted = np.abs(drawn.astype(int) - 128).sum(axis=2) > 30
    # Boxes and texts are drawn over the mask, and never under its middle.
    middle = cv2.erode((resized > 0.9).astype(np.uint8), np.ones((9, 9))) > 0
    assert is_tinted[middle].mean() > 0.95
