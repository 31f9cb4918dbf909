"""Trial steps before a training: real ones on drawn images, which leave no trace.

They find what `precision=auto` and `batch_size=auto` take.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from detreg.data.outlines import Outline
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.training.compose import compose_network, load_published_config
from detreg.training.network import build_network
from detreg.training.object_masks import ObjectMasks
from detreg.training.random_state import RandomState

BOXES = 8
"""Boxes of each image."""


@contextmanager
def leave_no_trace() -> Iterator[None]:
    """Put back, at the end, the random numbers that would have followed, and give memory back."""
    random_state = RandomState.capture()
    torch.set_flush_denormal(True)  # as in a training (engine.py)
    try:
        yield
    finally:
        random_state.restore()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def build_trial_network(template: Template, params: CommonParams, num_classes: int) -> Any:
    """Return a network of its own with random weights, in training mode."""
    published = load_published_config(template, params)
    model = compose_network(template, params, published, num_classes)
    return build_network(model, None).train()


def compute_trial_gradients(network: Any, batch: dict[str, Any]) -> None:
    """Do a step's forward and backward pass."""
    total, _ = network.parse_losses(network(**batch, mode="loss"))
    total.backward()


def draw_batch(count: int, width: int, height: int, with_masks: bool = False) -> dict[str, Any]:
    """Return so many images, and boxes of the first class, as a loader gives them to a network.

    A mask covers the diamond in its box.
    """
    generator = torch.Generator().manual_seed(0)
    images, samples = [], []
    for _ in range(count):
        images.append(
            torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
        )
        # From a corner in the upper left half, a fifth to a half as wide and as high as the image.
        corners = torch.rand(BOXES, 2, generator=generator) / 2
        sizes = 0.2 + 0.3 * torch.rand(BOXES, 2, generator=generator)
        boxes = torch.cat([corners, corners + sizes], dim=1)
        boxes *= torch.tensor([width, height, width, height])

        sample = DetDataSample(
            metainfo={"img_shape": (height, width), "scale_factor": (1.0, 1.0), "flip": False}
        )
        labels = torch.zeros(BOXES, dtype=torch.long)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=labels[:0])
        if with_masks:
            outlines = [_draw_diamond(*box) for box in boxes.tolist()]
            sample.gt_instances.masks = ObjectMasks.make(outlines, height, width)
        samples.append(sample)
    return {"inputs": images, "data_samples": samples}


def _draw_diamond(left: float, top: float, right: float, bottom: float) -> Outline:
    x, y = (left + right) / 2, (top + bottom) / 2
    return Outline(polygons=((x, top, right, y, x, bottom, left, y),))
