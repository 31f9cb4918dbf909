"""Boxes as a template sees them in training: at its image size."""

from dataclasses import dataclass

import numpy as np

from detreg.inference.from_template import make_preprocessing
from detreg.inspection.anchors import cluster_shapes, measure_ratio_fit
from detreg.inspection.plan import TrainingPlan
from detreg.inspection.statistics import Anchor, Spread, make_anchors, measure_spread
from detreg.inspection.table import BoxTable, Floats
from detreg.inspection.wording import format_share
from detreg.params import get_params
from detreg.templates.common_params import CommonParams

SMALL = 8
"""Pixels of the shorter side under which a box is hard to learn: the smallest stride of a map."""

NUM_ANCHORS = 9


@dataclass(frozen=True)
class TrainingStatistics:
    """The boxes of a dataset at the size at which a template trains and serves.

    image_size: as text, such as "640".
    small_share: the share of boxes whose shorter side is under `SMALL` pixels, from 0 to 1.
    shorter_side: of boxes, in pixels.
    image_scale: resized size over original size, of the shorter side.
    anchors: shapes in pixels that k-means finds among the boxes.
    anchor_ratios: those of the hyperparameters, None where the template has none.
    fitting_share: the share of boxes that they fit.
    """

    template: str
    image_size: str
    small_share: float
    shorter_side: Spread
    image_scale: Spread
    anchors: tuple[Anchor, ...]
    anchor_ratios: tuple[float, ...] | None = None
    fitting_share: float | None = None

    def __str__(self) -> str:
        """Return a line of the most important numbers."""
        line = (
            f"boxes of {self.template} at image_size={self.image_size}: "
            f"{self.shorter_side.median:.0f} px on the shorter side (median), "
            f"{format_share(self.small_share)} under {SMALL} px"
        )
        if self.anchor_ratios is None or self.fitting_share is None:
            return line
        ratios = ",".join(f"{ratio:g}" for ratio in self.anchor_ratios)
        return f"{line}; anchor_ratios={ratios} fit {format_share(self.fitting_share)}"


def measure_at_training_size(table: BoxTable, plan: TrainingPlan) -> TrainingStatistics:
    """Return the statistics of the boxes after resizing as the hyperparameters ask for.

    It is image_size that counts: `random_resize_lower` and `random_resize_upper` vary around it.
    """
    scales = compute_scales(table, plan)
    shapes = resize_boxes(table, scales)
    ratios = get_anchor_ratios(plan.params)
    fitting_share = None
    if ratios is not None:
        fitting_share = measure_ratio_fit(shapes[:, 0] / shapes[:, 1], ratios)

    size_param = get_params(plan.template.params)["image_size"]
    return TrainingStatistics(
        template=plan.template.name,
        image_size=size_param.format(plan.params.image_size),
        small_share=measure_small_share(shapes),
        shorter_side=measure_spread(shapes.min(axis=1)),
        image_scale=measure_spread(scales.min(axis=1)),
        anchors=make_anchors(shapes, cluster_shapes(shapes, NUM_ANCHORS)),
        anchor_ratios=ratios,
        fitting_share=fitting_share,
    )


def compute_scales(table: BoxTable, plan: TrainingPlan) -> Floats:
    """Return (images, 2), by what factor the width and the height of each image are resized."""
    preprocessing = make_preprocessing(plan.template, plan.params)
    # Datasets have few sizes of images, and many images.
    unique, place_of_image = np.unique(table.sizes, axis=0, return_inverse=True)
    resized = np.empty_like(unique)
    for place, (width, height) in enumerate(unique.astype(int).tolist()):
        resized[place] = preprocessing.compute_resized_size(width, height)
    scales: Floats = (resized / unique)[place_of_image.reshape(-1)]
    return scales


def resize_boxes(table: BoxTable, scales: Floats) -> Floats:
    """Return (boxes, 2), the width and height of each box after its image was resized."""
    return table.box_sizes * scales[table.image_of_box]


def measure_small_share(shapes: Floats) -> float:
    """Return the share of boxes whose shorter side is under `SMALL` pixels."""
    if not len(shapes):
        return 0.0
    return float((shapes.min(axis=1) < SMALL).mean())


def get_anchor_ratios(params: CommonParams) -> tuple[float, ...] | None:
    """Return the anchor ratios, width over height, None for a template that has none."""
    ratios: tuple[float, ...] | None = getattr(params, "anchor_ratios", None)
    return ratios
