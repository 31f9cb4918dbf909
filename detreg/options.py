"""Options of a run and of a sweep: what is not a hyperparameter of a template."""

from collections.abc import Mapping
from dataclasses import dataclass

from detreg.defaults import BOX_METRIC, FEW_IMAGES, MASK_METRIC, PUBLISHED
from detreg.errors import UsageError, quote
from detreg.model_names import find_name_problem, make_model_name
from detreg.operating_rule import F1, parse_operating_rule
from detreg.params import AUTO, boolean, choice, integer, integer_or_auto, number_or_auto, text
from detreg.promotion_rule import BETTER, parse_promotion_rule


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run, the same for all templates."""

    data: str = text(
        "sample",
        help="Folder, zip or tar with a COCO, Roboflow, Pascal VOC or YOLO dataset; "
        "sample is a drawn one",
    )
    seed: int = integer(0, 0, 2**31 - 1, 1, help="Seed of everything random")
    registered_model_name: str | None = text(
        None,
        help="Name in the MLflow model registry; none is the template's and the dataset's, such as "
        "yolox-boats",
    )
    recipe: str = choice(
        FEW_IMAGES,
        PUBLISHED,
        help="What per_item_lrate=auto and frozen_stages=auto take, and when Mosaic ends: "
        "few_images is for some hundred to some thousand images, published is as the base model "
        "was trained",
    )
    patience: int | None = integer_or_auto(
        0,
        0,
        200,
        1,
        help="Epochs without a better score on val (metric) before training stops; 0 never stops "
        "early, auto is a third of num_epochs, at least 5",
    )
    metric: str = choice(
        AUTO,
        BOX_METRIC,
        MASK_METRIC,
        help="Score on val by which an epoch is the best: mAP of boxes, or segm_mAP of masks; auto "
        "is segm_mAP where masks are trained, and mAP in a sweep that searches masks",
    )
    precision: str = choice(
        "auto",
        "fp32",
        "bf16",
        "fp16",
        help="Numbers in which backbone, neck and dense head are trained; auto takes bf16 where "
        "the machine computes in it and trial steps are faster, else fp32; fp16 needs a GPU",
    )
    num_workers: int | None = integer_or_auto(
        None,
        0,
        64,
        help="Processes that load images; 0 loads in the training process, auto goes by the cores "
        "that this process may use",
    )
    cache: str = choice(
        "auto",
        "ram",
        "disk",
        "off",
        help="Where the pixels of images are kept between epochs and trainings: auto in files that "
        "fit into half of the free memory, disk in files whatever the memory, ram in shared memory "
        "while the training runs; off reads each image anew every time",
    )
    on_oom: str = choice(
        "shrink",
        "fail",
        help="What happens where the GPU has no memory left in a step: shrink trains fewer images "
        "at a time, with the same batch_size; fail ends the training",
    )
    on_bad_image: str = choice(
        "refuse",
        "skip",
        help="What happens where images of the dataset cannot be used: refuse lists them and ends; "
        "skip trains without them, and counts them in the run",
    )
    operating_point: str = text(
        F1,
        help="What score_threshold=auto goes by: f1 is the best F1 on the val split, precision:0.9 "
        "the most objects found there with at least this precision, recall:0.95 a promise that new "
        "images have this share of their objects found, in expectation, which takes a test split",
    )
    score_threshold: float | None = number_or_auto(
        0.0,
        1.0,
        help="Lowest score of the detections that the model reports where it is used; auto is "
        "found by operating_point; a request may override it",
    )
    promote_if: str = text(
        BETTER,
        help="What a new version has to show against the champion on the same images to become "
        "champion: better, that it is better and not by luck (the 95 % interval of the difference "
        "of mAPs lies over 0); not_worse:0.01, that it is not worse by 0.01 or more; never, "
        "nothing, it is promoted by hand",
    )
    run_name: str | None = text(
        None,
        help="Name of the MLflow run; none is made of template, dataset and image size, such as "
        "yolox boats 640px",
    )

    def choose_model_name(self, template: str, dataset: str) -> str:
        """Return the name under which a template that was trained on a dataset is registered."""
        return self.registered_model_name or make_model_name(template, dataset)

    def choose_metric(self, *, has_masks: bool) -> str:
        """Return the metric of a training, of boxes alone or with masks."""
        if self.metric != AUTO:
            return self.metric
        return MASK_METRIC if has_masks else BOX_METRIC

    def find_metric_problems(self, *, has_masks: bool) -> list[str]:
        """Return what is wrong with the metric of a training, of boxes alone or with masks."""
        if self.metric != MASK_METRIC or has_masks:
            return []
        return [f"metric={MASK_METRIC} needs a training with masks=true; metric=auto needs none"]

    def find_problems(self) -> list[str]:
        """Return what is wrong beside the domains of the single values."""
        problems = []
        if self.registered_model_name is not None:
            problem = find_name_problem(self.registered_model_name)
            problems += [] if problem is None else [problem]
        try:
            parse_operating_rule(self.operating_point)
        except ValueError as error:
            problems.append(f"operating_point must be {error}")
        try:
            parse_promotion_rule(self.promote_if)
        except ValueError as error:
            problems.append(f"promote_if must be {error}")
        return problems


_PRECISION_OF_AMP = {"true": "fp16", "false": "fp32"}


def rename_former_options(values: Mapping[str, object]) -> dict[str, object]:
    """Return the values with `amp`, the option that detreg 0.1 had, as `precision`.

    Raises UsageError for another value than true and false, and for both names at once.
    """
    renamed = dict(values)
    if "amp" not in renamed:
        return renamed

    amp = renamed.pop("amp")
    precision = _PRECISION_OF_AMP.get(str(amp).lower())
    if precision is None:
        raise UsageError(
            f"amp must be true or false, got {quote(amp)}; it is called precision now, and true "
            "means precision=fp16"
        )
    if "precision" in renamed:
        raise UsageError(f"amp={amp} is the former way to say precision={precision}: give one")
    return renamed | {"precision": precision}


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Options of a sweep beside those of a run."""

    trials: int = integer(
        20, 1, 10_000, 1, help="Number of trials, over all machines that work on the sweep"
    )
    space: str | None = text(
        None,
        help="What is searched: name=minimum:maximum:step, name=minimum:maximum:log or "
        "name=value|value, separated by spaces, or a YAML file; "
        "none searches the template's usual ranges",
    )
    memory: bool = boolean(
        True,
        help="Whether the best values of earlier trainings and sweeps on similar datasets are "
        "tried first, after the defaults",
    )
    sampler: str = choice("tpe", "random", help="How the values of a trial are chosen")
    pruner: str = choice(
        "asha",
        "hyperband",
        "median",
        "none",
        help="How trials with a poor val mAP are stopped early",
    )
    budget: str | None = text(
        None,
        help="Duration after which this command ends, such as 90m, 2h or 1h30m; "
        "none waits for all trials",
    )
    confirm: int = integer(
        0,
        0,
        20,
        1,
        help="Number of further seeds with which the best trial and the defaults are trained again",
    )
    workers: int = integer(
        0,
        0,
        64,
        1,
        help="Trials at a time on this machine; 0 is one for each GPU, or one without GPUs",
    )
    storage: str | None = text(
        None,
        help="URL of Optuna's database, such as postgresql://... for many machines; "
        "none is that in DETREG_STORAGE, or detreg-sweeps.db beside MLflow's database, else here",
    )
    study: str | None = text(
        None, help="Name of the study; another name starts a new sweep with the same arguments"
    )
    heartbeat: int = integer(
        30,
        1,
        3600,
        1,
        help="Seconds between a trial's heartbeats; "
        "after four missed ones another worker takes the trial over",
    )
