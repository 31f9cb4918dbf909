"""What MLflow's pages say of a run, a registered model and a version, in markdown.

Names of classes and datasets come from files that anyone may have written: they are escaped.
"""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from detreg.data.dataset import Dataset
from detreg.evaluation.bootstrap import Interval
from detreg.evaluation.scores import Scores
from detreg.inference.operating_point import OperatingPoint
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.tracking.markdown import escape, quote_code
from detreg.tracking.records import VERSION_MARK

MAX_CLASSES_LISTED = 20
_EXAMPLE_IMAGE = "report/typical_1.jpg"
_LINE_BREAK = "  \n"
_MEANS = ("mAP", "mAP_50", "mAP_75")


@dataclass(frozen=True)
class TrainedModelFacts:
    """What is known of an exported model when it is registered.

    `name` is that of the registered model. `scores` are by split, from 0 to 1, as `mask_scores` of
    a model with masks; `interval` is that of the mAP on val, None where there are too few images.
    """

    run_id: str
    name: str
    template: Template
    params: CommonParams
    dataset: Dataset
    scores: Mapping[str, Scores]
    interval: Interval | None
    point: OperatingPoint
    best_epoch: int
    mask_scores: Mapping[str, Scores] = field(default_factory=dict)

    @property
    def size(self) -> str:
        """The size of images that the model gets, in pixels."""
        return " x ".join(str(side) for side in self.params.image_size)


def describe_run(facts: TrainedModelFacts) -> str:
    """Return the description of a run: what came out, and an image of what the model finds."""
    # MLflow shows four lines, and the rest after a click.
    first_lines = [
        _describe_score(facts),
        _describe_threshold(facts),
        *_describe_classes(facts.scores["val"]),
    ]
    return "\n\n".join(
        [
            _LINE_BREAK.join(first_lines),
            f"{_describe_training(facts)}, on {_describe_dataset(facts.dataset)}.",
            _show_example(facts),
            "The report is the artifact `report/index.html`.",
        ]
    )


def describe_version(facts: TrainedModelFacts) -> str:
    """Return the model card of a version, in which VERSION_MARK stands for its number."""
    uri = shlex.quote(f"models:/{facts.name}/{VERSION_MARK}")
    masks = ", with their masks" if facts.params.has_masks else ""
    return "\n\n".join(
        [
            # The list of versions shows the beginning, as it is written.
            f"mAP {_format(facts.scores['val'].mAP)} on {escape(facts.dataset.name)}: "
            f"{_describe_training(facts)}. It finds {_list_classes(facts.dataset.classes)}{masks}.",
            "**Scores**",
            "\n".join(f"- {line}" for line in _list_scores(facts)),
            _show_example(facts),
            "**Data**",
            f"Trained on {_describe_dataset(facts.dataset)}.",
            "**Limits**",
            _describe_limits(facts),
            "**Use**",
            f"    mlflow models serve -m {uri} --env-manager local --port 5001\n"
            f"    detreg predict {uri} IMAGES",
            f"Run (eid) `{facts.run_id}` has the report, the checkpoints and all hyperparameters.",
        ]
    )


def describe_model(facts: TrainedModelFacts) -> str:
    """Return the description of a registered model, whatever its versions."""
    uri = shlex.quote(f"models:/{facts.name}@champion")
    return (
        f"Object detectors that detreg has trained; the first was `{facts.template.name}` on "
        f"{quote_code(facts.dataset.name)}. The alias `champion` is the version to use, "
        "`challenger` the newest that did not become champion; the tag `reason` of a version says "
        "why.\n\n"
        f"    mlflow models serve -m {uri} --env-manager local --port 5001"
    )


def _describe_score(facts: TrainedModelFacts) -> str:
    val = facts.scores["val"]
    images = facts.dataset.splits["val"].images
    interval = ""
    if facts.interval is not None:
        interval = f" (95 % interval {facts.interval.low:.3f} to {facts.interval.high:.3f})"
    line = f"**mAP {_format(val.mAP)}**{interval}, mAP_50 {_format(val.mAP_50)}"
    line += f" on the {images} images of val"
    if "test" in facts.scores:
        test_images = facts.dataset.splits["test"].images
        line += f"; mAP {_format(facts.scores['test'].mAP)} on the {test_images} of test"
    for name, scores in facts.mask_scores.items():
        line += f"; masks: segm_mAP {_format(scores.mAP)} on {name}"
    return line


def _describe_threshold(facts: TrainedModelFacts) -> str:
    overall = facts.point.overall
    return (
        f"Used from a score of **{overall.score_threshold:g}** on: precision "
        f"{_format(overall.precision)}, recall {_format(overall.recall)} "
        f"({escape(facts.point.split)}, IoU 0.5)"
    )


def _describe_classes(scores: Scores) -> list[str]:
    """Return a line on the best and the worst class; none where fewer than two are scored."""
    scored = {name: value for name, value in scores.per_class.items() if value is not None}
    if len(scored) < 2:
        return []
    best = max(scored, key=lambda name: scored[name])
    worst = min(scored, key=lambda name: scored[name])
    return [
        f"Best class: {escape(best)} (AP {scored[best]:.3f}); "
        f"worst class: {escape(worst)} (AP {scored[worst]:.3f})"
    ]


def _describe_training(facts: TrainedModelFacts) -> str:
    template, params = facts.template, facts.params
    return (
        f"{template.name} with base model {params.base_model} at {facts.size} px, epoch "
        f"{facts.best_epoch} of {params.num_epochs}"
    )


def _describe_dataset(dataset: Dataset) -> str:
    counts = ", ".join(f"{split.images} {name}" for name, split in dataset.splits.items())
    return f"{quote_code(dataset.name)} ({counts} images, digest `{dataset.digest}`)"


def _list_classes(classes: tuple[str, ...]) -> str:
    shown = ", ".join(escape(name) for name in classes[:MAX_CLASSES_LISTED])
    hidden = len(classes) - MAX_CLASSES_LISTED
    return f"{shown} and {hidden} more" if hidden > 0 else shown


def _list_scores(facts: TrainedModelFacts) -> list[str]:
    lines = []
    for name, scores in facts.scores.items():
        images = facts.dataset.splits[name].images
        lines.append(f"{name}, {images} images: {_list_means(scores)}")
        if name in facts.mask_scores:
            lines.append(f"{name}, masks: {_list_means(facts.mask_scores[name])}")
    return [*lines, *_describe_classes(facts.scores["val"]), _describe_threshold(facts)]


def _list_means(scores: Scores) -> str:
    return ", ".join(f"{scores.prefix}{name} {_format(getattr(scores, name))}" for name in _MEANS)


def _show_example(facts: TrainedModelFacts) -> str:
    """Return an image of the run's report. The URL is relative, and so works behind a proxy."""
    return f"![found and missed](get-artifact?path={_EXAMPLE_IMAGE}&run_uuid={facts.run_id})"


def _describe_limits(facts: TrainedModelFacts) -> str:
    scored = facts.scores["val"]
    sizes = {"small": scored.mAP_s, "medium": scored.mAP_m, "large": scored.mAP_l}
    unknown = [size for size, value in sizes.items() if value is None]
    lines = [
        "- The scores hold for images like those of the dataset; others were not tried.",
        f"- Images are resized to {facts.size} px: what has only a few pixels there is not found.",
    ]
    if facts.interval is not None:
        lines.append(
            f"- With other images of the same kind the mAP would lie between "
            f"{facts.interval.low:.3f} and {facts.interval.high:.3f} (95 %)."
        )
    if unknown:
        lines.append(f"- Val has no {' and no '.join(unknown)} objects (as COCO counts sizes).")
    return "\n".join(lines)


def _format(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
