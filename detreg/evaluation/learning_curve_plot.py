"""The figure of a learning curve: val mAP by the number of training images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detreg.evaluation.learning_curve import (
    LearningCurve,
    Prediction,
    Trained,
    score_means,
    score_training,
)
from detreg.report.figure import make_figure, save_figure, set_title, tidy_axes
from detreg.report.theme import INK, MUTED, get_class_color

NUM_SIZES = 40


def plot_learning_curve(
    curve: LearningCurve, trainings: Sequence[Trained], prediction: Prediction, path: Path
) -> Path:
    """Draw each training, the means over seeds, and what the curve says up to the prediction."""
    figure = make_figure(4.5)
    axes = figure.subplots()
    color = get_class_color(0)

    sizes = np.geomspace(curve.sizes[0], prediction.images, NUM_SIZES)
    along = [curve.predict(round(size)) for size in sizes]
    lows = [point.interval.low for point in along]
    highs = [point.interval.high for point in along]
    axes.fill_between(sizes, lows, highs, color=color, alpha=0.15, linewidth=0)
    axes.plot(sizes, [point.mAP for point in along], color=color, linewidth=1.5)

    images = [training.images for training in trainings]
    scores = [score_training(training) for training in trainings]
    axes.plot(images, scores, "o", color=MUTED, markersize=4, label="a training")
    means = score_means(trainings)
    axes.plot(list(means), list(means.values()), "o", color=color, markersize=8, label="mean")
    axes.errorbar(
        prediction.images,
        prediction.mAP,
        yerr=[
            [prediction.mAP - prediction.interval.low],
            [prediction.interval.high - prediction.mAP],
        ],
        fmt="D",
        color=INK,
        markerfacecolor="white",
        capsize=4,
        label="twice the images",
    )

    tidy_axes(axes, "val mAP", "Training images")
    ticks = [*means, prediction.images]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, min(1.02, 1.1 * max(*highs, *scores)))
    axes.legend(loc="lower right", frameon=False)
    note = "The band holds 95 % of what curves through resampled val images and seeds say"
    set_title(axes, "mAP by the number of training images", note)
    return save_figure(figure, path)
