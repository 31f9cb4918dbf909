"""Images as a training sees them, drawn with their boxes and masks."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.utils import register_all_modules
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from numpy.typing import NDArray

from detreg.data.dataset import Dataset
from detreg.mask_patches import MaskPatch
from detreg.options import RunOptions
from detreg.report.canvas import Canvas
from detreg.report.drawing import Label
from detreg.report.section import GalleryItem
from detreg.report.theme import get_class_color
from detreg.templates.common_params import CommonParams
from detreg.templates.config import Config as ConfigPart
from detreg.templates.template import Template
from detreg.training.compose import load_published_config
from detreg.training.loaders import compose_train_loader
from detreg.training.network import silence_libraries
from detreg.training.object_masks import ObjectMasks

NUM_IMAGES = 12
SIDE = 400
"""Pixels of the longer side of a drawn image."""
MAX_BYTES = 60_000


def draw_training_images(
    template: Template, params: CommonParams, dataset: Dataset, folder: Path
) -> list[GalleryItem]:
    """Draw the first images of a training's first epoch, as augmented, into a folder."""
    published = load_published_config(template, params)
    options = RunOptions(num_workers=0, cache="off")
    config = compose_train_loader(template, params, dataset, options, published)
    return draw_images_of_loader(config, dataset.classes, options.seed, folder)


def draw_images_of_loader(
    loader_config: ConfigPart,
    classes: tuple[str, ...],
    seed: int,
    folder: Path,
    num_images: int = NUM_IMAGES,
) -> list[GalleryItem]:
    """Draw the first images that a training loader hands out, into a folder.

    They are made in this process: the loader has no workers. That seeds the global random numbers,
    which a training seeds again when it begins.
    """
    register_all_modules(init_default_scope=False)
    items = []
    with silence_libraries(), DefaultScope.overwrite_default_scope("mmdet"):
        loader = Runner.build_dataloader(loader_config, seed=seed)
        for place, index in enumerate(islice(loader.sampler, num_images), start=1):
            path = folder / f"training_{place}.jpg"
            items.append(_draw(loader.dataset[index], classes, path))
    return items


def _draw(sample: dict[str, Any], classes: tuple[str, ...], path: Path) -> GalleryItem:
    """Write an item of a batch as JPEG: its pixels are uint8 (3, height, width) in BGR."""
    pixels = np.ascontiguousarray(sample["inputs"].numpy().transpose(1, 2, 0)[..., ::-1])
    instances = sample["data_samples"].gt_instances
    boxes = instances.bboxes.numpy()
    labels = instances.labels.tolist()

    canvas = Canvas(pixels, min_side=SIDE, max_side=SIDE)
    if "masks" in instances:
        canvas.draw_masks(_list_masks(instances.masks, boxes, labels, pixels.shape[:2]))
    names = []
    for box, label in zip(boxes, labels, strict=True):
        color = get_class_color(label)
        canvas.draw_box(box, color, width=4)
        x1, y1, x2, y2 = box.tolist()
        names.append(Label((x1, y1, x2, y2), classes[label], "", color))
    canvas.write_labels(names)

    height, width = pixels.shape[:2]
    counts = [f"{count} {classes[label]}" for label, count in sorted(Counter(labels).items())]
    caption = ", ".join(counts) or "no object"
    return GalleryItem(canvas.save(path, MAX_BYTES), f"{width} x {height} px", caption)


def _list_masks(
    masks: ObjectMasks,
    boxes: NDArray[np.float32],
    labels: Sequence[int],
    shape: tuple[int, int],
) -> list[tuple[MaskPatch, str]]:
    """Return the pixels of each mask inside its box, with the color of its class.

    shape: of the training image, height and width in pixels.
    """
    listed = []
    limits = np.array([shape[1], shape[0]] * 2)
    for place in np.flatnonzero(masks.has_mask).tolist():
        # As large as the box, so that a cell of the grid is a pixel.
        corners = np.concatenate([np.floor(boxes[place, :2]), np.ceil(boxes[place, 2:])])
        left, top, right, bottom = corners.clip(0, limits).astype(int).tolist()
        if right > left and bottom > top:
            box = np.array([[left, top, right, bottom]], np.float32)
            drawn = masks.crop_and_resize(box, (bottom - top, right - left), np.array([place]))
            patch = MaskPatch(left, top, drawn.masks[0].astype(np.bool_))
            listed.append((patch, get_class_color(labels[place])))
    return listed
