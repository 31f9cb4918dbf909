"""Advice on hyperparameters, each measured for the values that it proposes."""

from collections.abc import Iterator

import numpy as np

from detreg.errors import UsageError
from detreg.inspection.advice import Advice
from detreg.inspection.anchors import choose_ratios, measure_ratio_fit
from detreg.inspection.plan import TrainingPlan
from detreg.inspection.table import BoxTable
from detreg.inspection.training_size import (
    SMALL,
    compute_scales,
    get_anchor_ratios,
    measure_small_share,
    resize_boxes,
)
from detreg.inspection.wording import format_share
from detreg.params import build, get_params, to_changed_texts

MUCH_SMALL = 0.1
"""Share of small boxes from which on a larger image_size is looked for."""
MUCH_SMALLER = 0.5
"""What is left of that share at the proposed size, at most, if any size brings that."""
LARGER = (1.25, 1.5, 1.6, 2.0, 2.5, 3.0, 4.0)
"""By how much image_size is raised, the least first."""
GRID = 32
"""Pixels of which values of image_size are multiples."""

BETTER_FIT = 0.05
"""Share of the boxes that other anchor ratios fit in addition, from which on they are proposed."""

MUCH_SHRUNK = 0.75
"""Of image_size: the median of what is left of the shorter side of long images."""


def advise_on_training(table: BoxTable, plan: TrainingPlan) -> Iterator[Advice]:
    """Yield what other hyperparameters would do for these boxes, each measured."""
    if not len(table.labels):
        return
    yield from _advise_image_size(table, plan)
    yield from _advise_anchor_ratios(table, plan)
    yield from _advise_aspect_ratio(table, plan)


def _advise_image_size(table: BoxTable, plan: TrainingPlan) -> Iterator[Advice]:
    share = _measure_small(table, plan)
    if share < MUCH_SMALL:
        return

    best: tuple[float, TrainingPlan] | None = None
    for larger in _enlarge(plan):
        left = _measure_small(table, larger)
        if best is None or left < best[0]:
            best = (left, larger)
        if left <= MUCH_SMALLER * share:
            break
    if best is None or best[0] >= share:
        return

    left, larger = best
    now = _format_param(plan, "image_size")
    proposed = _format_param(larger, "image_size")
    yield Advice(
        f"{format_share(share)} of the boxes are under {SMALL} px at image_size={now}, "
        f"{format_share(left)} at image_size={proposed}",
        f"--image_size {proposed}",
    )


def _measure_small(table: BoxTable, plan: TrainingPlan) -> float:
    return measure_small_share(resize_boxes(table, compute_scales(table, plan)))


def _enlarge(plan: TrainingPlan) -> Iterator[TrainingPlan]:
    """Yield the plan with larger values of image_size, as far as the template accepts them."""
    for factor in LARGER:
        size = [round(side * factor / GRID) * GRID for side in plan.params.image_size]
        try:
            yield _change(plan, "image_size", ",".join(map(str, size)))
        except UsageError:
            return


def _advise_anchor_ratios(table: BoxTable, plan: TrainingPlan) -> Iterator[Advice]:
    ratios = get_anchor_ratios(plan.params)
    if ratios is None:
        return
    shapes = resize_boxes(table, compute_scales(table, plan))
    box_ratios = shapes[:, 0] / shapes[:, 1]

    proposed = choose_ratios(box_ratios, len(ratios))
    now = measure_ratio_fit(box_ratios, ratios)
    then = measure_ratio_fit(box_ratios, proposed)
    if then - now < BETTER_FIT:
        return

    text = ",".join(f"{ratio:g}" for ratio in proposed)
    present = _format_param(plan, "anchor_ratios")
    yield Advice(
        f"anchor_ratios={text} would fit {format_share(then - now)} more boxes than {present} "
        f"({format_share(then)} in place of {format_share(now)})",
        f"--anchor_ratios {text}",
    )


def _advise_aspect_ratio(table: BoxTable, plan: TrainingPlan) -> Iterator[Advice]:
    """Yield advice where max_aspect_ratio shrinks most images below image_size."""
    params = plan.params
    # At 1 every image is letterboxed into a square, as YOLOX was published.
    if not params.keep_aspect_ratio or params.max_aspect_ratio == 1:
        return

    scales = compute_scales(table, plan)
    shorter = (table.sizes * scales).min(axis=1)
    median = float(np.median(shorter))
    if median > MUCH_SHRUNK * params.image_size[0]:
        return

    wanted = float(np.median(table.sizes.max(axis=1) / table.sizes.min(axis=1)))
    param = get_params(plan.template.params)["max_aspect_ratio"]
    proposed = min(round(wanted + 0.049, 1), param.maximum or wanted)
    larger = _change(plan, "max_aspect_ratio", proposed)
    left = (table.sizes * compute_scales(table, larger)).min(axis=1)
    yield Advice(
        f"half of the images are at most {median:.0f} px on their shorter side in place of "
        f"{params.image_size[0]}, because max_aspect_ratio={params.max_aspect_ratio:g} shrinks "
        f"long ones; at {proposed:g} it is {np.median(left):.0f} px",
        f"--max_aspect_ratio {proposed:g}",
    )


def _format_param(plan: TrainingPlan, name: str) -> str:
    """Return a hyperparameter as its flag takes it."""
    return get_params(plan.template.params)[name].format(getattr(plan.params, name))


def _change(plan: TrainingPlan, name: str, value: object) -> TrainingPlan:
    """Return the plan with another value. Raises UsageError where the template refuses it."""
    values = to_changed_texts(plan.params) | {name: value}
    return TrainingPlan(plan.template, build(plan.template.params, values))
